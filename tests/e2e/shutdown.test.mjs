// A server that is told to stop.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { closeBrowser, launchBrowser, Person } from "./browser.mjs";
import { artifactsOf, Server } from "./server.mjs";
import { isAlive } from "./waiting.mjs";

const folder = artifactsOf("shutdown");
/** @type {Server} */
let server;
/** @type {import("playwright-core").Browser} */
let browser;

before(async () => {
  browser = await launchBrowser();
  server = await Server.start(folder);
});

after(async () => {
  await closeBrowser(browser, folder);
  await server?.remove();
});

test("SIGTERM stops the server in order, with its database, while people meet", {
  timeout: 60_000,
}, async () => {
  const ann = await Person.arrive(browser, "Ann");
  const link = await server.createRoom({ roomName: "standup", autoJoin: true });
  await ann.page.goto(`${link}?name=Ann`);
  await ann.isIn();
  const postgres = await server.postgresPid();
  assert.ok(postgres !== undefined && isAlive(postgres), "the private database runs");

  assert.equal(await server.stop(), 0, "the exit code");
  assert.ok(!isAlive(postgres), "the database has ended before the server");
  assert.equal(await server.postgresPid(), undefined, "the database has ended in order");
  await ann.page.getByTestId("reconnecting").waitFor(); // her place is kept for the next start
});
