// The version and the integrity in src/clerk.ts belong together: held against the npm package's own file, by
// hand and by a browser, which runs that file and no other. Prints the integrity where it is another.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const source = readFileSync(new URL("../src/clerk.ts", import.meta.url), "utf8");
/** Of a constant in src/clerk.ts. */
const pinned = (name) => source.match(new RegExp(`^const ${name} = "(.+)";$`, "m"))[1];
export const VERSION = pinned("VERSION");
export const INTEGRITY = pinned("INTEGRITY");
export const integrityOf = (bytes) => `sha384-${createHash("sha384").update(bytes).digest("base64")}`;

/** dist/clerk.browser.js of the pinned version, from the npm registry. */
export function packaged() {
  if (!/^5\.\d+\.\d+$/.test(VERSION)) throw new Error(`${VERSION} is no exact version`);
  const folder = mkdtempSync(join(tmpdir(), "clerk-js-"));
  try {
    const packed = execFileSync("npm", ["pack", "--silent", "--pack-destination", folder, `@clerk/clerk-js@${VERSION}`], { encoding: "utf8", cwd: folder });
    const archive = join(folder, packed.trim().split("\n").at(-1));
    return execFileSync("tar", ["-xzOf", archive, "package/dist/clerk.browser.js"], { maxBuffer: 64 * 1024 * 1024 });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const integrity = integrityOf(packaged());
  if (integrity !== INTEGRITY) throw new Error(`src/clerk.ts: the integrity of @clerk/clerk-js ${VERSION} is ${integrity}`);
  console.log(`@clerk/clerk-js ${VERSION} has the pinned integrity`);
}
