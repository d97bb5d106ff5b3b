import { expect, it } from "vitest";
import { retryDelayMs } from "./signaling.ts";

it("pauses longer from try to try, up to four seconds", () => {
  expect([0, 1, 2, 3, 4, 9].map((attempt) => retryDelayMs(attempt, 0))).toEqual([
    500, 1000, 2000, 4000, 4000, 4000,
  ]);
});

it("takes up to half of a pause off by chance", () => {
  expect(retryDelayMs(1, 1)).toBe(500);
  expect(retryDelayMs(1, 0.5)).toBe(750);
});
