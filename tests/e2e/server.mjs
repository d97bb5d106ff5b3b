// The built server as an operator runs it: a process with settings in its environment, its own data and its own ports.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { closeSync, mkdirSync, openSync, readFileSync } from "node:fs";
import { chmod, mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { homedir } from "node:os";
import { join } from "node:path";
import { end, eventually, isAlive } from "./waiting.mjs";

const cache = process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache");
const target = process.env.CARGO_TARGET_DIR ?? join(cache, "plenum/target");
const program = process.env.PLENUM_BIN ?? join(target, "debug/plenum");

/** Where screenshots and logs are left. */
const artifacts = process.env.PLENUM_E2E_ARTIFACTS ?? "/tmp/plenum-e2e";

/**
 * A folder for what one test leaves behind.
 * @param {string} test
 */
export function artifactsOf(test) {
  const folder = join(artifacts, test);
  mkdirSync(folder, { recursive: true });
  return folder;
}

export class Server {
  /** The secret that signs the webhooks. */
  webhookSecret = `whsec_${randomBytes(32).toString("base64")}`;
  /** The secret key of its app. */
  secretKey = randomBytes(24).toString("hex");
  #environment;
  #dataDir;
  #log;
  /** @type {import("node:child_process").ChildProcess | undefined} */
  #process;

  /**
   * @param {string} log
   * @param {string} dataDir
   * @param {number} port
   * @param {Record<string, string>} settings
   */
  constructor(log, dataDir, port, settings) {
    this.#log = log;
    this.#dataDir = dataDir;
    /** Where people and customers reach it. */
    this.url = `http://127.0.0.1:${port}`;
    this.#environment = {
      PATH: process.env.PATH,
      HOME: process.env.HOME,
      NO_COLOR: "1",
      PLENUM_BIND: `127.0.0.1:${port}`,
      PLENUM_DATA_DIR: dataDir,
      PLENUM_BOOTSTRAP_APP: "acme",
      PLENUM_BOOTSTRAP_SECRET_KEY: this.secretKey,
      PLENUM_BOOTSTRAP_WEBHOOK_SECRET: this.webhookSecret,
      PLENUM_ALLOW_PRIVATE_WEBHOOKS: "1",
      ...settings,
    };
  }

  /**
   * A server that is ready, with a fresh data directory, on free ports; its log is in `folder`.
   * @param {string} folder
   * @param {Record<string, string>} [settings]
   */
  static async start(folder, settings = {}) {
    const dataDir = await mkdtemp("/tmp/plenum-e2e-data-");
    await chmod(dataDir, 0o755); // Postgres never runs as root: its user must get through
    const mediaPort = String(await freeUdpPort());
    const log = join(folder, "server.log");
    await rm(log, { force: true });
    const server = new Server(log, dataDir, await freeTcpPort(), {
      PLENUM_MEDIA_PORT_BASE: mediaPort,
      ...settings,
    });
    try {
      await server.run();
    } catch (error) {
      await server.remove();
      throw error;
    }
    return server;
  }

  /** Starts the process, the first time or again, and waits until it is ready. */
  async run() {
    const log = openSync(this.#log, "a");
    const child = spawn(program, ["serve"], { env: this.#environment, stdio: ["ignore", log, log] });
    closeSync(log);
    this.#process = child;
    /** @type {Error | undefined} */
    let notStarted;
    child.on("error", (error) => {
      notStarted = error;
    });
    await eventually(`the server is ready (${this.#log})`, START_MS, () => {
      assert.ifError(notStarted);
      assert.equal(child.exitCode, null, `the server ended at its start:\n${this.#logTail()}`);
      return fetch(`${this.url}/ready`).then(
        (answer) => answer.ok,
        () => false,
      );
    });
  }

  /** Kills the process in the middle of whatever it does. */
  async kill() {
    const child = this.#running();
    child.kill("SIGKILL");
    await once(child, "exit");
  }

  /**
   * Stops the process as an operator does.
   * @returns {Promise<number | null>} its exit code
   */
  stop() {
    return end(this.#running(), STOP_MS);
  }

  /** Ends the process however it is, waits for its database, and removes the data. */
  async remove() {
    const postgres = await this.postgresPid();
    if (this.#process !== undefined) {
      await end(this.#process, STOP_MS);
    }
    if (postgres !== undefined) {
      await eventually("the database ends with its server", STOP_MS, () => !isAlive(postgres));
    }
    await rm(this.#dataDir, { recursive: true, force: true });
  }

  /** The process id of the private database, while it runs. */
  async postgresPid() {
    const file = await readFile(join(this.#dataDir, "postgres/postmaster.pid"), "utf8").catch(
      () => undefined,
    );
    return file === undefined ? undefined : Number.parseInt(file, 10);
  }

  /**
   * Creates a room as a customer does.
   * @param {Record<string, unknown>} room
   * @returns {Promise<string>} the link that its people get
   */
  async createRoom(room) {
    const answer = await this.#call("POST", "/api/v1/room", room);
    return `${this.url}/${answer.roomName}`;
  }

  /**
   * Deletes a room as a customer does.
   * @param {string} roomName
   */
  async deleteRoom(roomName) {
    await this.#call("DELETE", `/api/v1/room/${roomName}`);
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {unknown} [body]
   */
  async #call(method, path, body) {
    const answer = await fetch(this.url + path, {
      method,
      headers: { authorization: `Bearer ${this.secretKey}`, "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${text}`);
    return JSON.parse(text);
  }

  #running() {
    assert.ok(this.#process?.exitCode === null, `the server has ended by itself:\n${this.#logTail()}`);
    return this.#process;
  }

  #logTail() {
    return readFileSync(this.#log, "utf8").split("\n").slice(-20).join("\n");
  }
}

async function freeTcpPort() {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = /** @type {import("node:net").AddressInfo} */ (probe.address());
  probe.close();
  await once(probe, "close");
  return port;
}

async function freeUdpPort() {
  const probe = createSocket("udp4").bind(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address();
  probe.close();
  await once(probe, "close");
  return port;
}

/** A first start makes a database cluster. */
const START_MS = 60_000;
const STOP_MS = 15_000;
