import { describe, expect, it } from "vitest";
import { parseFrame } from "./protocol.ts";

describe("a frame from the server", () => {
  it("is read with the fields that are missing at their defaults", () => {
    const text = JSON.stringify({
      type: "participant-joined",
      roomId: "standup",
      participantId: "0123456789abcdef01234567",
      timestamp: 1_795_000_000_000,
      name: "Ann",
      resumeToken: "secret",
    });
    expect(parseFrame(text)).toEqual({
      type: "participant-joined",
      participantId: "0123456789abcdef01234567",
      name: "Ann",
      isModerator: false,
      isMuted: false,
      isVideoOff: false,
      isHandRaised: false,
      resumeToken: "secret",
    });
  });

  it("may leave a slot empty", () => {
    const slots = [
      { mid: "2", participantId: "a", source: "camera" },
      { mid: "3", participantId: null, source: null },
    ];
    expect(parseFrame(JSON.stringify({ type: "slots", slots }))).toEqual({ type: "slots", slots });
  });

  it.each([
    ["not JSON", "{"],
    ["not an object", "[]"],
    ["of a type that this page does not know", '{"type":"reaction","reaction":"heart"}'],
    ["lacking what its type needs", '{"type":"chat","participantId":"a","timestamp":1}'],
    [
      "from a source that does not exist",
      '{"type":"slots","slots":[{"mid":"1","participantId":"a","source":"x"}]}',
    ],
  ])("is ignored when it is %s", (_, text) => {
    expect(parseFrame(text)).toBeUndefined();
  });
});
