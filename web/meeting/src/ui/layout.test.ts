import { describe, expect, it } from "vitest";
import { best, fitting } from "./layout.ts";

describe("the stage", () => {
  it.each([
    [1, 1358, 764],
    [2, 704, 528],
    [3, 672, 378],
    [4, 672, 378],
    [5, 467, 350],
    [6, 467, 350],
    [9, 443, 249],
    [12, 348, 249],
    [16, 329, 185],
    [25, 260, 146],
    [49, 182, 102],
  ])("of 1416 × 764 gives each of %i tiles %i × %i", (n, width, height) => {
    const grid = best(n, 1416, 764);
    expect([Math.floor(grid.width + 0.5), Math.floor(grid.height + 0.5)]).toEqual([width, height]);
  });

  it("fills the height of a phone with two tiles", () => {
    expect(best(2, 374, 620, 3 / 4)).toMatchObject({ columns: 1, rows: 2, width: 374, height: 306 });
  });

  it("prefers full rows where the tiles are as large", () => {
    expect(best(4, 1416, 764)).toMatchObject({ columns: 2, rows: 2 });
  });

  it("shows no tile smaller than a face needs", () => {
    expect(fitting(49, 1416, 764)).toBe(49);
    expect(fitting(60, 1416, 764)).toBe(49);
    expect(fitting(20, 500, 300)).toBe(9);
    expect(fitting(3, 10, 10)).toBe(1);
  });

  it("has nothing to place while nobody is there", () => {
    expect(best(0, 1416, 764)).toMatchObject({ width: 0, height: 0 });
  });
});
