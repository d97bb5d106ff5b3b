/**
 * The media of this page: one RTCPeerConnection to the SFU. Microphone and camera go out on sendonly transceivers; what
 * others send comes in on slots, recvonly transceivers of which the server says whose media each one carries. All
 * offers come from here, so there is no glare, and joins and leaves need no offer.
 */
import type { Slot, Source } from "./protocol.ts";

export interface MediaEvents {
  /** An offer for the server; `tracks` names what each sendonly m-line carries. */
  offer(sdp: string, tracks: Record<string, Source>): void;
  /** What the slots carry has changed. */
  received(): void;
  /** The server does not answer: the signaling connection is probably dead. */
  unanswered(): void;
}

/** A track that comes in for one source of one participant. */
export interface ReceivedTrack {
  mid: string;
  participantId: string;
  source: Source;
  track: MediaStreamTrack;
  receiver: RTCRtpReceiver;
}

/** What this page can send. */
export type SentSource = "microphone" | "camera";

export class Media {
  readonly #events: MediaEvents;
  readonly #sent = new Map<SentSource, MediaStreamTrack>();
  #senders = new Map<SentSource, RTCRtpTransceiver>();
  #connection: RTCPeerConnection | null = null;
  #slots: Slot[] = [];
  #slotCount = MIN_SLOTS;
  #awaitsAnswer = false;
  #offerAgain = false;
  #restarts = 0;
  #timers = { answer: 0, restart: 0 };

  constructor(events: MediaEvents) {
    this.#events = events;
  }

  /** The connection to the SFU, for looking at its statistics; `null` before the first offer and after the end. */
  get connection(): RTCPeerConnection | null {
    return this.#connection;
  }

  /** What comes in at present. */
  get received(): ReceivedTrack[] {
    const transceivers = new Map(this.#connection?.getTransceivers().map((t) => [t.mid, t]));
    return this.#slots.flatMap(({ mid, participantId, source }) => {
      const receiver = transceivers.get(mid)?.receiver;
      return receiver === undefined || participantId === null || source === null
        ? []
        : [{ mid, participantId, source, receiver, track: receiver.track }];
    });
  }

  /** Connects anew, with a fresh connection in place of a former one. */
  connect(): void {
    this.#disconnect();
    const connection = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
    connection.onconnectionstatechange = () => this.#connectionStateChanged(connection);
    this.#connection = connection;
    for (const [source, track] of this.#sent) {
      this.#addSender(connection, source, track);
    }
    this.#addSlots(connection);
    this.#negotiate();
  }

  /** Sends `track` as `source`, in place of the one sent before; `null` sends nothing. */
  send(source: SentSource, track: MediaStreamTrack | null): void {
    if (track === null) {
      this.#sent.delete(source);
    } else {
      this.#sent.set(source, track);
    }
    const sender = this.#senders.get(source)?.sender;
    if (sender !== undefined) {
      sender.replaceTrack(track).catch(() => this.connect()); // a track that needs another codec or encoder
    } else if (track !== null && this.#connection !== null) {
      this.#addSender(this.#connection, source, track);
      this.#negotiate();
    }
  }

  /** Makes sure that so many other people can be received. */
  expect(people: number): void {
    const wanted = slotCount(people);
    if (wanted > this.#slotCount) {
      this.#slotCount = wanted;
      if (this.#connection !== null) {
        this.#addSlots(this.#connection);
        this.#negotiate();
      }
    }
  }

  /** Takes the answer to the last offer. */
  async answer(sdp: string): Promise<void> {
    const connection = this.#connection;
    if (connection?.signalingState !== "have-local-offer") {
      return; // to an offer of a connection that has since been replaced
    }
    clearTimeout(this.#timers.answer);
    await connection.setRemoteDescription({ type: "answer", sdp });
    if (this.#connection === connection) {
      this.#awaitsAnswer = false;
      this.#events.received();
      if (this.#offerAgain) {
        this.#negotiate();
      }
    }
  }

  /** Takes what the slots carry from now on. */
  assign(slots: Slot[]): void {
    this.#slots = slots;
    this.#events.received();
  }

  /** Connects anew after a pause that grows while it keeps failing. */
  restart(): void {
    if (this.#timers.restart === 0 && this.#connection !== null) {
      const delayMs = Math.min(500 * 2 ** this.#restarts, 8000);
      this.#restarts += 1;
      this.#timers.restart = setTimeout(() => this.connect(), delayMs);
    }
  }

  /** Ends the connection; the tracks that were sent stay with their owner. */
  close(): void {
    this.#disconnect();
    this.#sent.clear();
  }

  #disconnect(): void {
    clearTimeout(this.#timers.answer);
    clearTimeout(this.#timers.restart);
    this.#timers = { answer: 0, restart: 0 };
    this.#connection?.close();
    this.#connection = null;
    this.#senders = new Map();
    this.#slots = [];
    this.#awaitsAnswer = false;
    this.#offerAgain = false;
  }

  #addSender(connection: RTCPeerConnection, source: SentSource, track: MediaStreamTrack): void {
    const sendEncodings = source === "camera" ? [{ maxBitrate: CAMERA_MAX_BITRATE }] : [];
    const transceiver = connection.addTransceiver(track, { direction: "sendonly", sendEncodings });
    prefer(transceiver, track.kind);
    this.#senders.set(source, transceiver);
  }

  #addSlots(connection: RTCPeerConnection): void {
    for (const kind of ["audio", "video"]) {
      const present = connection
        .getTransceivers()
        .filter((t) => t.direction === "recvonly" && t.receiver.track.kind === kind).length;
      for (let i = present; i < this.#slotCount; i++) {
        prefer(connection.addTransceiver(kind, { direction: "recvonly" }), kind);
      }
    }
  }

  /** Offers what is there now; while an answer is due, right after it. */
  #negotiate(): void {
    this.#offerAgain = this.#awaitsAnswer;
    const connection = this.#connection;
    if (connection === null || this.#awaitsAnswer) {
      return;
    }
    this.#awaitsAnswer = true;
    connection.setLocalDescription().then(
      () => {
        const sdp = connection.localDescription?.sdp;
        if (this.#connection === connection && sdp !== undefined) {
          this.#timers.answer = setTimeout(() => this.#events.unanswered(), ANSWER_TIMEOUT_MS);
          this.#events.offer(sdp, this.#tracks());
        }
      },
      () => this.#connection === connection && this.restart(),
    );
  }

  #tracks(): Record<string, Source> {
    const tracks: Record<string, Source> = {};
    for (const [source, { mid }] of this.#senders) {
      if (mid !== null) {
        tracks[mid] = source;
      }
    }
    return tracks;
  }

  #connectionStateChanged(connection: RTCPeerConnection): void {
    if (connection !== this.#connection) {
      return;
    }
    if (connection.connectionState === "connected") {
      this.#restarts = 0;
    } else if (connection.connectionState === "failed") {
      this.restart();
    }
  }
}

/** Slots of each kind for so many other people: in steps, so that a growing meeting rarely needs an offer. */
export function slotCount(people: number): number {
  return Math.min(Math.max(Math.ceil(people / SLOT_STEP) * SLOT_STEP, MIN_SLOTS), MAX_SLOTS);
}

/** Offers only what the SFU forwards, which keeps a description with many slots short. */
function prefer(transceiver: RTCRtpTransceiver, kind: string): void {
  const wanted = kind === "audio" ? ["audio/opus"] : ["video/VP8", "video/rtx"];
  const codecs = RTCRtpReceiver.getCapabilities(kind)?.codecs ?? [];
  transceiver.setCodecPreferences(codecs.filter(({ mimeType }) => wanted.includes(mimeType)));
}

const MIN_SLOTS = 8;
const SLOT_STEP = 4;
/** As many tiles as the stage ever shows. */
const MAX_SLOTS = 48;
/** bit/s. Everyone receives the one picture that is sent, also those with a slow line. */
const CAMERA_MAX_BITRATE = 1_000_000;
/** Longer than any working server takes; then the socket is given up, and with it this connection. */
const ANSWER_TIMEOUT_MS = 10_000;
