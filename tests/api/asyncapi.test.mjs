// AsyncAPI's own parser reads the description of signaling, examples included.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { Parser } from "@asyncapi/parser";

const file = new URL("../../openapi/signaling.asyncapi.yaml", import.meta.url);

test("the description of signaling is AsyncAPI", async () => {
  const { document, diagnostics } = await new Parser().parse(await readFile(file, "utf8"));
  assert.deepEqual(diagnostics, []);
  assert.ok(document && document.allMessages().length > 0);
});
