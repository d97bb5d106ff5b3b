/** The screens outside the meeting that need no lobby: how it ended, why one is not let in, and the closed door. */
import type { Ending } from "../meeting.ts";
import { type EndScreen, endScreen, text } from "../text.ts";
import { h } from "./dom.ts";
import { type IconName, icon } from "./icons.ts";
import { shell } from "./shell.ts";

/** The screen for an ending; `onAgain` tries to get in once more, where that makes sense. */
export function endingScreen(roomName: string, ending: Ending, onAgain: () => void): HTMLElement {
  const screen = endScreen(ending);
  const code = ending.kind === "left" ? "left" : ending.kind === "ended" ? ending.reason : ending.code;
  return page(screen, roomName, code, screen.again === undefined ? [] : [againButton(screen.again, onAgain)]);
}

/** The screen of a room that opens at `at`; `onOpen` is called then. */
export function waitingScreen(roomName: string, at: Date, onOpen: () => void): HTMLElement {
  const figures = h("div", { class: "countdown", role: "timer", "data-testid": "countdown" });
  const tick = () => {
    const seconds = Math.max(Math.ceil((at.getTime() - Date.now()) / 1000), 0);
    figures.replaceChildren(...parts(seconds));
    if (seconds === 0) {
      clearInterval(timer);
      onOpen();
    }
  };
  const timer = setInterval(tick, 500);
  const { title, opens } = text.waiting;
  const screen = page({ sign: "clock", tone: "warn", title, text: opens(at) }, roomName, "ROOM_NOT_OPEN", [
    figures,
  ]);
  tick();
  return screen;
}

function parts(seconds: number): HTMLElement[] {
  const { days, hours, minutes, seconds: s } = text.waiting.units;
  const figures: [number, string][] = [
    [Math.floor(seconds / 86_400), days],
    [Math.floor(seconds / 3600) % 24, hours],
    [Math.floor(seconds / 60) % 60, minutes],
    [seconds % 60, s],
  ];
  const first = figures.findIndex(([figure]) => figure > 0);
  return figures
    .slice(first < 0 ? 2 : Math.min(first, 2))
    .map(([figure, unit]) => h("div", {}, h("b", {}, String(figure)), h("span", {}, unit)));
}

function page(screen: EndScreen, roomName: string, code: string, acts: HTMLElement[]): HTMLElement {
  const title = h("h1", { tabindex: "-1" }, screen.title);
  const element = shell(
    h(
      "main",
      { class: "end", "data-testid": "end-screen", "data-code": code },
      h("span", { class: `sign ${screen.tone}` }, icon(SIGNS[screen.sign], 30)),
      title,
      h("p", {}, screen.text),
      h("div", { class: "acts" }, ...acts),
      h("p", { class: "code" }, `${roomName} · ${code}`),
    ),
    "",
  );
  queueMicrotask(() => title.focus()); // what happened is read out, and the keyboard is at the way on
  return element;
}

function againButton(label: string, onAgain: () => void): HTMLButtonElement {
  const button = h(
    "button",
    { type: "button", class: "button primary", "data-testid": "again-button" },
    icon("retry", 16),
    label,
  );
  button.onclick = onAgain;
  return button;
}

const SIGNS: Record<EndScreen["sign"], IconName> = {
  clock: "clock",
  closed: "closed",
  full: "people",
  left: "check",
  locked: "lock",
  missing: "search",
  offline: "offline",
  removed: "removed",
  trouble: "warning",
};
