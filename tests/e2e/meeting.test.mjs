// The main job, end to end: a room by REST, people in it who see and hear each other, its rules kept, its webhooks delivered.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { closeBrowser, launchBrowser, Person } from "./browser.mjs";
import { artifactsOf, Server } from "./server.mjs";
import { eventually } from "./waiting.mjs";
import { Receiver } from "./webhooks.mjs";

const folder = artifactsOf("meeting");
/** @type {Server} */
let server;
/** @type {Receiver} */
let receiver;
/** @type {import("playwright-core").Browser} */
let browser;

before(async () => {
  browser = await launchBrowser();
  server = await Server.start(folder);
  receiver = await Receiver.start(server.webhookSecret);
});

after(async () => {
  await closeBrowser(browser, folder);
  await server?.remove();
  await receiver?.stop();
});

test("three people meet until their room expires, and the customer is told", {
  timeout: 90_000,
}, async (t) => {
  const everyone = await Promise.all(
    ["Amara Okafor", "Jonas Weber", "Mei Tanaka", "Diego Ruiz"].map((name) => Person.arrive(browser, name)),
  );
  const people = everyone.slice(0, 3);
  const [amara, jonas, mei, fourth] = everyone;
  assert.ok(amara && jonas && mei && fourth);
  const expireUnixSec = Math.ceil(Date.now() / 1000) + MEETING_SECONDS;
  const link = await server.createRoom({
    roomName: "weekly-review",
    maxParticipants: 3,
    enableChat: true,
    expireUnixSec,
    ejectAtRoomExp: true,
    ...receiver.urls,
  });

  await Promise.all(people.map((person) => person.openLobby(link)));
  await amara.screenshot(folder, "lobby");
  for (const person of people) {
    await person.join();
    await person.isIn();
  }
  await Promise.all(people.map((person) => person.seesAndHears(people.filter((other) => other !== person))));

  await fourth.openLobby(link);
  await fourth.join();
  assert.equal(await fourth.endScreenCode(), "ROOM_FULL");
  await fourth.screenshot(folder, "full");

  const said = "Shall we start? <b>bold</b>";
  await amara.say(said);
  await jonas.say("Yes.");
  await eventually("the chat reaches everyone", 5000, async () => {
    const chats = await Promise.all(people.map((person) => person.chat()));
    return chats.every((chat) => [...chat].sort().join() === [said, "Yes."].sort().join());
  });
  await amara.screenshot(folder, "meeting");
  await mei.screenshot(folder, "meeting-without-chat");

  const remainingMs = expireUnixSec * 1000 - Date.now();
  assert.ok(
    remainingMs > 0,
    `this machine was ${-remainingMs} ms too slow to look at the meeting before its end`,
  );
  for (const person of people) {
    await person.page.getByTestId("end-screen").waitFor({ timeout: remainingMs + 5000 });
    assert.equal(await person.endScreenCode(), "roomExpired");
    const lateMs = (await person.endSeenAt()) - expireUnixSec * 1000;
    assert.ok(lateMs >= 0, `${person.name} was out ${-lateMs} ms before the room expired`);
    assert.ok(lateMs <= 500, `${person.name} was out ${lateMs} ms after the room expired`);
    t.diagnostic(`${person.name} was out ${lateMs} ms after the expiry`);
    const ended = person.frames.find(({ type }) => type === "ended");
    assert.ok(ended?.timestamp >= expireUnixSec * 1000, `told too early: ${JSON.stringify(ended)}`);
    assert.deepEqual(person.errors, [], `on the page of ${person.name}`);
  }
  await amara.screenshot(folder, "ended");

  await fourth.page.getByTestId("again-button").click();
  await eventually("who comes later is told that the room has expired", 10_000, async () => {
    return (await fourth.endScreenCode()) === "ROOM_EXPIRED";
  });

  const events = await receiver.events(8, 15_000);
  assert.deepEqual(
    events.map(({ event, seq }) => [event, seq - events[0]?.seq]),
    [
      ["meetingStarted", 0],
      ["participantJoined", 1],
      ["participantJoined", 2],
      ["participantJoined", 3],
      ["participantLeft", 4],
      ["participantLeft", 5],
      ["participantLeft", 6],
      ["meetingEnded", 7],
    ],
    "every event once, in the order in which they happened",
  );
  const joins = events.filter(({ event }) => event === "participantJoined");
  const leaves = events.filter(({ event }) => event === "participantLeft");
  const names = people.map(({ name }) => name);
  assert.deepEqual(
    joins.map(({ name }) => name),
    names,
  );
  assert.deepEqual(leaves.map(({ name }) => name).sort(), [...names].sort());
  for (const leave of leaves) {
    const join = joins.find(
      ({ participantSessionId }) => participantSessionId === leave.participantSessionId,
    );
    const seconds = expireUnixSec - Math.floor(Date.parse(join?.joinTime) / 1000);
    assert.equal(leave.leaveReason, "roomExpired");
    assert.equal(leave.durationSec, seconds, `the whole seconds of ${leave.name} from join to expiry`);
  }
  const ended = events.at(-1);
  assert.deepEqual([ended?.endReason, ended?.participantCount], ["roomExpired", 3]);
  for (const { app, roomName, meetingSessionId } of events) {
    assert.deepEqual(
      [app, roomName, meetingSessionId],
      [events[0]?.app, "weekly-review", ended?.meetingSessionId],
    );
  }
});

/** From the room's creation to its expiry: enough for a small machine to bring three browsers in and look. */
const MEETING_SECONDS = 30;
