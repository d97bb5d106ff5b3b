// The samples of Metered's reference page create rooms here. `samples/` has them as they are printed; what is changed before
// they run stands below.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Server, artifactsOf } from "../e2e/server.mjs";
import { python } from "./python.mjs";

const folder = artifactsOf("samples");
let server;
before(async () => {
  server = await Server.start(folder);
});
after(() => server?.remove());

const samples = [
  { file: "create.sh", program: ["bash"] },
  {
    file: "create.cjs",
    program: ["node"],
    // It has no name and is not called, which no JavaScript is.
    change: (text) => text.replace("async function (){", "(async function (){").replace(/}\s*$/, "})()"),
  },
  { file: "create.py", program: [python("python")], change: withKey },
  {
    file: "create.rb",
    program: ["ruby"],
    // The test's server has no certificate.
    change: (text) => withKey(text).replace("use_ssl = true", "use_ssl = false"),
  },
  { file: "create.go", program: ["go", "run"] },
];

for (const { file, program, change = (text) => text } of samples) {
  test(`${file} creates a room as it is printed`, async () => {
    const printed = readFileSync(new URL(`samples/${file}`, import.meta.url), "utf8");
    const text = change(printed)
      .replace(/https:\/\/(appname|yourapp)\.metered\.live/, server.url)
      .replace(/\{replace_this_with_your_secretKey\}|your_secret_key/, server.secretKey);
    const path = join(folder, file);
    writeFileSync(path, text);
    const [command, ...before] = program;
    const said = execFileSync(command, [...before, path], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        PATH: process.env.PATH,
        HOME: process.env.HOME,
        NODE_PATH: join(import.meta.dirname, "node_modules"),
      },
      timeout: 60_000, // Go compiles first
    });
    const [, id] = said.match(/_id["']?: ?["']([0-9a-f]{24})["']/) ?? assert.fail(said);
    const [, name] = said.match(/roomName["']?: ?["']([\w-]+)["']/) ?? assert.fail(said);
    const room = await fetch(`${server.url}/api/v1/room/${name}?secretKey=${server.secretKey}`);
    assert.equal((await room.json())._id, id, said);
    await server.deleteRoom(name); // its name is used by more than one sample
  });
}

/** These two are printed without a key. */
function withKey(text) {
  return text.replace("/api/v1/room", "/api/v1/room?secretKey=your_secret_key");
}
