/**
 * Which rows of a long list are drawn.
 *
 * Browsers cap an element's height (Firefox near 17 million pixels), so above `tallest` the scrollbar is scaled: one
 * pixel of scrolling then stands for more than one pixel of rows. First and last row stay reachable.
 */
export interface VirtualWindow {
  readonly first: number;
  /** One past the last drawn row. */
  readonly end: number;
  /** Where the first drawn row lies, in pixels of the scrolled element. */
  readonly top: number;
  /** Height of the scrolled element. */
  readonly height: number;
}

export const tallest = 12_000_000;

export function virtualWindow(count: number, rowHeight: number, scrollTop: number, viewport: number, overscan = 8): VirtualWindow {
  const full = count * rowHeight;
  const height = Math.min(full, tallest);
  const furthest = Math.max(0, height - viewport);
  const scrolled = Math.min(Math.max(0, scrollTop), furthest);
  const scale = full > tallest && furthest > 0 ? (full - viewport) / furthest : 1;
  const rowsTop = scrolled * scale;
  const visible = Math.floor(rowsTop / rowHeight);
  const first = Math.max(0, visible - overscan);
  const end = Math.min(count, visible + Math.ceil(viewport / rowHeight) + 1 + overscan);
  return { first, end, top: scrolled - (rowsTop - first * rowHeight), height };
}

/** The scroll position that brings a row into sight; the present one where it is in sight already. */
export function scrollTopFor(index: number, count: number, rowHeight: number, scrollTop: number, viewport: number): number {
  const full = count * rowHeight;
  const furthest = Math.max(0, Math.min(full, tallest) - viewport);
  const scale = full > tallest && furthest > 0 ? (full - viewport) / furthest : 1;
  const rowsTop = scrollTop * scale;
  const rowTop = index * rowHeight;
  if (rowTop < rowsTop) return rowTop / scale;
  if (rowTop + rowHeight > rowsTop + viewport) return Math.min(furthest, (rowTop + rowHeight - viewport) / scale);
  return scrollTop;
}
