/** Scroll position and height of a scrolling element, one rendering a frame at most. */
import { useCallback, useEffect, useRef, useState } from 'react';

export interface Viewport {
  readonly scrollTop: number;
  readonly height: number;
  readonly width: number;
}

export function useViewport(): { readonly attach: (element: HTMLElement | null) => void; readonly element: React.RefObject<HTMLElement | null>; readonly viewport: Viewport } {
  const element = useRef<HTMLElement | null>(null);
  const cleanup = useRef<(() => void) | null>(null);
  const [viewport, setViewport] = useState<Viewport>({ scrollTop: 0, height: 0, width: 0 });

  const attach = useCallback((next: HTMLElement | null) => {
    cleanup.current?.();
    cleanup.current = null;
    element.current = next;
    if (next === null) return;
    let frame = 0;
    const measure = (): void => {
      frame = 0;
      const now = { scrollTop: next.scrollTop, height: next.clientHeight, width: next.clientWidth };
      setViewport((old) => (old.scrollTop === now.scrollTop && old.height === now.height && old.width === now.width ? old : now));
    };
    const ask = (): void => {
      if (frame === 0) frame = requestAnimationFrame(measure);
    };
    next.addEventListener('scroll', ask, { passive: true });
    const observer = new ResizeObserver(ask);
    observer.observe(next);
    measure();
    cleanup.current = () => {
      next.removeEventListener('scroll', ask);
      observer.disconnect();
      cancelAnimationFrame(frame);
    };
  }, []);
  useEffect(() => () => cleanup.current?.(), []);
  return { attach, element, viewport };
}
