import { describe, expect, it } from "vitest";
import { nameInToken } from "./token.ts";

const token = (payload: string) =>
  `e30.${btoa(String.fromCharCode(...new TextEncoder().encode(payload)))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replace(/=+$/, "")}.c2ln`;

describe("the name in a token", () => {
  it("is what the lobby begins with", () => {
    expect(nameInToken(token(`{"data":{"name":"Zoë 🎈","appName":"acme"},"iat":1}`))).toBe("Zoë 🎈");
  });

  it("is none in anything else, of which the server says what is wrong", () => {
    const others = ["", "x", "..", "e30.%%%.e30", token("{}"), token(`{"data":{}}`), token("5"), token("{")];
    expect(others.map(nameInToken)).toEqual(others.map(() => ""));
  });
});
