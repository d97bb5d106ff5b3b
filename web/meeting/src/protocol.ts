/**
 * The signaling frames of `/ws` that this page sends and understands: one JSON object per text frame. What arrives is
 * checked here, once; behind this file a frame is what its type says.
 */
import * as v from "valibot";

/** What a track shows or carries. */
export type Source = v.InferOutput<typeof Source>;
const Source = v.picklist(["camera", "microphone", "screen", "screenAudio"]);

/** Where one receive position of this connection gets its media from; `null` while it carries nobody's. */
export type Slot = v.InferOutput<typeof Slot>;
const Slot = v.object({
  mid: v.string(),
  participantId: v.nullable(v.string()),
  source: v.nullable(Source),
});

const participant = {
  participantId: v.string(),
  name: v.string(),
  isModerator: v.optional(v.boolean(), false),
  isMuted: v.optional(v.boolean(), false),
  isVideoOff: v.optional(v.boolean(), false),
  isHandRaised: v.optional(v.boolean(), false),
};

const ServerFrame = v.variant("type", [
  /** The first one on a socket is about oneself, the others about people already in and newcomers. */
  v.object({ type: v.literal("participant-joined"), ...participant, resumeToken: v.optional(v.string()) }),
  v.object({ type: v.literal("participant-left"), participantId: v.string() }),
  v.object({
    type: v.literal("participant-updated"),
    participantId: v.string(),
    isMuted: v.optional(v.boolean()),
    isVideoOff: v.optional(v.boolean()),
    isHandRaised: v.optional(v.boolean()),
  }),
  v.object({
    type: v.literal("chat"),
    participantId: v.string(),
    text: v.string(),
    /** Unix time in milliseconds. */
    timestamp: v.number(),
  }),
  v.object({ type: v.literal("answer"), sdp: v.string() }),
  /** All slots of this connection, whenever one changes. */
  v.object({ type: v.literal("slots"), slots: v.array(Slot) }),
  /** Who is in, as the answer to `resume`; `participantId` is oneself. */
  v.object({
    type: v.literal("snapshot"),
    participantId: v.string(),
    participants: v.array(v.object(participant)),
  }),
  /** The stay is over; the server closes the socket after it. */
  v.object({ type: v.literal("ended"), reason: v.string() }),
  v.object({
    type: v.literal("error"),
    code: v.string(),
    message: v.string(),
    /** With `ROOM_NOT_OPEN`: when the room opens, in unix seconds. */
    opensAtUnixSec: v.optional(v.number()),
  }),
]);

/** A frame from the server. */
export type ServerFrame = v.InferOutput<typeof ServerFrame>;

/** A server frame of one type. */
export type Frame<T extends ServerFrame["type"]> = Extract<ServerFrame, { type: T }>;

/** What a person shows at the door: the token of their link, or the room's password. */
export interface Shown {
  token?: string | undefined;
  password?: string | undefined;
}

/** A frame to the server. */
export type ClientFrame =
  | ({ type: "join"; roomId: string; name: string; resumable: true } & Shown)
  | { type: "resume"; roomId: string; resumeToken: string }
  | { type: "leave" }
  | { type: "chat"; text: string }
  | { type: "participant-updated"; isMuted?: boolean; isVideoOff?: boolean }
  /** `tracks` names the sendonly m-lines by their `mid`; recvonly m-lines are slots. */
  | { type: "offer"; targetId: "sfu"; sdp: string; tracks: Record<string, Source> };

/** Longest chat message the server takes, in characters. */
export const MAX_CHAT_LENGTH = 4096;

/** Reads a text frame; `undefined` for one that this page does not know, which is then none of its business. */
export function parseFrame(text: string): ServerFrame | undefined {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return undefined;
  }
  const parsed = v.safeParse(ServerFrame, json);
  return parsed.success ? parsed.output : undefined;
}
