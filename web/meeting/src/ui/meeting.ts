/** The page while one is in the meeting: top bar, stage, chat, and the controls. */
import type { OwnDevices } from "../devices.ts";
import type { Meeting, Message, Participant } from "../meeting.ts";
import { text } from "../text.ts";
import { ChatPanel } from "./chat.ts";
import { h, setAttribute } from "./dom.ts";
import { icon } from "./icons.ts";
import { showToggle } from "./lobby.ts";
import { News } from "./news.ts";
import { logo } from "./shell.ts";
import { Sound, speaking } from "./sound.ts";
import { Stage } from "./stage.ts";

export class MeetingView {
  readonly element: HTMLElement;
  readonly #meeting: Meeting;
  readonly #devices: OwnDevices;
  readonly #stage: Stage;
  readonly #chat: ChatPanel;
  readonly #news = new News();
  readonly #sound = new Sound(() => this.#showSoundBanner());
  readonly #banners = h("div", { class: "banners" });
  readonly #people = h("span", { class: "pill", "data-testid": "people-count" });
  readonly #microphone = controlButton("microphone-toggle", "M");
  readonly #camera = controlButton("camera-toggle", "V");
  readonly #chatToggle = controlButton("chat-toggle", "C");
  readonly #unread = h("span", { class: "unread", hidden: true });
  readonly #enteredAt = performance.now();
  readonly #speakingTimer: number;
  readonly #keys = (event: KeyboardEvent) => this.#onKey(event);
  #unreadCount = 0;
  #toldProblems: OwnDevices["problems"];
  #lostTimer = 0;

  constructor(roomName: string, meeting: Meeting, devices: OwnDevices) {
    this.#meeting = meeting;
    this.#devices = devices;
    this.#toldProblems = { ...devices.problems };
    this.#stage = new Stage(meeting);
    this.#chat = new ChatPanel(
      (said) => meeting.say(said),
      () => this.#toggleChat(),
    );
    this.#microphone.onclick = () => void devices.setMuted(!devices.isMuted);
    this.#camera.onclick = () => void devices.setCameraOn(devices.camera === null);
    this.#chatToggle.append(icon("chat", 22), this.#unread);
    setAttribute(this.#chatToggle, "aria-controls", "chat");
    this.#chatToggle.onclick = () => this.#toggleChat();
    const leave = h(
      "button",
      { type: "button", class: "control leave", "data-testid": "leave-button" },
      icon("leave", 22),
      h("span", {}, text.meeting.leave),
    );
    leave.onclick = () => meeting.leave();
    const copy = h(
      "button",
      { type: "button", class: "button quiet" },
      icon("link", 16),
      text.meeting.copyLink,
    );
    copy.onclick = () => void this.#copyLink();
    this.element = h(
      "div",
      { class: "meeting", "data-testid": "meeting" },
      h(
        "header",
        { class: "topbar" },
        logo(),
        h("h1", { class: "truncate" }, roomName),
        h("span", { class: "grow" }),
        this.#people,
      ),
      h(
        "main",
        { class: "middle" },
        this.#banners,
        h("div", { class: "split" }, this.#stage.element, this.#chat.element),
      ),
      h(
        "nav",
        { class: "dock", "aria-label": text.meeting.controls },
        h("div", { class: "side" }, copy),
        h("div", { class: "calls" }, this.#microphone, this.#camera, leave),
        h("div", { class: "side end-side" }, this.#chatToggle),
      ),
      this.#news.element,
      this.#sound.element,
    );
    document.addEventListener("keydown", this.#keys);
    this.#speakingTimer = setInterval(() => this.#stage.setSpeaking(this.#speaking()), SPEAKING_INTERVAL_MS);
    this.update();
  }

  /** Shows people, what comes in and the own devices as they are now. */
  update(): void {
    const { camera, isMuted } = this.#devices;
    this.#stage.update(camera);
    this.#sound.update(this.#meeting.media.received);
    showToggle(this.#microphone, !isMuted, "microphone", text.meeting.mute, text.meeting.unmute);
    showToggle(this.#camera, camera !== null, "camera", text.meeting.cameraOff, text.meeting.cameraOn);
    const count = this.#meeting.participants.size;
    const people = text.meeting.people(count);
    if (this.#people.dataset.count !== String(count)) {
      this.#people.dataset.count = String(count);
      this.#people.replaceChildren(icon("people", 16), people);
    }
    setAttribute(this.#chatToggle, "aria-expanded", String(this.#chat.isOpen));
    this.#chatToggle.classList.toggle("on", this.#chat.isOpen);
    this.#chatToggle.title = text.meeting.chat;
    this.#chatToggle.ariaLabel =
      this.#unreadCount > 0
        ? `${text.meeting.chat}, ${text.chat.unread(this.#unreadCount)}`
        : text.meeting.chat;
    this.#unread.textContent = String(this.#unreadCount);
    this.#unread.hidden = this.#unreadCount === 0;
    this.#tellProblems();
  }

  /** Tells who came and who left, as long as that is no torrent. */
  tell({ joined, left }: { joined?: Participant; left?: Participant }): void {
    const isArrival = performance.now() - this.#enteredAt < ARRIVAL_MS; // those who were already in
    if (isArrival || this.#meeting.participants.size > MAX_ANNOUNCED) {
      return;
    }
    if (joined !== undefined) {
      this.#news.show(text.meeting.joined(joined.name));
    }
    if (left !== undefined) {
      this.#news.show(text.meeting.left(left.name));
    }
  }

  addMessage(message: Message): void {
    const isOwn = message.participantId === this.#meeting.selfId;
    this.#chat.add(message, isOwn);
    if (!this.#chat.isOpen && !isOwn) {
      this.#unreadCount += 1;
      this.#news.show(text.chat.said(message.name, message.text));
    }
    this.update();
  }

  /** Tells that something asked for did not work. */
  trouble(message: string): void {
    this.#news.show(message);
  }

  /** Shows that the connection is lost, and for how long the place is kept. */
  showLost(until: number): void {
    const banner = h("div", { class: "banner bad", "data-testid": "reconnecting" });
    const tick = () => {
      const seconds = Math.max(Math.ceil((until - performance.now()) / 1000), 0);
      banner.replaceChildren(icon("offline", 16), text.meeting.lost(seconds));
    };
    tick();
    clearInterval(this.#lostTimer);
    this.#lostTimer = setInterval(tick, 1000);
    this.#banners.replaceChildren(banner);
    this.#news.warn(text.meeting.lost(Math.ceil((until - performance.now()) / 1000)));
    this.element.classList.add("lost");
  }

  /** The connection is back. */
  showFound(): void {
    clearInterval(this.#lostTimer);
    this.#banners.replaceChildren();
    this.element.classList.remove("lost");
    this.#news.show(text.meeting.found);
  }

  close(): void {
    document.removeEventListener("keydown", this.#keys);
    clearInterval(this.#speakingTimer);
    clearInterval(this.#lostTimer);
    this.#stage.close();
    this.#news.close();
    this.#sound.update([]);
  }

  #tellProblems(): void {
    const { problems } = this.#devices;
    for (const kind of ["microphone", "camera"] as const) {
      const problem = problems[kind];
      if (problem !== undefined && problem !== this.#toldProblems[kind]) {
        this.#news.show(text.problem(kind, problem));
      }
    }
    this.#toldProblems = { ...problems };
  }

  #speaking(): Set<string> {
    return speaking(this.#meeting.media.received);
  }

  #toggleChat(): void {
    if (this.#chat.isOpen) {
      this.#chat.close();
      this.#chatToggle.focus();
    } else {
      this.#unreadCount = 0;
      this.#chat.open();
    }
    this.update();
  }

  async #copyLink(): Promise<void> {
    await navigator.clipboard.writeText(location.origin + location.pathname);
    this.#news.show(text.meeting.copied);
  }

  #showSoundBanner(): void {
    if (this.#banners.querySelector(".sound") !== null) {
      return;
    }
    const button = h("button", { type: "button", class: "button" }, icon("sound", 16), text.meeting.soundOn);
    const banner = h("div", { class: "banner sound", role: "alert" }, text.meeting.soundBlocked, button);
    button.onclick = () => {
      banner.remove();
      this.#sound.unblock();
    };
    this.#banners.append(banner);
  }

  #onKey(event: KeyboardEvent): void {
    const isTyping =
      event.target instanceof Element && event.target.closest("input, textarea, select") !== null;
    if (event.key === "Escape" && this.#chat.isOpen) {
      this.#toggleChat();
    } else if (!isTyping && !event.ctrlKey && !event.metaKey && !event.altKey && !event.repeat) {
      const button = { m: this.#microphone, v: this.#camera, c: this.#chatToggle }[event.key.toLowerCase()];
      if (button !== undefined) {
        event.preventDefault();
        button.click();
      }
    }
  }
}

function controlButton(testId: string, key: string): HTMLButtonElement {
  return h("button", { type: "button", class: "control", "data-testid": testId, "aria-keyshortcuts": key });
}

const SPEAKING_INTERVAL_MS = 100;
/** The people already in are told within the first moment of a stay; they are no news. */
const ARRIVAL_MS = 1000;
const MAX_ANNOUNCED = 8;
