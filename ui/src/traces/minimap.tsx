/** The whole trace in a strip. Dragging across it narrows the waterfall to that time. */
import { useEffect, useRef, useState, type ReactNode } from 'react';
import { durationTicks } from '../charts/scale.ts';
import { useWidth } from '../charts/time-chart.tsx';
import { duration } from '../format.ts';
import { useTheme } from '../theme.ts';
import { classColor } from './classes.ts';
import type { TraceTree } from './tree.ts';

export interface TimeWindow {
  readonly from: number;
  readonly to: number;
}

const height = 44;

export function Minimap(props: { readonly tree: TraceTree; readonly order: readonly number[]; readonly window: TimeWindow; readonly onWindow: (window: TimeWindow | null) => void }): ReactNode {
  const { tree, order, window: shown } = props;
  const [attach, width] = useWidth();
  const canvas = useRef<HTMLCanvasElement>(null);
  const theme = useTheme();
  const [drag, setDrag] = useState<{ begin: number; end: number } | null>(null);
  const total = Math.max(tree.total, 1e-6);

  useEffect(() => {
    const context = canvas.current?.getContext('2d');
    if (!canvas.current || !context || width === 0) return;
    const ratio = window.devicePixelRatio || 1;
    canvas.current.width = width * ratio;
    canvas.current.height = height * ratio;
    context.scale(ratio, ratio);
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas.current);
    const colors = new Map<string, string>();
    const paint = (name: string): string => {
      let value = colors.get(name);
      if (value === undefined) colors.set(name, (value = style.getPropertyValue(name.slice(4, -1))));
      return value;
    };
    const room = height - 6;
    const thick = Math.max(1, Math.min(4, room / Math.max(1, order.length) - 0.5));
    for (const [row, index] of order.entries()) {
      const node = tree.nodes[index];
      if (!node) continue;
      context.fillStyle = paint(node.failed ? 'var(--bad)' : classColor(node.spanClass));
      context.fillRect((node.offset / total) * width, 3 + (row / Math.max(1, order.length)) * room, Math.max(1, (Math.max(0, node.duration) / total) * width), thick);
    }
  }, [tree, order, width, total, theme]);

  const timeAt = (event: React.PointerEvent): number => {
    const box = event.currentTarget.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * total;
  };
  const chosen = drag === null ? shown : { from: Math.min(drag.begin, drag.end), to: Math.max(drag.begin, drag.end) };
  const whole = chosen.from <= 0 && chosen.to >= total;
  return (
    <div
      className="minimap"
      ref={attach}
      title="Drag to narrow the time shown"
      onPointerDown={(event) => {
        event.currentTarget.setPointerCapture(event.pointerId);
        setDrag({ begin: timeAt(event), end: timeAt(event) });
      }}
      onPointerMove={(event) => {
        if (drag !== null) setDrag({ begin: drag.begin, end: timeAt(event) });
      }}
      onPointerUp={() => {
        if (drag !== null) props.onWindow(chosen.to - chosen.from > total * 0.004 ? chosen : null);
        setDrag(null);
      }}
    >
      <canvas ref={canvas} role="img" aria-label="Overview of the whole trace" style={{ width, height }} />
      {whole ? null : (
        <>
          <div className="minimap-shade" style={{ left: 0, width: `${(chosen.from / total) * 100}%` }} />
          <div className="minimap-shade" style={{ left: `${(chosen.to / total) * 100}%`, right: 0 }} />
        </>
      )}
    </div>
  );
}

/** The times above the bars. */
export function Ruler({ window: shown, width }: { readonly window: TimeWindow; readonly width: number }): ReactNode {
  const length = shown.to - shown.from;
  const ticks = durationTicks(length, Math.max(2, Math.floor(width / 84)));
  return (
    <div className="ruler" aria-hidden="true">
      {ticks.map((tick) => (
        <span key={tick} style={{ left: `${(tick / length) * 100}%` }} className={tick / length > 0.94 ? 'late' : undefined}>
          {duration(shown.from + tick)}
        </span>
      ))}
    </div>
  );
}
