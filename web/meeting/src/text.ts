/** Every word of this page. Plain, short, second person: the fact, then the next step. */
import type { Kind, Problem } from "./devices.ts";
import type { Ending } from "./meeting.ts";

export const text = {
  product: "Plenum",
  title: (roomName: string) => `${roomName} · Plenum`,
  close: "Close",

  lobby: {
    name: "Your name",
    password: "Password",
    passwordMissing: "Enter the room’s password. The host can tell you what it is.",
    nameMissing: "Enter the name that the others will see.",
    join: "Join now",
    joinWithoutDevices: "Join without camera and microphone",
    joining: "Joining…",
    retrying: "The server is busy. Trying again…",
    onlyYou: "Only you can see this",
    preview: "Your camera",
    asking: "Choose Allow when your browser asks for your camera and microphone.",
    cameraOff: "Your camera is off",
    noCamera: "No camera",
    staysHere: "Your camera and microphone stay on this device until you join.",
    product: "Meetings by Plenum",
    level: "Microphone level",
    camera: "Camera",
    microphone: "Microphone",
    unnamedDevice: (index: number) => `Device ${index}`,
    tryAgain: "Try again",
    withoutDevices: "You can join without: you will see and hear the others.",
    toLight: "Use light colours",
    toDark: "Use dark colours",
  },

  problem: (kind: Kind, problem: Problem) => {
    switch (problem) {
      case "denied":
        return `Your browser blocks the ${kind}. Select the ${kind} symbol in the address bar, choose Allow, then try again.`;
      case "missing":
        return `No ${kind} was found. Connect one, then try again.`;
      case "busy":
        return `Another program is using the ${kind}. Close it there, or choose another ${kind}.`;
      case "insecure":
        return `Your browser gives the ${kind} only to pages over HTTPS. Open this page with https://.`;
      case "unknown":
        return `The ${kind} could not be started. Try again, or choose another ${kind}.`;
    }
  },

  meeting: {
    you: "You",
    stage: "People",
    controls: "Meeting controls",
    people: (count: number) => (count === 1 ? "1 person" : `${count} people`),
    alone: "You’re the only one here",
    aloneHint: "Send the link to the people you want to meet.",
    copyLink: "Copy link",
    copied: "Link copied",
    mute: "Mute microphone",
    unmute: "Unmute microphone",
    cameraOff: "Turn camera off",
    cameraOn: "Turn camera on",
    chat: "Chat",
    leave: "Leave",
    joined: (name: string) => `${name} joined`,
    left: (name: string) => `${name} left`,
    more: (count: number) => `+${count}`,
    moreLabel: (count: number) => `${count} more people`,
    connecting: "Connecting…",
    reconnecting: "Reconnecting…",
    lost: (seconds: number) => `Connection lost. Your place is kept for ${seconds} s while we reconnect.`,
    found: "You’re back.",
    soundBlocked: "Your browser holds back the sound of this page.",
    soundOn: "Turn sound on",
    tile: {
      microphoneOff: "microphone off",
      cameraOff: "camera off",
      speaking: "speaking",
      screen: (name: string) => `${name}’s screen`,
    },
  },

  chat: {
    title: "Chat",
    empty: "Messages are seen by everyone here now. Who joins later does not see them.",
    write: "Write to everyone",
    send: "Send",
    unread: (count: number) => `${count} unread`,
    said: (name: string, message: string) => `${name}: ${message}`,
  },

  waiting: {
    title: "Not open yet",
    opens: (at: Date) =>
      `This room opens at ${formatInstant(at)}. Stay on this page; the door opens by itself.`,
    units: { days: "d", hours: "h", minutes: "min", seconds: "s" },
  },
} as const;

/** A sign, a title and a sentence or two; `again` is the label of the button that tries to get in once more. */
export interface EndScreen {
  sign: "left" | "clock" | "closed" | "full" | "locked" | "removed" | "offline" | "missing" | "trouble";
  tone: "plain" | "good" | "warn" | "bad";
  title: string;
  text: string;
  again?: string;
}

/** What to tell a person at this ending. */
export function endScreen(ending: Ending): EndScreen {
  switch (ending.kind) {
    case "left":
      return {
        sign: "left",
        tone: "good",
        title: "You left the meeting",
        text: "You can come back with the same link.",
        again: "Rejoin",
      };
    case "ended":
      return endReasons[ending.reason] ?? endedForEveryone;
    case "refused":
      return refusals[ending.code] ?? { ...refused, text: ending.message };
  }
}

const endedForEveryone: EndScreen = {
  sign: "closed",
  tone: "plain",
  title: "The meeting ended for everyone",
  text: "Nothing more is sent from this device.",
};

const closed: EndScreen = {
  sign: "clock",
  tone: "plain",
  title: "The room closed",
  text: "Its time was over, so the meeting ended for everyone. Ask the person who invited you for a new link.",
};

const removed: EndScreen = {
  sign: "removed",
  tone: "bad",
  title: "A host removed you",
  text: "You can’t come back to this meeting. If you think this was a mistake, contact the person who invited you.",
};

const lost: EndScreen = {
  sign: "offline",
  tone: "bad",
  title: "The connection was lost",
  text: "Your place was kept for 30 seconds. Check your network, then join again.",
  again: "Rejoin",
};

const endReasons: Record<string, EndScreen> = {
  roomExpired: closed,
  timeLimit: {
    sign: "clock",
    tone: "warn",
    title: "Your time is up",
    text: "This room gives each person a limited time, and yours has passed.",
  },
  tokenExpired: {
    sign: "clock",
    tone: "warn",
    title: "Your invitation has expired",
    text: "Ask the person who invited you for a new one.",
  },
  durationReached: {
    sign: "clock",
    tone: "plain",
    title: "The meeting’s time is up",
    text: "Its longest duration was reached, so it ended for everyone.",
  },
  noActivity: {
    sign: "clock",
    tone: "plain",
    title: "The meeting ended",
    text: "Nobody had shared a microphone, a camera or a screen for a while.",
    again: "Start again",
  },
  oneLeft: {
    sign: "closed",
    tone: "plain",
    title: "The meeting ended",
    text: "You were the last one here.",
    again: "Start again",
  },
  empty: { ...endedForEveryone, again: "Start again" },
  roomDeleted: {
    sign: "closed",
    tone: "plain",
    title: "The room was deleted",
    text: "The meeting ended for everyone, and this link no longer works. Ask the person who invited you for a new one.",
  },
  serverShutdown: {
    sign: "offline",
    tone: "warn",
    title: "The server is restarting",
    text: "The meeting was interrupted. Wait a moment, then join again.",
    again: "Rejoin",
  },
  replaced: {
    sign: "left",
    tone: "plain",
    title: "You joined somewhere else",
    text: "You came into this meeting from another window or device, and this one was closed.",
    again: "Use this window",
  },
  ejected: removed,
  connectionLost: lost,
};

const refused: EndScreen = {
  sign: "trouble",
  tone: "warn",
  title: "You can’t join now",
  text: "",
  again: "Try again",
};

const refusals: Record<string, EndScreen> = {
  ROOM_FULL: {
    sign: "full",
    tone: "warn",
    title: "The meeting is full",
    text: "All places are taken. Try again when someone has left.",
    again: "Try again",
  },
  ROOM_EXPIRED: {
    sign: "clock",
    tone: "plain",
    title: "This link has expired",
    text: "The room has closed. Ask the person who invited you for a new link.",
  },
  ROOM_NOT_FOUND: {
    sign: "missing",
    tone: "plain",
    title: "There is no such room",
    text: "Check the link: capital and small letters differ. If it is right, the room has been deleted.",
    again: "Try again",
  },
  TOKEN_REQUIRED: {
    sign: "locked",
    tone: "plain",
    title: "This room is private",
    text: "You need a personal link to enter. Ask the person who invited you for yours.",
  },
  TOKEN_INVALID: {
    sign: "locked",
    tone: "plain",
    title: "This link is not valid",
    text: "Ask the person who invited you for a new one.",
  },
  TOKEN_EXPIRED: {
    sign: "clock",
    tone: "plain",
    title: "Your invitation has expired",
    text: "Ask the person who invited you for a new one.",
  },
  TOKEN_NOT_YET_VALID: {
    sign: "clock",
    tone: "warn",
    title: "You’re early",
    text: "Your invitation is not valid yet. Open its link again when the meeting is about to start.",
    again: "Try again",
  },
  INVALID_PASSWORD: {
    sign: "locked",
    tone: "warn",
    title: "The password is not right",
    text: "This room has a password. Ask the host for it, then try again.",
    again: "Try again",
  },
  DUPLICATE_USER: {
    sign: "left",
    tone: "warn",
    title: "You’re in this meeting already",
    text: "You joined from another window or device. Leave it there, then try again.",
    again: "Try again",
  },
  MEETING_NOT_OPEN: {
    sign: "clock",
    tone: "warn",
    title: "The meeting hasn’t started",
    text: "Try again when the host has started it.",
    again: "Try again",
  },
  MEETING_ENDED: {
    sign: "closed",
    tone: "plain",
    title: "The meeting has just ended",
    text: "It ended while you were on your way in.",
    again: "Start again",
  },
  ROOM_LOCKED: {
    sign: "locked",
    tone: "plain",
    title: "The meeting is locked",
    text: "The host is letting nobody else in right now. You can try again, or ask the host to unlock it.",
    again: "Try again",
  },
  EJECTED: removed,
  TRY_AGAIN: {
    sign: "trouble",
    tone: "warn",
    title: "The server is busy",
    text: "We tried several times to let you in. Wait a moment, then try again.",
    again: "Try again",
  },
  UNREACHABLE: {
    sign: "offline",
    tone: "bad",
    title: "The server can’t be reached",
    text: "Check your network, then try again.",
    again: "Try again",
  },
  CONNECTION_LOST: lost,
};

/** An instant in the reader's zone and language: the time alone today, else with the day. */
export function formatInstant(at: Date): string {
  const isToday = at.toDateString() === new Date().toDateString();
  return new Intl.DateTimeFormat(undefined, {
    ...(isToday ? {} : { weekday: "long", day: "numeric", month: "long" }),
    hour: "2-digit",
    minute: "2-digit",
  }).format(at);
}
