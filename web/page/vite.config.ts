import { defineConfig } from "vite";

// Names that stay: the server has the files inside.
export default defineConfig({
  build: {
    target: "es2022",
    modulePreload: { polyfill: false },
    rollupOptions: { output: { entryFileNames: "page.js", chunkFileNames: "page-[name].js", assetFileNames: "page[extname]" } },
  },
  // In development the API is a running `cargo run`.
  server: { proxy: { "/api": "http://127.0.0.1:8787" } },
});
