/**
 * A chart over aligned windows of time, as bars (stacked) or lines. Windows that can still change are drawn lighter.
 * The pointer's time is the page's, so that charts side by side show one moment.
 */
import { useCallback, useRef, useState, type ReactNode } from 'react';
import { clock } from '../format.ts';
import { timeTicks, valueTicks } from './scale.ts';

export interface Series {
  readonly name: string;
  /** A CSS colour, usually a variable. */
  readonly color: string;
  /** One per time; NaN where there is none. */
  readonly values: readonly number[];
  /** Lines only: a dash pattern, so that colour is not the only difference. */
  readonly dash?: string;
}

export interface TimeChartProps {
  readonly label: string;
  readonly kind: 'bars' | 'lines';
  readonly times: readonly number[];
  /** Length of a window in milliseconds. */
  readonly step: number;
  readonly from: number;
  readonly to: number;
  readonly series: readonly Series[];
  /** Windows that end after this may still change. */
  readonly openAfter?: number;
  readonly format: (value: number) => string;
  readonly hover: number | null;
  readonly onHover: (time: number | null) => void;
  readonly height?: number;
}

const left = 46;
const right = 10;
const top = 8;
const bottom = 20;

export function useWidth(): [(element: HTMLElement | null) => void, number] {
  const [width, setWidth] = useState(0);
  const observer = useRef<ResizeObserver | null>(null);
  const attach = useCallback((element: HTMLElement | null) => {
    observer.current?.disconnect();
    if (element === null) return;
    setWidth(element.clientWidth);
    observer.current = new ResizeObserver(() => setWidth(element.clientWidth));
    observer.current.observe(element);
  }, []);
  return [attach, width];
}

export function TimeChart(props: TimeChartProps): ReactNode {
  const [attach, width] = useWidth();
  const height = props.height ?? 150;
  return (
    <div className="chart" ref={attach} style={{ height }}>
      {width > 60 ? <Drawing {...props} width={width} height={height} /> : null}
    </div>
  );
}

function Drawing(props: TimeChartProps & { readonly width: number; readonly height: number }): ReactNode {
  const { times, series, step, from, to, width, height, hover } = props;
  const plotWidth = width - left - right;
  const plotHeight = height - top - bottom;
  const shown = times.flatMap((time, index) => (time + step > from && time < to ? [index] : []));
  const tops = shown.map((index) =>
    props.kind === 'bars'
      ? series.reduce((sum, { values }) => sum + finite(values[index]), 0)
      : Math.max(0, ...series.map(({ values }) => finite(values[index]))),
  );
  const ticks = valueTicks(tops.reduce((most, value) => Math.max(most, value), 0));
  const most = ticks.at(-1) ?? 1;
  const x = (time: number): number => left + ((time - from) / (to - from)) * plotWidth;
  const y = (value: number): number => top + plotHeight - (Math.min(value, most) / most) * plotHeight;
  const barWidth = Math.max(1, (step / (to - from)) * plotWidth - (plotWidth / ((to - from) / step) > 16 ? 4 : plotWidth / ((to - from) / step) > 5 ? 1.5 : 0.25));
  const openAfter = props.openAfter ?? Infinity;
  const hovered = hover === null ? undefined : shown.find((index) => { const time = times[index] ?? NaN; return hover >= time && hover < time + step; });

  const point = (event: React.PointerEvent<SVGSVGElement>): void => {
    const box = event.currentTarget.getBoundingClientRect();
    const time = from + ((event.clientX - box.left - left) / plotWidth) * (to - from);
    props.onHover(time < from || time > to ? null : time);
  };

  return (
    <>
      <svg width={width} height={height} role="img" aria-label={props.label} onPointerMove={point} onPointerLeave={() => props.onHover(null)}>
        {ticks.map((tick) => (
          <g key={tick}>
            <line x1={left} x2={width - right} y1={Math.round(y(tick)) + 0.5} y2={Math.round(y(tick)) + 0.5} className={tick === 0 ? 'axis' : 'gridline'} />
            <text x={left - 7} y={y(tick) + 3.5} className="tick" textAnchor="end">
              {props.format(tick)}
            </text>
          </g>
        ))}
        {timeTicks(from, to, Math.max(2, Math.floor(plotWidth / 76))).map((tick) => (
          <text key={tick} x={Math.min(x(tick), width - 2)} y={height - 5} className="tick" textAnchor={x(tick) > width - 18 ? 'end' : 'middle'}>
            {clock(tick, to - from < 180_000 ? 'seconds' : 'minutes')}
          </text>
        ))}
        {hovered === undefined ? null : (
          <rect className="crosshair" x={x(times[hovered] ?? 0)} width={Math.max(1, (step / (to - from)) * plotWidth)} y={top} height={plotHeight} />
        )}
        {props.kind === 'bars'
          ? shown.map((index) => {
              let base = 0;
              const time = times[index] ?? 0;
              const at = Math.max(left, x(time));
              return (
                <g key={time} opacity={time + step > openAfter ? 0.5 : 1}>
                  {series.map(({ name, color, values }) => {
                    const value = finite(values[index]);
                    if (value <= 0) return null;
                    const lower = y(base);
                    base += value;
                    const upper = Math.min(y(base), lower - 1);
                    return <rect key={name} rx={barWidth > 6 ? 1.5 : 0} x={at} width={Math.max(0.5, Math.min(barWidth, width - right - at))} y={upper} height={lower - upper} fill={color} />;
                  })}
                </g>
              );
            })
          : series.map(({ name, color, values, dash }) => (
              <g key={name} fill="none" stroke={color} strokeWidth={1.75} strokeLinejoin="round" strokeLinecap="round" strokeDasharray={dash}>
                {runs(shown, times, values, step).map((run) => {
                  const points = run.map((index) => `${x((times[index] ?? 0) + step / 2).toFixed(1)},${y(finite(values[index])).toFixed(1)}`);
                  const first = run[0] ?? 0;
                  return run.length === 1 ? (
                    <circle key={first} cx={x((times[first] ?? 0) + step / 2)} cy={y(finite(values[first]))} r={2} fill={color} stroke="none" />
                  ) : (
                    <polyline key={first} points={points.join(' ')} />
                  );
                })}
                {hovered !== undefined && Number.isFinite(values[hovered]) ? (
                  <circle cx={x((times[hovered] ?? 0) + step / 2)} cy={y(finite(values[hovered]))} r={3} fill={color} stroke="var(--surface)" />
                ) : null}
              </g>
            ))}
      </svg>
      {hovered === undefined ? null : (
        <div className="chart-tip" aria-hidden="true" style={tipPlace(x(times[hovered] ?? 0), width)}>
          <div className="chart-tip-time">
            {clock(times[hovered] ?? NaN, step < 60_000 ? 'seconds' : 'minutes')}
            {(times[hovered] ?? 0) + step > openAfter ? ' · still open' : ''}
          </div>
          {[...series].reverse().map(({ name, color, values }) => (
            <div key={name} className="chart-tip-line">
              <i style={{ background: color }} />
              <span>{name}</span>
              <b>{Number.isFinite(values[hovered]) ? props.format(values[hovered] ?? NaN) : '—'}</b>
            </div>
          ))}
        </div>
      )}
    </>
  );
}

function finite(value: number | undefined): number {
  return value !== undefined && Number.isFinite(value) ? value : 0;
}

function tipPlace(at: number, width: number): React.CSSProperties {
  return at < width / 2 ? { left: at + 14 } : { right: width - at + 8 };
}

/** Neighbouring windows that have a value: a line is broken where windows are missing. */
function runs(shown: readonly number[], times: readonly number[], values: readonly number[], step: number): number[][] {
  const all: number[][] = [];
  let last = NaN;
  for (const index of shown) {
    if (!Number.isFinite(values[index])) continue;
    const time = times[index] ?? NaN;
    if (time - last <= step * 1.01) all.at(-1)?.push(index);
    else all.push([index]);
    last = time;
  }
  return all;
}
