/** The lobby: how one looks, what one is called, and the way in. */
import { type Kind, listDevices, type OwnDevices } from "../devices.ts";
import { text } from "../text.ts";
import { h, setAttribute } from "./dom.ts";
import { icon } from "./icons.ts";
import { shell } from "./shell.ts";

/** As the server takes it. */
const MAX_NAME_LENGTH = 100;

export class Lobby {
  readonly element: HTMLElement;
  readonly #devices: OwnDevices;
  readonly #video = h("video", { autoplay: true, playsinline: true, muted: true, class: "mirror" });
  readonly #state = h("p", { class: "preview-state" });
  readonly #microphone = roundButton("microphone-toggle");
  readonly #camera = roundButton("camera-toggle");
  readonly #selects = { camera: h("select"), microphone: h("select") };
  readonly #problems = h("div", { class: "problems", role: "status" });
  readonly #name: HTMLInputElement;
  /** Where the room has a password. */
  readonly #password: HTMLInputElement | undefined;
  readonly #passwordError = h("p", { id: "password-error", class: "field-error", role: "alert" });
  readonly #nameError = h("p", { id: "name-error", class: "field-error", role: "alert" });
  readonly #join = h("button", {
    type: "submit",
    class: "button primary large",
    "data-testid": "join-button",
  });
  readonly #progress = h("p", { class: "help", role: "status" });
  #isJoining = false;

  /** `onJoin` is called with a name that is not empty, and a password where one is asked for. */
  constructor(
    roomName: string,
    name: string,
    asksPassword: boolean,
    devices: OwnDevices,
    onJoin: (name: string, password?: string) => void,
  ) {
    this.#devices = devices;
    this.#video.muted = true; // the attribute alone does not mute an element made by code
    this.#name = h("input", {
      id: "name",
      name: "name",
      class: "input large",
      autocomplete: "name",
      maxlength: String(MAX_NAME_LENGTH),
      "aria-describedby": "name-error",
      "data-testid": "name-input",
    });
    this.#name.value = name;
    if (asksPassword) {
      this.#password = h("input", {
        id: "password",
        type: "password",
        class: "input large",
        autocomplete: "off",
        "aria-describedby": "password-error",
        "data-testid": "password-input",
      });
    }
    this.#microphone.onclick = () => void devices.setMuted(!devices.isMuted);
    this.#camera.onclick = () => void devices.setCameraOn(devices.camera === null);
    for (const kind of ["camera", "microphone"] as const) {
      this.#selects[kind].onchange = () => void devices.choose(kind, this.#selects[kind].value);
    }
    const form = h(
      "form",
      { class: "join", novalidate: true },
      h("h1", { "data-testid": "room-name" }, roomName),
      h("div", { class: "field" }, h("label", { for: "name" }, text.lobby.name), this.#name, this.#nameError),
      ...(this.#password === undefined
        ? []
        : [
            h(
              "div",
              { class: "field" },
              h("label", { for: "password" }, text.lobby.password),
              this.#password,
              this.#passwordError,
            ),
          ]),
      this.#join,
      this.#progress,
      this.#problems,
    );
    form.onsubmit = (event) => {
      event.preventDefault();
      this.#submit(onJoin);
    };
    this.element = shell(
      h(
        "main",
        { class: "lobby", "data-testid": "lobby" },
        h(
          "section",
          { "aria-label": text.lobby.preview },
          h(
            "div",
            { class: "preview" },
            this.#video,
            this.#state,
            h("span", { class: "glass" }, icon("lock", 16), text.lobby.onlyYou),
            h("div", { class: "preview-tools" }, this.#microphone, this.#camera),
          ),
          h(
            "div",
            { class: "pickers" },
            picker("camera", text.lobby.camera, this.#selects.camera),
            picker("microphone", text.lobby.microphone, this.#selects.microphone),
          ),
        ),
        form,
      ),
      text.lobby.staysHere,
    );
    this.update();
  }

  /** Puts the keyboard where the person goes on. */
  focus(): void {
    (this.#name.value === "" ? this.#name : (this.#password ?? this.#join)).focus();
  }

  /** Shows that the join is under way; `undefined` when it is not. */
  setProgress(progress: string | undefined): void {
    this.#isJoining = progress !== undefined;
    this.#progress.textContent = progress ?? "";
    this.update();
  }

  /** Shows the devices as they are now. */
  update(): void {
    const { camera, microphone, isMuted, isStarting, problems } = this.#devices;
    showStream(this.#video, camera);
    this.#video.hidden = camera === null;
    this.#state.hidden = camera !== null;
    this.#state.textContent = isStarting
      ? text.lobby.asking
      : problems.camera === undefined
        ? text.lobby.cameraOff
        : text.lobby.noCamera;
    showToggle(this.#microphone, !isMuted, "microphone", text.meeting.mute, text.meeting.unmute);
    showToggle(this.#camera, camera !== null, "camera", text.meeting.cameraOff, text.meeting.cameraOn);
    const hasNone = camera === null && microphone === null && Object.keys(problems).length > 0;
    this.#join.textContent = this.#isJoining
      ? text.lobby.joining
      : hasNone
        ? text.lobby.joinWithoutDevices
        : text.lobby.join;
    setAttribute(this.#join, "aria-disabled", this.#isJoining ? "true" : undefined);
    this.#showProblems();
    void this.#listDevices("camera");
    void this.#listDevices("microphone");
  }

  #submit(onJoin: (name: string, password?: string) => void): void {
    const name = this.#name.value.trim();
    const password = this.#password?.value;
    this.#nameError.textContent = name === "" ? text.lobby.nameMissing : "";
    setAttribute(this.#name, "aria-invalid", name === "" ? "true" : undefined);
    if (name === "") {
      this.#name.focus();
      return;
    }
    this.#passwordError.textContent = password === "" ? text.lobby.passwordMissing : "";
    if (password === "") {
      this.#password?.focus();
    } else if (!this.#isJoining) {
      onJoin(name, password);
    }
  }

  #showProblems(): void {
    const problems = Object.entries(this.#devices.problems) as [Kind, Parameters<typeof text.problem>[1]][];
    const shown = problems.map(([kind, problem]) => `${kind} ${problem}`).join();
    if (this.#problems.dataset.shown === shown) {
      return; // said already: a live region that is filled again is read again
    }
    this.#problems.dataset.shown = shown;
    const retry = h("button", { type: "button", class: "button" }, icon("retry", 16), text.lobby.tryAgain);
    retry.onclick = () => void this.#devices.start();
    this.#problems.replaceChildren(
      ...problems.map(([kind, problem]) => h("p", {}, text.problem(kind, problem))),
      ...(problems.length === 0 ? [] : [h("p", {}, text.lobby.withoutDevices), retry]),
    );
  }

  async #listDevices(kind: Kind): Promise<void> {
    const devices = await listDevices(kind);
    const select = this.#selects[kind];
    const used = this.#devices[kind]?.getSettings().deviceId ?? this.#devices.choice[kind];
    select.replaceChildren(
      ...devices.map(({ deviceId, label }, i) =>
        h(
          "option",
          { value: deviceId, selected: deviceId === used },
          label === "" ? text.lobby.unnamedDevice(i + 1) : label,
        ),
      ),
    );
    select.disabled = devices.length === 0;
    if (devices.length === 0) {
      select.append(h("option", {}, "–"));
    }
  }
}

/** Shows one track in a video element, without touching an element that shows it already. */
export function showStream(video: HTMLVideoElement, track: MediaStreamTrack | null): void {
  const shown = video.srcObject instanceof MediaStream ? video.srcObject.getVideoTracks()[0] : undefined;
  if ((shown ?? null) !== track) {
    video.srcObject = track === null ? null : new MediaStream([track]);
  }
}

/** Shows a switch as on or off; its label says what pressing it does. */
export function showToggle(
  button: HTMLButtonElement,
  isOn: boolean,
  device: Kind,
  labelOn: string,
  labelOff: string,
): void {
  const label = isOn ? labelOn : labelOff;
  if (button.ariaLabel !== label) {
    button.ariaLabel = label;
    button.title = label;
    button.classList.toggle("off", !isOn);
    button.replaceChildren(icon(isOn ? device : `${device}Off`, 22));
  }
}

function roundButton(testId: string): HTMLButtonElement {
  return h("button", { type: "button", class: "round", "data-testid": testId });
}

function picker(kind: Kind, label: string, select: HTMLSelectElement): HTMLElement {
  return h("label", { class: "picker" }, icon(kind, 16), h("span", { class: "sr" }, label), select);
}
