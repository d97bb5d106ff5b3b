// A server that is killed in a meeting and started again: who returns goes on, who does not is closed, nothing is lost.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { closeBrowser, launchBrowser, Person } from "./browser.mjs";
import { artifactsOf, Server } from "./server.mjs";
import { eventually } from "./waiting.mjs";
import { Receiver } from "./webhooks.mjs";

const folder = artifactsOf("crash");
/** @type {Server} */
let server;
/** @type {Receiver} */
let receiver;
/** @type {import("playwright-core").Browser} */
let browser;

before(async () => {
  browser = await launchBrowser();
  server = await Server.start(folder, { PLENUM_WEBHOOK_RETRIES: Array(60).fill("1s").join() });
});

after(async () => {
  await closeBrowser(browser, folder);
  await server?.remove();
  await receiver?.stop();
});

test("after a crash the stays go on or are closed, and every event is delivered", {
  timeout: 120_000,
}, async () => {
  receiver = await Receiver.start(server.webhookSecret, { status: 503 });
  const [ann, ben, cem] = await Promise.all(
    ["Ann", "Ben", "Cem"].map((name) => Person.arrive(browser, name)),
  );
  assert.ok(ann && ben && cem);
  const link = await server.createRoom({ roomName: "standup", autoJoin: true, ...receiver.urls });
  for (const person of [ann, ben]) {
    await person.page.goto(`${link}?name=${person.name}`); // no lobby: the room joins by itself
    await person.isIn();
  }
  await Promise.all([ann.seesAndHears([ben]), ben.seesAndHears([ann])]);
  await eventually("the receiver has refused an event", 10_000, () => receiver.received.length > 0);

  const killedAt = Date.now();
  await server.kill();
  await ben.vanish(); // and nobody is there to notice
  await ann.page.getByTestId("reconnecting").waitFor();
  await ann.screenshot(folder, "reconnecting");
  const refused = receiver.received;
  await receiver.stop();
  receiver = await Receiver.start(server.webhookSecret, { port: receiver.port });
  await server.run();

  await ann.page.getByTestId("reconnecting").waitFor({ state: "detached", timeout: 30_000 });
  assert.equal(await ann.ending(), undefined, "who is still there comes back to her place");
  assert.equal(await ann.peopleCount(), 2, "the place of who is away is kept");
  await cem.page.goto(`${link}?name=${cem.name}`);
  await cem.isIn();
  await eventually("the place of who does not return is given up", 45_000, async () => {
    return (await ann.peopleCount()) === 2 && (await cem.peopleCount()) === 2;
  });
  await Promise.all([ann.seesAndHears([cem]), cem.seesAndHears([ann])]);
  await ann.screenshot(folder, "back");

  await server.deleteRoom("standup");
  assert.deepEqual([await ann.endScreenCode(), await cem.endScreenCode()], ["roomDeleted", "roomDeleted"]);

  const events = (await receiver.events(8, 20_000)).sort((a, b) => a.seq - b.seq);
  assert.deepEqual(
    events.map(({ event }) => event),
    [
      "meetingStarted",
      ...["participantJoined", "participantJoined", "participantJoined"],
      ...["participantLeft", "participantLeft", "participantLeft"],
      "meetingEnded",
    ],
  );
  const joins = events.filter(({ event }) => event === "participantJoined");
  assert.deepEqual(
    joins.map(({ name }) => name),
    ["Ann", "Ben", "Cem"],
    "who came back did not join again",
  );
  const leaves = events.filter(({ event }) => event === "participantLeft");
  assert.deepEqual(Object.fromEntries(leaves.map(({ name, leaveReason }) => [name, leaveReason])), {
    Ann: "roomDeleted",
    Ben: "serverCrash",
    Cem: "roomDeleted",
  });
  assert.equal(events.at(-1)?.endReason, "roomDeleted");
  const leftAt = Date.parse(leaves[0]?.leftTime);
  assert.ok(
    leftAt <= killedAt && killedAt - leftAt < LEASE_MS,
    `a stay that a crash ended is counted up to the last sign of life of the server: ${killedAt - leftAt} ms before`,
  );
  const ids = new Set(receiver.received.map(({ id }) => id));
  assert.ok(
    refused.every(({ id }) => ids.has(id)),
    "what was refused before the crash came again, under the same id",
  );
});

/** A meeting's lease is renewed more often than this. */
const LEASE_MS = 6000;
