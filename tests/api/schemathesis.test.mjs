// The server does what its OpenAPI document says, for whatever requests schemathesis thinks of.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";

import { Server, artifactsOf } from "../e2e/server.mjs";
import { python } from "./python.mjs";

test("the server holds to its OpenAPI document", async () => {
  const folder = artifactsOf("schemathesis");
  // All that it asks is to be answered: it asks more, and with more wrong keys, than the limits let anybody.
  const most = "1000000";
  const server = await Server.start(folder, {
    PLENUM_RATE_PER_SECOND: most,
    PLENUM_RATE_BURST: most,
    PLENUM_UNAUTHORIZED_PER_MINUTE: most,
  });
  try {
    const settings = join(import.meta.dirname, "schemathesis.toml");
    const seconds = process.env.PLENUM_SCHEMATHESIS_SECONDS ?? "60";
    const run = spawnSync(
      python("schemathesis"),
      // With the seed, the first requests are the same in each run.
      ["--config-file", settings, "run", `${server.url}/openapi.json`].concat(
        ["--max-time", seconds, "--seed", "1", "--continue-on-failure", "--no-color"],
      ),
      {
        cwd: folder, // where it leaves what it found
        env: { PATH: process.env.PATH, HOME: process.env.HOME, PLENUM_SECRET_KEY: server.secretKey },
        encoding: "utf8",
        timeout: 120_000,
      },
    );
    assert.equal(run.status, 0, `${run.stdout}${run.stderr}`);
  } finally {
    await server.remove();
  }
});
