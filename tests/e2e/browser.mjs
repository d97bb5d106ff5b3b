// People in real browsers: Chromium with a fake camera and microphone, which make moving pictures and beeps.
import assert from "node:assert/strict";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { eventually } from "./waiting.mjs";

/** A browser for several people; each has a profile of their own. */
export function launchBrowser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: false, // it is: by the flag below, which is the whole browser without a window
    args: [
      "--headless=new",
      "--no-sandbox",
      "--disable-gpu",
      "--use-fake-device-for-media-stream=fps=15",
      "--use-fake-ui-for-media-stream",
      "--autoplay-policy=no-user-gesture-required",
      "--disable-background-networking",
      "--disable-backgrounding-occluded-windows",
      "--disable-component-update",
      "--disable-renderer-backgrounding",
      "--disable-sync",
    ],
  });
}

/**
 * Closes a browser; what its pages showed last stays in `folder`.
 * @param {import("playwright-core").Browser | undefined} browser
 * @param {string} folder
 */
export async function closeBrowser(browser, folder) {
  const pages = browser?.contexts().flatMap((context) => context.pages()) ?? [];
  for (const [i, page] of pages.entries()) {
    await page.screenshot({ path: join(folder, `last-${i + 1}.png`) }).catch(() => {}); // a page that crashed has no picture
  }
  await browser?.close();
}

export class Person {
  /** @type {Record<string, any>[]} what the server has said, each with `receivedAt` */
  frames = [];
  /** @type {string[]} what went wrong on the page */
  errors = [];

  /**
   * @param {string} name
   * @param {import("playwright-core").Page} page
   */
  constructor(name, page) {
    this.name = name;
    this.page = page;
    page.setDefaultTimeout(15_000);
    page.on("pageerror", (error) => this.errors.push(String(error)));
    page.on("console", (message) => message.type() === "error" && this.errors.push(message.text()));
    page.on("websocket", (socket) =>
      socket.on("framereceived", ({ payload }) => this.frames.push(JSON.parse(String(payload)))),
    );
  }

  /**
   * Somebody with a fresh profile and an empty page.
   * @param {import("playwright-core").Browser} browser
   * @param {string} name
   */
  static async arrive(browser, name) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
    await context.addInitScript(watchForEnd);
    return new Person(name, await context.newPage());
  }

  /**
   * Opens a room's link and gives a name in the lobby.
   * @param {string} link
   */
  async openLobby(link) {
    await this.page.goto(link);
    await this.page.getByTestId("name-input").fill(this.name);
    await this.page.waitForFunction(() => document.querySelector("video")?.readyState === 4);
  }

  /** Presses Join in the lobby. */
  async join() {
    await this.page.getByTestId("join-button").click();
  }

  /** Waits until this person is in the meeting. */
  async isIn() {
    await this.page.getByTestId("meeting").waitFor();
  }

  /** @param {string} text */
  async say(text) {
    await this.page.keyboard.press("c");
    await this.page.getByTestId("chat-input").fill(text);
    await this.page.keyboard.press("Enter");
  }

  /** What is in the chat. */
  async chat() {
    return this.page.locator("[data-testid=chat-message] p").allTextContents();
  }

  /** How many people the page says are in. */
  async peopleCount() {
    return Number(await this.page.getByTestId("people-count").getAttribute("data-count"));
  }

  /**
   * Waits until every one of `others` has a tile on which pictures and sound go on coming in.
   * @param {Person[]} others
   */
  async seesAndHears(others) {
    const names = others.map(({ name }) => name).sort();
    /** @type {Incoming[]} */
    let first = [];
    /** @type {Incoming[]} */
    let now = [];
    await eventually("", SEE_AND_HEAR_MS, async () => {
      now = await this.page.evaluate(incoming);
      const isComplete =
        names.join() ===
        now
          .map(({ name }) => name)
          .sort()
          .join();
      if (first.length === 0 || !isComplete) {
        first = isComplete ? now : [];
        return false;
      }
      return now.every((later) => {
        const earlier = first.find(({ name }) => name === later.name);
        return (
          earlier !== undefined &&
          later.framesDecoded >= earlier.framesDecoded + FRAMES &&
          later.totalAudioEnergy > earlier.totalAudioEnergy &&
          later.shownUntil > earlier.shownUntil &&
          later.isHeard
        );
      });
    }).catch(() => {
      assert.fail(
        `${this.name} does not see and hear ${names.join(" and ")} within ${SEE_AND_HEAR_MS / 1000} s.\n` +
          `at first: ${JSON.stringify(first)}\nat last: ${JSON.stringify(now)}\non the page: ${this.errors.join("; ")}`,
      );
    });
  }

  /** Waits for the screen that ends or refuses a stay; returns its code. */
  async endScreenCode() {
    await this.page.getByTestId("end-screen").waitFor();
    return this.ending();
  }

  /** The code of the screen that ends or refuses a stay, if it is there now. */
  async ending() {
    const codes = await this.page
      .getByTestId("end-screen")
      .evaluateAll((screens) => screens.map((screen) => screen.getAttribute("data-code")));
    return codes[0];
  }

  /** When that screen appeared, in unix milliseconds. */
  async endSeenAt() {
    return this.page.evaluate(() => /** @type {any} */ (window).endSeenAt);
  }

  /**
   * @param {string} folder
   * @param {string} name
   */
  async screenshot(folder, name) {
    await this.page.screenshot({ path: join(folder, `${name}.png`) });
  }

  /** Goes away as a closed laptop does. */
  async vanish() {
    await this.page.context().close();
  }
}

/**
 * What comes in for one tile.
 * @typedef {object} Incoming
 * @property {string} name
 * @property {number} framesDecoded
 * @property {number} totalAudioEnergy
 * @property {number} shownUntil   position of the tile's video, in seconds: it moves while pictures are shown
 * @property {boolean} isHeard     an audio element plays this person
 */

/**
 * Runs on the page: what comes in for every other person's tile, from the tile, its elements and the statistics of the
 * m-lines that carry its media.
 * @returns {Promise<Incoming[]>}
 */
async function incoming() {
  const { media } = /** @type {any} */ (window).__plenum.meeting;
  /** @type {Map<string, any>} */
  const byMid = new Map();
  const report = (await media.connection?.getStats()) ?? [];
  report.forEach((/** @type {any} */ stats) => {
    if (stats.type === "inbound-rtp") {
      byMid.set(stats.mid, stats);
    }
  });
  const tiles = [...document.querySelectorAll("[data-testid=tile]:not([data-self])")];
  return tiles.map((tile) => {
    const id = tile.getAttribute("data-participant-id");
    /** @param {string} source */
    const stats = (source) => {
      const carried = media.received.find(
        (/** @type {any} */ it) => it.participantId === id && it.source === source,
      );
      return byMid.get(carried?.mid) ?? {};
    };
    const video = tile.querySelector("video");
    /** @type {HTMLAudioElement | null} */
    const audio = document.querySelector(`audio[data-participant-id="${id}"][data-source=microphone]`);
    return {
      name: tile.querySelector("bdi")?.textContent ?? "",
      framesDecoded: stats("camera").framesDecoded ?? 0,
      totalAudioEnergy: stats("microphone").totalAudioEnergy ?? 0,
      shownUntil: video !== null && video.videoWidth > 0 ? video.currentTime : 0,
      isHeard: audio !== null && !audio.paused && !audio.muted,
    };
  });
}

/** Runs on every page from its start: notes when an end screen appears. */
function watchForEnd() {
  const observer = new MutationObserver(() => {
    if (document.querySelector("[data-testid=end-screen]") !== null) {
      /** @type {any} */ (window).endSeenAt = Date.now();
      observer.disconnect();
    }
  });
  observer.observe(document, { childList: true, subtree: true });
}

const SEE_AND_HEAR_MS = 20_000;
/** So many more pictures than at first are pictures that go on coming. */
const FRAMES = 10;
