import { homedir } from "node:os";
import { join } from "node:path";

/**
 * A program of the Python environment that script/setup --test makes.
 * @param {string} name
 */
export function python(name) {
  const cache = process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache");
  return join(cache, "plenum/python/bin", name);
}
