// A meeting that keeps its own time: a room that opens later refuses with its opening time and lets in on the second, a
// participant is warned and put out on the second, and a webhook receiver hears of it all and checks every signature.
// usage: PLENUM_SECRET_KEY=<your secret key> node --experimental-websocket examples/on-time.mjs [<address of Plenum>]
//
// Plenum must be allowed to call this machine: start it with PLENUM_ALLOW_PRIVATE_WEBHOOKS=1.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const url = process.argv[2] ?? "http://localhost:8080";
const OPENS_IN = Number(process.env.OPENS_IN ?? 60); // seconds
const MAY_STAY = Number(process.env.MAY_STAY ?? 75); // seconds; the warning comes a minute before they are over

const started = Date.now();
const say = (...words) => console.log(`${((Date.now() - started) / 1000).toFixed(1).padStart(6)} s `, ...words);

/** Calls the API, and throws what it says where that is no. */
async function call(method, path, body) {
  const answer = await fetch(url + path, {
    method,
    headers: { authorization: `Bearer ${process.env.PLENUM_SECRET_KEY}`, "content-type": "application/json" },
    body: body && JSON.stringify(body),
  });
  const result = await answer.json();
  if (!answer.ok) {
    throw new Error(`${method} ${path}: ${answer.status} ${result.message}`);
  }
  return result;
}

/** Whether Plenum sent this, and not long ago: what the libraries of standardwebhooks.com do. */
function isSigned({ headers }, body, secret) {
  const [id, timestamp] = [headers["webhook-id"], headers["webhook-timestamp"]];
  const key = Buffer.from(secret.replace("whsec_", ""), "base64");
  const right = createHmac("sha256", key).update(`${id}.${timestamp}.${body}`).digest();
  const signatures = (headers["webhook-signature"] ?? "").split(" ").map((text) => Buffer.from(text.slice(3), "base64"));
  const isRight = (signature) => signature.length === right.length && timingSafeEqual(signature, right);
  return Math.abs(Date.now() / 1000 - timestamp) < 300 && signatures.some(isRight);
}

let secret;
let isOver;
const over = new Promise((resolve) => {
  isOver = resolve;
});
const receiver = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) {
    chunks.push(chunk);
  }
  const body = Buffer.concat(chunks).toString();
  const good = isSigned(request, body, secret);
  response.writeHead(good ? 200 : 401).end();
  const { event, roomName, leaveReason, endReason } = JSON.parse(body);
  say(`webhook: ${event} of ${roomName}`, leaveReason ?? endReason ?? "", good ? "(signature right)" : "(SIGNATURE WRONG)");
  if (event === "meetingEnded") {
    isOver();
  }
});
await new Promise((resolve) => receiver.listen(0, "127.0.0.1", resolve));

const endpoint = await call("POST", "/api/v1/webhooks", {
  url: `http://127.0.0.1:${receiver.address().port}/`,
  events: ["meeting*", "participant*"],
});
secret = endpoint.secret;

const opensAt = Math.floor(Date.now() / 1000) + OPENS_IN;
const { roomName } = await call("POST", "/api/v1/room", {
  notBeforeUnixSec: opensAt,
  ejectAfterElapsedTimeInSec: MAY_STAY,
  endWhenEmptyAfterSec: 1,
});
say(`room ${roomName} opens at ${new Date(opensAt * 1000).toLocaleTimeString()}, and each may stay for ${MAY_STAY} s`);

const socket = new WebSocket(`${url.replace("http", "ws")}/ws`);
const join = () => socket.send(JSON.stringify({ type: "join", roomId: roomName, name: "Ann" }));
socket.onopen = join;
socket.onmessage = ({ data }) => {
  const frame = JSON.parse(data);
  switch (frame.type) {
    case "error":
      say(`refused: ${frame.code}, ${frame.message}`);
      if (frame.opensAtUnixSec) {
        say(`… it opens at ${new Date(frame.opensAtUnixSec * 1000).toLocaleTimeString()}; waiting on the same socket`);
      }
      break;
    case "room-open":
      say("the room is open: joining");
      join();
      break;
    case "participant-joined":
      say(`in, as ${frame.name}`);
      break;
    case "warning":
      say(`warned: ${frame.reason}, ${frame.secondsLeft} s left`);
      break;
    case "ended":
      say(`put out: ${frame.reason}`);
      break;
  }
};
socket.onclose = () => say("the server closed the socket");

await over;
await call("DELETE", `/api/v1/webhooks/${endpoint._id}`);
await call("DELETE", `/api/v1/room/${roomName}`);
receiver.close();
