// The other end of receiver.mjs: what it has received so far.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { end, eventually } from "./waiting.mjs";

/**
 * @typedef {object} Received
 * @property {string} id       the `webhook-id` header
 * @property {string | null} problem   why it could not be verified
 * @property {Record<string, any>} body
 */

export class Receiver {
  /** @type {Received[]} in the order of arrival */
  received = [];
  #process;
  /** @type {number | undefined} */
  #port;

  /** @param {import("node:child_process").ChildProcessByStdio<null, import("node:stream").Readable, null>} child */
  constructor(child) {
    this.#process = child;
    createInterface({ input: child.stdout }).on("line", (line) => {
      const written = JSON.parse(line);
      if (written.port === undefined) {
        this.received.push(written);
      } else {
        this.#port = written.port;
      }
    });
  }

  /**
   * Starts a receiver that answers every request with `status`.
   * @param {string} secret
   * @param {{ port?: number, status?: number }} [options]
   */
  static async start(secret, { port = 0, status = 200 } = {}) {
    const script = fileURLToPath(new URL("receiver.mjs", import.meta.url));
    const child = spawn(process.execPath, [script, String(port), String(status)], {
      env: { WEBHOOK_SECRET: secret },
      stdio: ["ignore", "pipe", "inherit"],
    });
    const receiver = new Receiver(child);
    await eventually("the webhook receiver listens", 10_000, () => receiver.#port);
    return receiver;
  }

  get port() {
    assert.ok(this.#port);
    return this.#port;
  }

  /** The fields of a room that bring all its events here. */
  get urls() {
    const url = `http://127.0.0.1:${this.port}/hooks`;
    return {
      meetingStartedWebhook: url,
      meetingJoinWebhook: url,
      meetingLeftWebhook: url,
      meetingEndedWebhook: url,
    };
  }

  /**
   * Waits for so many events, checks every signature and that none came twice, and returns their bodies.
   * @param {number} count
   * @param {number} withinMs
   */
  async events(count, withinMs) {
    const arrived = () => this.received.map(({ body }) => body.event).join(", ") || "none";
    await eventually(`${count} webhooks arrive`, withinMs, () => this.received.length >= count).catch(() =>
      assert.fail(`not ${count} webhooks within ${withinMs / 1000} s, but: ${arrived()}`),
    );
    for (const { problem, body } of this.received) {
      assert.equal(problem, null, `the signature of ${body.event} does not verify`);
    }
    const ids = this.received.map(({ id }) => id);
    assert.equal(new Set(ids).size, ids.length, "an event came twice");
    return this.received.map(({ body }) => body);
  }

  stop() {
    return end(this.#process);
  }
}
