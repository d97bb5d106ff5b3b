/** The meeting page of one room: from the lobby through the meeting to the screen that says how it ended. */
import { type Kind, OwnDevices } from "./devices.ts";
import { type Ending, Meeting } from "./meeting.ts";
import { readRoom } from "./room.ts";
import { text } from "./text.ts";
import { nameInToken } from "./token.ts";
import { endingScreen, waitingScreen } from "./ui/end.ts";
import { Lobby } from "./ui/lobby.ts";
import { MeetingView } from "./ui/meeting.ts";
import { restoreTheme } from "./ui/theme.ts";

const NAME_KEY = "plenum.name";
const DEVICE_KEYS: Record<Kind, string> = { camera: "plenum.camera", microphone: "plenum.microphone" };

const room = readRoom(document, location);
const query = new URLSearchParams(location.search);
const token = query.get("token") || undefined;
/** Asked for in the lobby of a room that has one, unless the person has a token. */
const asksPassword = room.state === "password" && token === undefined;
const givenName = (token && nameInToken(token)) || (query.get("name")?.trim() ?? "");
const app = document.getElementById("app") ?? document.body;

/** What tests and the developer's console may look at; nothing on the page reads it. */
declare global {
  interface Window {
    __plenum?: { meeting: Meeting };
  }
}

function open(): void {
  // Whether a token is good is for the server to say, at the join.
  if (
    room.state === "open" ||
    room.state === "password" ||
    (room.state === "private" && token !== undefined)
  ) {
    const name = givenName || (localStorage.getItem(NAME_KEY) ?? "");
    lobby(new OwnDevices(rememberedChoice()), name, room.autoJoin && givenName !== "" && !asksPassword);
  } else if (room.state === "notYet") {
    waitUntil((room.opensAtUnixSec ?? 0) * 1000);
  } else {
    const code = { notFound: "ROOM_NOT_FOUND", expired: "ROOM_EXPIRED", private: "TOKEN_REQUIRED" }[
      room.state
    ];
    over({ kind: "refused", code, message: "" }, () => location.reload());
  }
}

/** The lobby; whom the room lets in without it only passes through. */
function lobby(devices: OwnDevices, name: string, goesIn: boolean): void {
  let isLeft = false;
  const go = (chosen: string, password?: string) => {
    if (!isLeft) {
      isLeft = true;
      enter(chosen, password, devices, view);
    }
  };
  const view = new Lobby(room.roomName, name, asksPassword, devices, (chosen, password) => {
    localStorage.setItem(NAME_KEY, chosen);
    go(chosen, password);
  });
  devices.onchange = () => view.update();
  app.replaceChildren(view.element);
  view.focus();
  const started = devices.start();
  if (goesIn) {
    void started.then(() => go(name)); // or sooner, if the person does not wait for the browser's question
  }
}

function enter(name: string, password: string | undefined, devices: OwnDevices, lobbyView: Lobby): void {
  lobbyView.setProgress(text.lobby.joining);
  rememberChoice(devices);
  let view: MeetingView | undefined;
  const meeting = new Meeting(signalingUrl(), room.roomName, name, { token, password }, devices, {
    entered: () => {
      view = new MeetingView(room.roomName, meeting, devices);
      app.replaceChildren(view.element);
    },
    retrying: () => lobbyView.setProgress(text.lobby.retrying),
    people: (news) => {
      view?.update();
      view?.tell(news ?? {});
    },
    received: () => view?.update(),
    message: (message) => view?.addMessage(message),
    trouble: (message) => view?.trouble(message),
    lost: (until) => view?.showLost(until),
    found: () => view?.showFound(),
    over: (ending) => {
      view?.close();
      devices.onchange = () => {};
      devices.stop();
      over(ending, () => lobby(devices, name, !asksPassword));
    },
  });
  devices.onchange = () => {
    meeting.send(devices);
    view?.update();
  };
  window.__plenum = { meeting };
}

function over(ending: Ending, onAgain: () => void): void {
  if (ending.kind === "refused" && ending.code === "ROOM_NOT_OPEN" && ending.opensAtUnixSec !== undefined) {
    waitUntil(ending.opensAtUnixSec * 1000);
  } else {
    app.replaceChildren(endingScreen(room.roomName, ending, onAgain));
  }
}

/** The closed door. The server decides what time it is: a page that is early waits a little more and asks again. */
function waitUntil(opensAtMs: number): void {
  const at = new Date(Math.max(opensAtMs, Date.now() + EARLY_WAIT_MS));
  app.replaceChildren(waitingScreen(room.roomName, at, () => location.reload()));
}

function rememberedChoice(): Partial<Record<Kind, string>> {
  const choice: Partial<Record<Kind, string>> = {};
  for (const kind of ["camera", "microphone"] as const) {
    const deviceId = localStorage.getItem(DEVICE_KEYS[kind]);
    if (deviceId !== null) {
      choice[kind] = deviceId;
    }
  }
  return choice;
}

function rememberChoice({ choice }: OwnDevices): void {
  for (const kind of ["camera", "microphone"] as const) {
    const deviceId = choice[kind];
    if (deviceId !== undefined) {
      localStorage.setItem(DEVICE_KEYS[kind], deviceId);
    }
  }
}

function signalingUrl(): string {
  return `${location.origin.replace(/^http/, "ws")}/ws`;
}

const EARLY_WAIT_MS = 2000;

document.title = text.title(room.roomName);
restoreTheme();
open();
