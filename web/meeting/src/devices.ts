/** Camera and microphone of this machine, and why one could not be had. */

export type Kind = "camera" | "microphone";

/** Why there is no camera or no microphone. */
export type Problem = "denied" | "missing" | "busy" | "insecure" | "unknown";

/** Which device to use, by its `deviceId`; without it the browser's choice. */
export type Choice = Partial<Record<Kind, string>>;

/** One's own camera and microphone, from the lobby until the end of the stay. */
export class OwnDevices {
  camera: MediaStreamTrack | null = null;
  microphone: MediaStreamTrack | null = null;
  problems: Partial<Record<Kind, Problem>> = {};
  /** The person is being asked, or a device is starting. */
  isStarting = false;
  /** Called after every change. */
  onchange: () => void = () => {};
  #wantsMuted = false;
  #wanted = new Set<Kind>(["microphone", "camera"]);
  #isStopped = true;
  #choice: Choice;

  constructor(choice: Choice) {
    this.#choice = choice;
  }

  /** Nobody hears this person. */
  get isMuted(): boolean {
    return this.#wantsMuted || this.microphone === null;
  }

  get choice(): Readonly<Choice> {
    return this.#choice;
  }

  /** Starts camera and microphone, as far as they can be had; one that was switched off before stays off. */
  async start(): Promise<void> {
    this.#isStopped = false;
    await this.#capture([...this.#wanted]);
  }

  /** Switches the microphone; it stays captured while muted, so that it is back at once. */
  async setMuted(isMuted: boolean): Promise<void> {
    this.#wantsMuted = isMuted;
    if (!isMuted && this.microphone === null) {
      await this.#capture(["microphone"]);
    } else {
      this.#changed();
    }
  }

  /** Switches the camera; off means that its light goes out. */
  async setCameraOn(isOn: boolean): Promise<void> {
    if (isOn) {
      await this.#capture(["camera"]);
    } else {
      this.#wanted.delete("camera");
      this.#release("camera");
      this.#changed();
    }
  }

  /** Uses another device; one that is off stays off. */
  async choose(kind: Kind, deviceId: string): Promise<void> {
    this.#choice = { ...this.#choice, [kind]: deviceId };
    if (this[kind] !== null) {
      this.#release(kind);
      await this.#capture([kind]);
    }
  }

  /** Gives both devices back, until the next start. */
  stop(): void {
    this.#isStopped = true;
    this.#release("camera");
    this.#release("microphone");
    this.#changed();
  }

  async #capture(kinds: Kind[]): Promise<void> {
    for (const kind of kinds) {
      this.#wanted.add(kind);
      delete this.problems[kind];
    }
    this.isStarting = true;
    this.#changed();
    const captured = await capture(kinds, this.#choice);
    this.isStarting = false;
    for (const kind of kinds) {
      const track = captured[kind];
      if (this.#isStopped || !this.#wanted.has(kind)) {
        track?.stop(); // switched off while it was starting
        continue;
      }
      this[kind]?.stop();
      this[kind] = track;
      if (track !== null) {
        track.onended = () => this.#unplugged(kind, track);
      }
    }
    Object.assign(this.problems, captured.problems);
    this.#changed();
  }

  #unplugged(kind: Kind, track: MediaStreamTrack): void {
    if (this[kind] === track) {
      this[kind] = null;
      this.problems[kind] = "missing";
      this.#changed();
    }
  }

  #release(kind: Kind): void {
    this[kind]?.stop();
    this[kind] = null;
  }

  #changed(): void {
    if (this.microphone !== null) {
      this.microphone.enabled = !this.#wantsMuted;
    }
    this.onchange();
  }
}

interface Captured {
  camera: MediaStreamTrack | null;
  microphone: MediaStreamTrack | null;
  problems: Partial<Record<Kind, Problem>>;
}

/**
 * Captures what is `wanted`: both with one question to the person. Where that fails, as much as can be had, with the
 * reasons for the rest. Never throws: whoever has no device can still watch and listen.
 */
async function capture(wanted: readonly Kind[], choice: Choice): Promise<Captured> {
  const captured: Captured = { camera: null, microphone: null, problems: {} };
  if (navigator.mediaDevices === undefined) {
    for (const kind of wanted) {
      captured.problems[kind] = "insecure";
    }
    return captured;
  }
  if (wanted.length > 1) {
    const together = await captureTracks(wanted, choice);
    if (Array.isArray(together)) {
      return keep(captured, together);
    }
  }
  for (const kind of wanted) {
    if (wanted.length > 1 && (await isDenied(kind))) {
      captured.problems[kind] = "denied";
      continue;
    }
    const alone = await captureTracks([kind], choice);
    if (Array.isArray(alone)) {
      keep(captured, alone);
    } else {
      captured.problems[kind] = alone;
    }
  }
  return captured;
}

/** The devices of one kind; their labels are empty until the person has allowed one. */
export async function listDevices(kind: Kind): Promise<MediaDeviceInfo[]> {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  const wanted = kind === "camera" ? "videoinput" : "audioinput";
  return devices.filter((device) => device.kind === wanted && device.deviceId !== "");
}

function keep(captured: Captured, tracks: MediaStreamTrack[]): Captured {
  for (const track of tracks) {
    captured[track.kind === "video" ? "camera" : "microphone"] = track;
  }
  return captured;
}

async function captureTracks(kinds: readonly Kind[], choice: Choice): Promise<MediaStreamTrack[] | Problem> {
  const device = (kind: Kind) => (choice[kind] === undefined ? {} : { deviceId: { ideal: choice[kind] } });
  try {
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: kinds.includes("microphone") && device("microphone"),
      video: kinds.includes("camera") && { ...PICTURE, ...device("camera") },
    });
    return stream.getTracks();
  } catch (error) {
    return problemOf(error);
  }
}

/** The person, or the browser for them, has said no to this kind, so that another question would be refused at once. */
async function isDenied(kind: Kind): Promise<boolean> {
  try {
    const status = await navigator.permissions.query({ name: kind as PermissionName });
    return status.state === "denied";
  } catch {
    return false; // a browser that does not tell
  }
}

function problemOf(error: unknown): Problem {
  switch (error instanceof DOMException ? error.name : "") {
    case "NotAllowedError":
    case "SecurityError":
      return "denied";
    case "NotFoundError":
    case "OverconstrainedError":
      return "missing";
    case "NotReadableError":
    case "AbortError":
      return "busy";
    default:
      return "unknown";
  }
}

/** One picture is sent to everyone, so it is of a size that small tiles and small machines can bear. */
const PICTURE: MediaTrackConstraints = {
  width: { ideal: 960 },
  height: { ideal: 540 },
  frameRate: { ideal: 24, max: 30 },
};
