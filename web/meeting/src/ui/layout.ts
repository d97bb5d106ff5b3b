/** Where tiles go: the grid that makes them largest. */

export interface Grid {
  columns: number;
  rows: number;
  /** Of one tile, in CSS pixels. */
  width: number;
  height: number;
}

/** Space between two tiles, in CSS pixels; `--tile-gap`. */
export const GAP = 8;
/** More tiles than this are never shown at once. */
export const MAX_TILES = 49;
const WIDEST = 16 / 9;
const SMALLEST = { width: 160, height: 90 };
/** Areas that differ by less count as equal. */
const TIE = 0.01;

/**
 * The grid for `n` tiles on a stage of `width` × `height` that gives each tile the greatest area. A tile is at most
 * 16:9 and at least `narrowest`. Between equal ones the grid with the fewest empty cells wins, then more columns.
 */
export function best(n: number, width: number, height: number, narrowest = 4 / 3): Grid {
  const grids = Array.from({ length: n }, (_, i) => gridOf(i + 1, n, width, height, narrowest));
  const area = (grid: Grid) => grid.width * grid.height;
  const greatest = Math.max(...grids.map(area));
  const empty = (grid: Grid) => grid.columns * grid.rows - n;
  const [first] = grids
    .filter((grid) => area(grid) >= greatest * (1 - TIE))
    .sort((a, b) => empty(a) - empty(b) || b.columns - a.columns);
  return first ?? { columns: 1, rows: 1, width: 0, height: 0 };
}

/** How many of `n` tiles fit without any being smaller than a face needs. */
export function fitting(n: number, width: number, height: number, narrowest?: number): number {
  for (let shown = Math.min(n, MAX_TILES); shown > 1; shown--) {
    const grid = best(shown, width, height, narrowest);
    if (grid.width >= SMALLEST.width && grid.height >= SMALLEST.height) {
      return shown;
    }
  }
  return Math.min(n, 1);
}

function gridOf(
  columns: number,
  n: number,
  stageWidth: number,
  stageHeight: number,
  narrowest: number,
): Grid {
  const rows = Math.ceil(n / columns);
  const cellWidth = Math.max((stageWidth - GAP * (columns - 1)) / columns, 0);
  const cellHeight = Math.max((stageHeight - GAP * (rows - 1)) / rows, 0);
  const width = Math.min(cellWidth, cellHeight * WIDEST);
  return { columns, rows, width, height: Math.min(cellHeight, width / narrowest) };
}
