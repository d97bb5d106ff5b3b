/** Short news in the free middle of the top bar, and the same words for who listens to the page. */
import { h } from "./dom.ts";

const SHOWN_MS = 5000;
const MAX_WAITING = 3;

export class News {
  readonly element = h("div", { class: "toasts" });
  readonly #polite = h("div", { class: "sr", role: "status" });
  readonly #assertive = h("div", { class: "sr", role: "alert" });
  #waiting: string[] = [];
  #timer = 0;

  constructor() {
    this.element.append(this.#polite, this.#assertive);
  }

  /** Shows and says `news`, after those that wait. */
  show(news: string): void {
    this.#waiting = [...this.#waiting, news].slice(-MAX_WAITING);
    if (this.#timer === 0) {
      this.#next();
    }
  }

  /** Says `news` without showing it. */
  say(news: string): void {
    this.#polite.textContent = news;
  }

  /** Says `news` at once, in the middle of whatever is being read. */
  warn(news: string): void {
    this.#assertive.textContent = news;
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  #next(): void {
    this.element.querySelector(".toast")?.remove();
    const news = this.#waiting.shift();
    if (news === undefined) {
      this.#timer = 0;
      return;
    }
    this.element.append(h("div", { class: "toast", "aria-hidden": "true" }, news));
    this.say(news);
    this.#timer = setTimeout(() => this.#next(), SHOWN_MS);
  }
}
