/** `src/openapi.ts` is what `npm run generate` makes of the API document of today. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { DOCUMENT } from "./support.mjs";

test("the generated types are not stale", async () => {
  const here = fileURLToPath(new URL("..", import.meta.url));
  const directory = await mkdtemp(path.join(os.tmpdir(), "keyledger-openapi-"));
  try {
    const made = path.join(directory, "openapi.ts");
    const tool = path.join(here, "node_modules", ".bin", "openapi-typescript");
    await promisify(execFile)(tool, [fileURLToPath(DOCUMENT), "-o", made], { cwd: here });
    const [kept, fresh] = await Promise.all([readFile(path.join(here, "src", "openapi.ts"), "utf8"), readFile(made, "utf8")]);
    // Not `equal`: its report would print both.
    assert.ok(kept === fresh, "docs/openapi.json has changed: npm run generate");
  } finally {
    await rm(directory, { recursive: true });
  }
});
