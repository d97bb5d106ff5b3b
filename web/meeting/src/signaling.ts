/**
 * The signaling connection: one WebSocket after the other. It joins the room, and when the socket is lost it comes back
 * as the same participant, for as long as the server keeps the place.
 */
import { type ClientFrame, type Frame, parseFrame, type ServerFrame, type Shown } from "./protocol.ts";

/** Why a person did not get in, or was not let back in. */
export interface Refusal {
  /** The server's code, or one of ours: `CONNECTION_LOST`, `UNREACHABLE`. */
  code: string;
  message: string;
  opensAtUnixSec?: number | undefined;
}

export interface SignalingEvents {
  /** A frame of an established stay; the first is one's own `participant-joined`. */
  frame(frame: ServerFrame): void;
  /** The join did not work yet and is tried again in so many milliseconds. */
  retrying(delayMs: number): void;
  /** The socket is lost; the place is kept until then (`performance.now()`). */
  lost(until: number): void;
  /** Final: this connection does nothing more. */
  refused(refusal: Refusal): void;
}

type State = "joining" | "joined" | "resuming" | "over";

export class Signaling {
  readonly #url: string;
  readonly #join: ClientFrame & { type: "join" };
  readonly #events: SignalingEvents;
  readonly #online = () => this.#retryNow();
  #state: State = "joining";
  #socket: WebSocket | null = null;
  #resumeToken: string | undefined;
  #attempt = 0;
  #keptUntil = 0;
  #retryTimer: number | undefined;

  constructor(url: string, roomId: string, name: string, shown: Shown, events: SignalingEvents) {
    this.#url = url;
    this.#join = { type: "join", roomId, name, ...shown, resumable: true };
    this.#events = events;
    addEventListener("online", this.#online);
    this.#connect();
  }

  /** Sends a frame, if the stay is established; whoever resumes says what matters anew. */
  send(frame: ClientFrame): void {
    if (this.#state === "joined" && this.#socket?.readyState === WebSocket.OPEN) {
      this.#socket.send(JSON.stringify(frame));
    }
  }

  /** Gives up a socket that seems dead, and comes back on a new one. */
  reconnect(): void {
    if (this.#state === "joined") {
      const socket = this.#socket;
      this.#socket = null;
      socket?.close(CLIENT_TIMEOUT);
      this.#lose();
    }
  }

  /** Leaves, and ends this connection without further events. */
  leave(): void {
    this.send({ type: "leave" });
    this.#finish();
  }

  #connect(): void {
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    const overdue = setTimeout(() => lost(), ANSWER_TIMEOUT_MS);
    const lost = () => {
      clearTimeout(overdue);
      if (this.#socket === socket) {
        this.#socket = null;
        socket.close();
        this.#lose();
      }
    };
    socket.onopen = () => {
      const { roomId } = this.#join;
      const resumeToken = this.#resumeToken;
      const first: ClientFrame =
        this.#state === "resuming" && resumeToken !== undefined
          ? { type: "resume", roomId, resumeToken }
          : this.#join;
      socket.send(JSON.stringify(first));
    };
    socket.onclose = lost;
    socket.onmessage = ({ data }) => {
      const frame = typeof data === "string" ? parseFrame(data) : undefined;
      if (frame !== undefined && this.#socket === socket) {
        clearTimeout(overdue);
        this.#receive(frame);
      }
    };
  }

  #receive(frame: ServerFrame): void {
    if (frame.type === "ended") {
      this.#finish();
    } else if (this.#state === "joining" || this.#state === "resuming") {
      if (frame.type === "error") {
        this.#refuse(frame);
        return;
      }
      if (frame.type !== (this.#state === "joining" ? "participant-joined" : "snapshot")) {
        return; // nothing counts before the answer
      }
      this.#resumeToken = frame.type === "participant-joined" ? frame.resumeToken : this.#resumeToken;
      this.#state = "joined";
      this.#attempt = 0;
    }
    this.#events.frame(frame);
  }

  #refuse({ code, message, opensAtUnixSec }: Frame<"error">): void {
    if (code === "TRY_AGAIN") {
      this.#socket?.close();
      this.#socket = null;
      this.#retry({ code, message });
    } else {
      const refusal = this.#state === "resuming" ? CONNECTION_LOST : { code, message, opensAtUnixSec };
      this.#finish();
      this.#events.refused(refusal);
    }
  }

  /** The socket is gone. */
  #lose(): void {
    if (this.#state === "joined" && this.#resumeToken !== undefined) {
      this.#state = "resuming";
      this.#keptUntil = performance.now() + RESUME_WINDOW_MS;
      this.#events.lost(this.#keptUntil);
    }
    if (this.#state === "joined") {
      this.#finish();
      this.#events.refused(CONNECTION_LOST);
    } else if (this.#state !== "over") {
      this.#retry(UNREACHABLE);
    }
  }

  #retry(cause: Refusal): void {
    const delayMs = retryDelayMs(this.#attempt, Math.random());
    this.#attempt += 1;
    const hopeless =
      this.#state === "resuming"
        ? performance.now() + delayMs > this.#keptUntil
        : this.#attempt > JOIN_RETRIES;
    if (hopeless) {
      const refusal = this.#state === "resuming" ? CONNECTION_LOST : cause;
      this.#finish();
      this.#events.refused(refusal);
      return;
    }
    if (this.#state === "joining") {
      this.#events.retrying(delayMs);
    }
    this.#retryTimer = setTimeout(() => this.#retryNow(), delayMs);
  }

  #retryNow(): void {
    if (this.#retryTimer !== undefined) {
      clearTimeout(this.#retryTimer);
      this.#retryTimer = undefined;
      this.#connect();
    }
  }

  #finish(): void {
    this.#state = "over";
    clearTimeout(this.#retryTimer);
    this.#retryTimer = undefined;
    removeEventListener("online", this.#online);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(NORMAL_CLOSURE);
  }
}

/**
 * The pause before attempt `attempt` (from 0) to come back, in milliseconds: 0.5 s doubling up to 4 s, of which up to
 * half is taken off at `random` (0 to 1), so that a restarted server is not met by everyone in the same instant.
 */
export function retryDelayMs(attempt: number, random: number): number {
  return Math.min(500 * 2 ** attempt, 4000) * (1 - random / 2);
}

/** How long the server keeps the place of a lost connection. */
const RESUME_WINDOW_MS = 30_000;
/** Time for connecting and the first answer; longer means that the network swallows packets. */
const ANSWER_TIMEOUT_MS = 8000;
/** Tries of a join beyond the first: about ten seconds in all, then a person decides. */
const JOIN_RETRIES = 5;
const NORMAL_CLOSURE = 1000; // RFC 6455, 7.4.1; to the server a leave at once
const CLIENT_TIMEOUT = 4000; // private use; to the server a lost connection, not a leave
const CONNECTION_LOST: Refusal = { code: "CONNECTION_LOST", message: "" };
const UNREACHABLE: Refusal = { code: "UNREACHABLE", message: "" };
