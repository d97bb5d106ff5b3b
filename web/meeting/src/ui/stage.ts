/** The stage: everybody's tiles, as large as they can be. */
import type { Meeting, Participant } from "../meeting.ts";
import { text } from "../text.ts";
import { h } from "./dom.ts";
import { best, fitting } from "./layout.ts";
import { Tile } from "./tile.ts";

export class Stage {
  readonly element: HTMLElement;
  readonly #meeting: Meeting;
  readonly #tiles = new Map<string, Tile>();
  readonly #grid = h("div", { class: "tiles" });
  readonly #more = h("div", { class: "tile more", role: "note", hidden: true });
  readonly #alone = h(
    "div",
    { class: "alone", hidden: true },
    h("strong", {}, text.meeting.alone),
    h("span", {}, text.meeting.aloneHint),
  );
  readonly #resized = new ResizeObserver(() => this.#layOut());

  constructor(meeting: Meeting) {
    this.#meeting = meeting;
    this.element = h(
      "section",
      { class: "stage", "aria-label": text.meeting.stage, "data-testid": "stage" },
      this.#grid,
      this.#alone,
    );
    this.#grid.append(this.#more);
    this.#resized.observe(this.element);
  }

  /** Shows who is there and what comes in; `ownCamera` is one's own picture. */
  update(ownCamera: MediaStreamTrack | null): void {
    const meeting = this.#meeting;
    const wanted = new Set<string>();
    const show = (participant: Participant, source: "camera" | "screen", track: MediaStreamTrack | null) => {
      const key = `${participant.id} ${source}`;
      wanted.add(key);
      this.#tile(key, participant.id, source).update(participant, track);
    };
    for (const { participantId, source, track } of meeting.media.received) {
      const participant = meeting.participants.get(participantId);
      if (source === "screen" && participant !== undefined) {
        show(participant, source, track);
      }
    }
    for (const participant of meeting.participants.values()) {
      const isSelf = participant.id === meeting.selfId;
      const track = isSelf ? ownCamera : meeting.trackOf(participant.id, "camera");
      show(participant, "camera", track ?? null);
    }
    for (const [key, tile] of this.#tiles) {
      if (!wanted.has(key)) {
        this.#tiles.delete(key);
        tile.element.remove();
      }
    }
    this.#layOut();
  }

  /** Shows who is heard right now. */
  setSpeaking(participantIds: ReadonlySet<string>): void {
    for (const tile of this.#tiles.values()) {
      tile.setSpeaking(participantIds.has(tile.participantId));
    }
  }

  close(): void {
    this.#resized.disconnect();
  }

  #tile(key: string, participantId: string, source: "camera" | "screen"): Tile {
    const present = this.#tiles.get(key);
    if (present !== undefined) {
      return present;
    }
    const isSelf = participantId === this.#meeting.selfId;
    const tile = new Tile(participantId, source, isSelf);
    this.#tiles.set(key, tile);
    const self = this.#grid.querySelector("[data-self]");
    this.#grid.insertBefore(tile.element, isSelf ? this.#more : (self ?? this.#more)); // you last
    return tile;
  }

  #layOut(): void {
    const { clientWidth: width, clientHeight: height } = this.#grid;
    const people = this.#meeting.participants.size;
    const tiles = [...this.#grid.querySelectorAll<HTMLElement>("[data-testid=tile]")];
    const floats = people === 2 && tiles.length === 2; // with one other person, they get the stage
    const isPhone = innerWidth < 640 || innerHeight < 480;
    const narrowest = isPhone ? 3 / 4 : 4 / 3;
    const inGrid = tiles.filter((tile) => !(floats && tile.dataset.self !== undefined));
    const room = fitting(inGrid.length, width, height, narrowest);
    const shown = room < inGrid.length ? Math.max(room - 1, 1) : inGrid.length;
    const hidden = inGrid.length - shown;
    const grid = best(hidden > 0 ? shown + 1 : shown, width, height, narrowest);
    for (const tile of tiles) {
      const isFloating = !inGrid.includes(tile);
      tile.classList.toggle("floating", isFloating);
      tile.hidden = !isFloating && inGrid.indexOf(tile) >= shown;
    }
    this.#more.hidden = hidden === 0;
    this.#more.textContent = text.meeting.more(hidden);
    this.#more.ariaLabel = text.meeting.moreLabel(hidden);
    this.#grid.style.setProperty("--tile-width", `${Math.floor(grid.width * 100) / 100}px`);
    this.#grid.style.setProperty("--tile-height", `${Math.floor(grid.height * 100) / 100}px`);
    this.#alone.hidden = people > 1;
  }
}
