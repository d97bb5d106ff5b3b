// Creates a room that only people with a token may join, and prints a link for its moderator and one for a guest.
// usage: PLENUM_SECRET_KEY=<your secret key> node examples/create-room.mjs [<address of Plenum>]

const url = process.argv[2] ?? "http://localhost:8080";

/** Calls the API, and throws what it says where that is no. */
async function call(path, body) {
  const answer = await fetch(url + path, {
    method: "POST",
    headers: { authorization: `Bearer ${process.env.PLENUM_SECRET_KEY}`, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const result = await answer.json();
  if (!answer.ok) {
    throw new Error(`${path}: ${answer.status} ${result.message}`);
  }
  return result;
}

const now = Math.floor(Date.now() / 1000);
const { roomName } = await call("/api/v1/room", { privacy: "private", expireUnixSec: now + 3600, ejectAtRoomExp: true });
const moderator = await call("/api/v1/token", { roomName, isAdmin: true, name: "Ann" });
const guest = await call("/api/v1/token", { roomName, name: "Bob" });
console.log(`moderator: ${url}/${roomName}?token=${moderator.token}`);
console.log(`guest:     ${url}/${roomName}?token=${guest.token}`);
