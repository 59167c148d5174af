import { defineConfig, type Plugin } from "vite";

/**
 * A build for another host (`VITE_API_URL`, `VITE_CLERK_FRONTEND_API`) knows which two hosts it needs, and
 * vercel.json's header does not: the page itself names them, and a browser keeps to both.
 */
function policy(): Plugin {
  const { VITE_API_URL: api, VITE_CLERK_FRONTEND_API: clerk } = process.env;
  if (!api || !clerk) return { name: "policy" };
  const [apiOrigin, clerkOrigin] = [new URL(api).origin, new URL(clerk).origin];
  const content = `script-src 'self' ${clerkOrigin}; connect-src ${apiOrigin} ${clerkOrigin}`;
  return { name: "policy", transformIndexHtml: () => [{ tag: "meta", attrs: { "http-equiv": "Content-Security-Policy", content }, injectTo: "head-prepend" }] };
}

// Names that stay: the server has the files inside.
export default defineConfig({
  plugins: [policy()],
  build: {
    target: "es2022",
    modulePreload: { polyfill: false },
    rollupOptions: { output: { entryFileNames: "page.js", chunkFileNames: "page-[name].js", assetFileNames: "page[extname]" } },
  },
  // In development the API is a running `cargo run`.
  server: { proxy: { "/api": "http://127.0.0.1:8787" } },
});
