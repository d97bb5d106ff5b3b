/** One tile: a person's camera, or a screen they share. */
import type { Participant } from "../meeting.ts";
import { text } from "../text.ts";
import { h, setAttribute } from "./dom.ts";
import { icon } from "./icons.ts";
import { showStream } from "./lobby.ts";

/** Colours that people without a picture get, `face-0` to `face-7`. */
const FACES = 8;

export class Tile {
  readonly element: HTMLElement;
  readonly participantId: string;
  readonly #source: "camera" | "screen";
  readonly #isSelf: boolean;
  readonly #video = h("video", { autoplay: true, playsinline: true, muted: true });
  readonly #face = h("span", { class: "face", "aria-hidden": "true" });
  readonly #state = h("span", { class: "tile-state" });
  readonly #name = h("bdi", { class: "truncate" });
  readonly #microphoneOff = icon("microphoneOff", 16);
  #isSpeaking = false;
  #participant: Participant | undefined;

  constructor(participantId: string, source: "camera" | "screen", isSelf: boolean) {
    this.participantId = participantId;
    this.#source = source;
    this.#isSelf = isSelf;
    this.#video.muted = true; // sound has elements of its own
    this.#video.onloadeddata = () => this.#show();
    this.#video.onemptied = () => this.#show();
    this.#face.classList.add(`face-${hash(participantId) % FACES}`);
    this.#microphoneOff.classList.add("muted-icon");
    const speakingBars = h("span", { class: "bars", "aria-hidden": "true" }, h("i"), h("i"), h("i"));
    this.element = h(
      "article",
      {
        class: `tile ${source}${isSelf ? " mirror" : ""}`,
        "data-testid": "tile",
        "data-participant-id": participantId,
        "data-source": source,
        "data-self": isSelf,
      },
      this.#video,
      this.#face,
      this.#state,
      h("div", { class: "tag" }, this.#microphoneOff, speakingBars, this.#name),
    );
  }

  /** Shows the person as they are now, with what comes in from them. */
  update(participant: Participant, track: MediaStreamTrack | null): void {
    this.#participant = participant;
    showStream(this.#video, participant.isVideoOff && this.#source === "camera" ? null : track);
    this.#show();
  }

  /** Shows that the person is heard right now. */
  setSpeaking(isSpeaking: boolean): void {
    if (isSpeaking !== this.#isSpeaking) {
      this.#isSpeaking = isSpeaking;
      this.element.classList.toggle("speaking", isSpeaking);
    }
  }

  #show(): void {
    const participant = this.#participant;
    if (participant === undefined) {
      return;
    }
    const { name, isMuted, isVideoOff } = participant;
    const isScreen = this.#source === "screen";
    const hasPicture =
      this.#video.srcObject !== null && this.#video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA;
    this.element.classList.toggle("has-picture", hasPicture);
    this.element.classList.toggle("muted", isMuted && !isScreen);
    this.#face.textContent = isScreen ? "" : initials(name);
    this.#state.textContent = hasPicture || (isVideoOff && !isScreen) ? "" : text.meeting.connecting;
    const shownName = this.#isSelf ? text.meeting.you : name;
    this.#name.textContent = isScreen ? text.meeting.tile.screen(shownName) : shownName;
    this.#name.title = shownName;
    const facts = isScreen
      ? [text.meeting.tile.screen(shownName)]
      : [
          shownName,
          ...(isMuted ? [text.meeting.tile.microphoneOff] : []),
          ...(isVideoOff ? [text.meeting.tile.cameraOff] : []),
        ];
    setAttribute(this.element, "aria-label", facts.join(", "));
  }
}

/** The first letters of the first and last word of a name. */
function initials(name: string): string {
  const words = name.trim().split(/\s+/);
  const letters = [words[0], words.length > 1 ? words.at(-1) : undefined];
  return letters.map((word) => firstLetter(word ?? "")).join("");
}

function firstLetter(word: string): string {
  const [first] = new Intl.Segmenter().segment(word);
  return first?.segment.toLocaleUpperCase() ?? "";
}

/** A number that is the same for the same person on every screen (FNV-1a). */
function hash(id: string): number {
  let hash = 0x811c9dc5;
  for (const letter of id) {
    hash = Math.imul(hash ^ letter.charCodeAt(0), 0x01000193) >>> 0;
  }
  return hash;
}
