/** The chat panel: what was said since one came in, and the line to say something. */
import type { Message } from "../meeting.ts";
import { MAX_CHAT_LENGTH } from "../protocol.ts";
import { formatInstant, text } from "../text.ts";
import { h } from "./dom.ts";
import { icon } from "./icons.ts";

export class ChatPanel {
  readonly element: HTMLElement;
  readonly #list = h("div", { class: "messages", role: "log", tabindex: "0", "aria-label": text.chat.title });
  readonly #empty = h("p", { class: "chat-empty" }, text.chat.empty);
  readonly #input = h("textarea", {
    rows: "1",
    maxlength: String(MAX_CHAT_LENGTH),
    placeholder: text.chat.write,
    "aria-label": text.chat.write,
    "data-testid": "chat-input",
  });
  readonly #say: (text: string) => void;

  constructor(say: (text: string) => void, onClose: () => void) {
    this.#say = say;
    const close = h(
      "button",
      { type: "button", class: "icon-button", "aria-label": text.close },
      icon("close"),
    );
    close.onclick = onClose;
    const form = h(
      "form",
      { class: "composer" },
      this.#input,
      h(
        "button",
        { type: "submit", class: "icon-button", "aria-label": text.chat.send, "data-testid": "chat-send" },
        icon("send"),
      ),
    );
    form.onsubmit = (event) => {
      event.preventDefault();
      this.#send();
    };
    this.#input.onkeydown = (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#send();
      }
    };
    this.#list.append(this.#empty);
    this.element = h(
      "aside",
      {
        class: "panel",
        id: "chat",
        hidden: true,
        "aria-label": text.chat.title,
        "data-testid": "chat-panel",
      },
      h("header", {}, h("h2", {}, text.chat.title), close),
      this.#list,
      form,
    );
  }

  get isOpen(): boolean {
    return !this.element.hidden;
  }

  open(): void {
    this.element.hidden = false;
    this.#list.scrollTop = this.#list.scrollHeight;
    this.#input.focus();
  }

  close(): void {
    this.element.hidden = true;
  }

  /** Adds a message; the list stays at its end unless the person has scrolled away from it. */
  add({ name, text: said, sentAt, participantId }: Message, isOwn: boolean): void {
    this.#empty.remove();
    const list = this.#list;
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    list.append(
      h(
        "article",
        { class: "message", "data-testid": "chat-message", "data-participant-id": participantId },
        h(
          "header",
          {},
          h("bdi", {}, isOwn ? text.meeting.you : name),
          h("time", { datetime: sentAt.toISOString() }, formatInstant(sentAt)),
        ),
        h("p", { dir: "auto" }, said),
      ),
    );
    if (isAtEnd || isOwn) {
      list.scrollTop = list.scrollHeight;
    }
  }

  #send(): void {
    const said = this.#input.value.trim();
    if (said !== "") {
      this.#say(said);
      this.#input.value = "";
    }
  }
}
