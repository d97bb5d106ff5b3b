/** One stay in the meeting of a room: who is in, what was said, what comes in, and how it ended. */
import { Media } from "./media.ts";
import type { Frame, ServerFrame, Shown, Source } from "./protocol.ts";
import { type Refusal, Signaling } from "./signaling.ts";

export interface Participant {
  id: string;
  name: string;
  isMuted: boolean;
  isVideoOff: boolean;
  isHandRaised: boolean;
}

export interface Message {
  participantId: string;
  /** As it was when the message came: its sender may have left. */
  name: string;
  text: string;
  sentAt: Date;
}

/** How a stay, or the attempt at one, came to its end. */
export type Ending = { kind: "left" } | { kind: "ended"; reason: string } | ({ kind: "refused" } & Refusal);

export interface MeetingEvents {
  /** One is in. */
  entered(): void;
  /** The join is tried again in so many milliseconds. */
  retrying(delayMs: number): void;
  /** Somebody came, left or changed; `news` says who came or left while one was in. */
  people(news?: { joined?: Participant; left?: Participant }): void;
  /** What comes in has changed. */
  received(): void;
  message(message: Message): void;
  /** The server could not do what was asked; its words are for the person. */
  trouble(message: string): void;
  /** The connection is lost, and the place kept until then (`performance.now()`). */
  lost(until: number): void;
  /** The connection is back. */
  found(): void;
  over(ending: Ending): void;
}

/** What one sends; without a camera one's picture is off. */
export interface Sending {
  readonly camera: MediaStreamTrack | null;
  readonly microphone: MediaStreamTrack | null;
  readonly isMuted: boolean;
}

export class Meeting {
  readonly participants = new Map<string, Participant>();
  readonly messages: Message[] = [];
  readonly media: Media;
  /** One's own id; empty until one is in. */
  selfId = "";
  readonly #events: MeetingEvents;
  readonly #signaling: Signaling;
  #sent: Sending;

  /** Joins the room `roomName` by the signaling socket at `url`, with what one has to show. */
  constructor(
    url: string,
    roomName: string,
    name: string,
    shown: Shown,
    sending: Sending,
    events: MeetingEvents,
  ) {
    this.#events = events;
    this.#sent = copy(sending);
    this.media = new Media({
      offer: (sdp, tracks) => this.#signaling.send({ type: "offer", targetId: "sfu", sdp, tracks }),
      received: () => events.received(),
      unanswered: () => this.#signaling.reconnect(),
    });
    this.media.send("microphone", sending.microphone);
    this.media.send("camera", sending.camera);
    this.#signaling = new Signaling(url, roomName, name, shown, {
      frame: (frame) => this.#receive(frame),
      retrying: (delayMs) => events.retrying(delayMs),
      lost: (until) => events.lost(until),
      refused: (refusal) => this.#end({ kind: "refused", ...refusal }),
    });
  }

  /** Oneself; there from the first moment in the meeting. */
  get self(): Participant | undefined {
    return this.participants.get(this.selfId);
  }

  /** Sends this from now on. */
  send(sending: Sending): void {
    const before = this.#sent;
    this.#sent = copy(sending);
    for (const source of ["microphone", "camera"] as const) {
      if (sending[source] !== before[source]) {
        this.media.send(source, sending[source]);
      }
    }
    if (sending.isMuted !== before.isMuted || (sending.camera === null) !== (before.camera === null)) {
      this.#tellSent();
    }
  }

  /** Says something to everyone; it appears when the server has sent it back. */
  say(text: string): void {
    this.#signaling.send({ type: "chat", text });
  }

  leave(): void {
    this.#signaling.leave();
    this.#end({ kind: "left" });
  }

  /** The track that comes in for one source of one participant. */
  trackOf(participantId: string, source: Source): MediaStreamTrack | undefined {
    return this.media.received.find((it) => it.participantId === participantId && it.source === source)
      ?.track;
  }

  #receive(frame: ServerFrame): void {
    switch (frame.type) {
      case "participant-joined":
        this.#joined(frame);
        break;
      case "participant-left": {
        const left = this.participants.get(frame.participantId);
        if (left !== undefined) {
          this.participants.delete(left.id);
          this.#events.people({ left });
        }
        break;
      }
      case "participant-updated": {
        const { participantId, isMuted, isVideoOff, isHandRaised } = frame;
        const known = this.participants.get(participantId);
        if (known !== undefined) {
          known.isMuted = isMuted ?? known.isMuted;
          known.isVideoOff = isVideoOff ?? known.isVideoOff;
          known.isHandRaised = isHandRaised ?? known.isHandRaised;
          this.#events.people();
        }
        break;
      }
      case "chat": {
        const { participantId, text, timestamp } = frame;
        const name = this.participants.get(participantId)?.name ?? "";
        const message = { participantId, name, text, sentAt: new Date(timestamp) };
        this.messages.push(message);
        this.#events.message(message);
        break;
      }
      case "answer":
        this.media.answer(frame.sdp).catch(() => this.media.restart());
        break;
      case "slots":
        this.media.assign(frame.slots);
        break;
      case "snapshot":
        this.#resumed(frame);
        break;
      case "ended":
        this.#end({ kind: "ended", reason: frame.reason });
        break;
      case "error":
        if (frame.code === "NEGOTIATION_FAILED") {
          this.media.restart();
        } else {
          this.#events.trouble(frame.message);
        }
    }
  }

  #joined(frame: Frame<"participant-joined">): void {
    const joined = participantOf(frame);
    const isKnown = this.participants.has(joined.id);
    this.participants.set(joined.id, joined);
    if (this.selfId === "") {
      this.selfId = joined.id;
      this.#tellSent();
      this.#events.entered();
      this.media.connect();
    } else {
      this.media.expect(this.participants.size - 1);
      this.#events.people(isKnown ? {} : { joined });
    }
  }

  /** Back on a new socket: who is in is told anew, and what one sends, by an offer. */
  #resumed({ participantId, participants }: Frame<"snapshot">): void {
    this.selfId = participantId;
    this.participants.clear();
    for (const participant of participants) {
      this.participants.set(participant.participantId, participantOf(participant));
    }
    this.#tellSent();
    this.media.expect(this.participants.size - 1);
    this.media.connect();
    this.#events.found();
    this.#events.people();
  }

  /** Tells the others whether one can be heard and seen. */
  #tellSent(): void {
    const state = { isMuted: this.#sent.isMuted, isVideoOff: this.#sent.camera === null };
    if (this.self !== undefined) {
      Object.assign(this.self, state);
      this.#events.people();
    }
    this.#signaling.send({ type: "participant-updated", ...state });
  }

  #end(ending: Ending): void {
    this.media.close();
    this.#events.over(ending);
  }
}

function participantOf(
  told: Frame<"participant-joined"> | Frame<"snapshot">["participants"][number],
): Participant {
  const { participantId: id, name, isMuted, isVideoOff, isHandRaised } = told;
  return { id, name, isMuted, isVideoOff, isHandRaised };
}

function copy({ camera, microphone, isMuted }: Sending): Sending {
  return { camera, microphone, isMuted };
}
