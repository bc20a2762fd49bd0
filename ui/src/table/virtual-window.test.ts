import { describe, expect, it } from 'vitest';
import { scrollTopFor, tallest, virtualWindow } from './virtual-window.ts';

describe('virtualWindow', () => {
  it('draws what is seen and a little more, whatever the length', () => {
    expect(virtualWindow(100_000, 28, 28_000, 560, 8)).toEqual({ first: 992, end: 1029, top: 992 * 28, height: 2_800_000 });
    expect(virtualWindow(0, 28, 0, 560)).toMatchObject({ first: 0, end: 0, height: 0 });
    expect(virtualWindow(3, 28, 0, 560)).toMatchObject({ first: 0, end: 3 });
  });

  it('stays within the rows when the list became shorter than the scroll position', () => {
    const { first, end } = virtualWindow(10, 28, 99_999, 140, 2);
    expect([first, end]).toEqual([3, 10]);
  });

  it('reaches the first and the last of more rows than a browser has pixels for', () => {
    const count = 5_000_000;
    const viewport = 600;
    const atTop = virtualWindow(count, 28, 0, viewport);
    expect(atTop.first).toBe(0);
    const atBottom = virtualWindow(count, 28, tallest - viewport, viewport, 0);
    expect(atBottom.end).toBe(count);
    expect(atBottom.height).toBe(tallest);
    // The last row ends exactly at the lower edge.
    expect(atBottom.top + (atBottom.end - atBottom.first) * 28).toBeCloseTo(tallest, 3);
  });

  it('covers the viewport at every scroll position', () => {
    for (const count of [50, 1000, 2_000_000]) {
      const height = Math.min(count * 26, tallest);
      for (let step = 0; step <= 40; step++) {
        const scrollTop = ((height - 500) * step) / 40;
        const { first, end, top } = virtualWindow(count, 26, scrollTop, 500, 0);
        expect(top).toBeLessThanOrEqual(scrollTop + 0.001);
        expect(top + (end - first) * 26).toBeGreaterThanOrEqual(Math.min(scrollTop + 500, height) - 0.001);
      }
    }
  });
});

describe('scrollTopFor', () => {
  it('moves only when the row is out of sight', () => {
    expect(scrollTopFor(5, 1000, 20, 0, 200)).toBe(0);
    expect(scrollTopFor(10, 1000, 20, 0, 200)).toBe(20);
    expect(scrollTopFor(3, 1000, 20, 500, 200)).toBe(60);
  });

  it('brings any row of a scaled list into sight', () => {
    const count = 3_000_000;
    for (const index of [0, 1, 1_499_999, count - 1]) {
      const scrollTop = scrollTopFor(index, count, 28, 6_000_000, 600);
      const { first, end } = virtualWindow(count, 28, scrollTop, 600, 0);
      expect(index).toBeGreaterThanOrEqual(first);
      expect(index).toBeLessThan(end);
    }
  });
});
