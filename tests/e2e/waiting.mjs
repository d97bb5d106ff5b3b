// Waiting for what other processes do: always bounded, and what was waited for is in the failure.
import assert from "node:assert/strict";
import { once } from "node:events";
import { setTimeout as pause } from "node:timers/promises";

/**
 * Asks `probe` until it answers with something truthy, and returns that.
 * @template T
 * @param {string} what  what is waited for; the failure says that it did not happen
 * @param {number} withinMs
 * @param {() => T | Promise<T>} probe
 * @returns {Promise<NonNullable<T>>}
 */
export async function eventually(what, withinMs, probe) {
  const until = Date.now() + withinMs;
  let last;
  do {
    last = await probe();
    if (last) {
      return last;
    }
    await pause(100);
  } while (Date.now() < until);
  return assert.fail(`not within ${withinMs / 1000} s: ${what}`);
}

/**
 * Whether a process is there.
 * @param {number} pid
 */
export function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/**
 * Ends a child, at first kindly, and waits until it is gone.
 * @param {import("node:child_process").ChildProcess} child
 * @param {number} [graceMs]
 * @returns {Promise<number | null>} its exit code
 */
export async function end(child, graceMs = 10_000) {
  if (child.exitCode === null && child.signalCode === null) {
    child.kill("SIGTERM");
    const impatience = setTimeout(() => child.kill("SIGKILL"), graceMs);
    await once(child, "exit");
    clearTimeout(impatience);
  }
  return child.exitCode;
}
