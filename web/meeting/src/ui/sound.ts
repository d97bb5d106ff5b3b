/** What is heard: one audio element for each slot that carries sound. */
import type { ReceivedTrack } from "../media.ts";
import { h, setAttribute } from "./dom.ts";

export class Sound {
  /** Holds the elements; nothing of it is visible. */
  readonly element = h("div", { hidden: true });
  readonly #audios = new Map<string, HTMLAudioElement>();
  readonly #onBlocked: () => void;

  /** `onBlocked` is called when the browser wants an act of the person before it plays anything. */
  constructor(onBlocked: () => void) {
    this.#onBlocked = onBlocked;
  }

  /** Plays what comes in now, and nothing else. */
  update(received: ReceivedTrack[]): void {
    const heard = received.filter(({ track }) => track.kind === "audio");
    for (const { mid, participantId, source, track } of heard) {
      const audio = this.#audio(mid);
      setAttribute(audio, "data-participant-id", participantId);
      setAttribute(audio, "data-source", source);
      const stream = audio.srcObject;
      if (!(stream instanceof MediaStream) || stream.getAudioTracks()[0] !== track) {
        audio.srcObject = new MediaStream([track]);
        this.#play(audio);
      }
    }
    for (const [mid, audio] of this.#audios) {
      if (!heard.some((it) => it.mid === mid)) {
        audio.srcObject = null;
        audio.remove();
        this.#audios.delete(mid);
      }
    }
  }

  /** Tries again, from an act of the person. */
  unblock(): void {
    for (const audio of this.#audios.values()) {
      this.#play(audio);
    }
  }

  #audio(mid: string): HTMLAudioElement {
    let audio = this.#audios.get(mid);
    if (audio === undefined) {
      audio = h("audio", { autoplay: true, "data-mid": mid });
      this.#audios.set(mid, audio);
      this.element.append(audio);
    }
    return audio;
  }

  #play(audio: HTMLAudioElement): void {
    audio.play().catch((error: unknown) => {
      if (error instanceof DOMException && error.name === "NotAllowedError") {
        this.#onBlocked();
      }
    });
  }
}

/** Who is heard right now among what comes in, by the level of the last packets. */
export function speaking(received: ReceivedTrack[]): Set<string> {
  const isHeard = ({ track, receiver }: ReceivedTrack) =>
    track.kind === "audio" &&
    receiver
      .getSynchronizationSources()
      .some(
        ({ audioLevel = 0, timestamp }) =>
          audioLevel > VOICE_LEVEL && performance.timeOrigin + performance.now() - timestamp < VOICE_LASTS_MS,
      );
  return new Set(received.filter(isHeard).map(({ participantId }) => participantId));
}

/** Linear, 1 is full scale; about -36 dBov, above the noise of a quiet room. */
const VOICE_LEVEL = 0.016;
/** The ring stays through the pauses within a word. */
const VOICE_LASTS_MS = 400;
