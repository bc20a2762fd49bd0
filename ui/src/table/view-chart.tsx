/** A small chart over a view with windows. */
import { useMemo, useState, type ReactNode } from 'react';
import { TimeChart } from '../charts/time-chart.tsx';
import { axisFormat, duration, line } from '../format.ts';
import type { LiveView } from '../live/live-view.ts';
import { chartColumns, viewSeries } from './view-series.ts';

const colors = ['var(--requests)', 'var(--tokens-out)', 'var(--tokens-in)', 'var(--latency-mid)', 'var(--latency-high)'];
const dashes = [undefined, '6 3', '2 3', '8 3 2 3', '1 4'];
const mostRows = 150_000;
/** Above this the chart is drawn anew every few seconds instead of with every frame. */
const manyRows = 5000;
const everyMillis = 2000;

export function ViewChart({ view, version }: { readonly view: LiveView; readonly version: number }): ReactNode {
  const [hover, setHover] = useState<number | null>(null);
  const [wanted, setWanted] = useState<string | null>(null);
  const chart = useMemo(() => chartColumns(view.columns), [view.columns]);
  const number = chart === null ? undefined : (chart.numbers.find((index) => view.columns[index]?.name === wanted) ?? chart.numbers[0]);
  const moment = view.content.size > manyRows ? Math.floor(view.toldAt / everyMillis) : version;
  const series = useMemo(
    () => (chart === null || number === undefined || view.content.size === 0 || view.content.size > mostRows ? null : viewSeries(view.content.rows(), view.columns, chart, number)),
    // eslint-disable-next-line react-hooks/exhaustive-deps -- the content changes in place; `moment` tells when
    [chart, number, view, moment],
  );
  const first = series?.times[0];
  if (chart === null || series === null || first === undefined || number === undefined) return null;
  const last = series.times.at(-1) ?? first;
  const name = view.columns[number]?.name ?? '';
  return (
    <section className="card tile" aria-label="Chart">
      <header>
        <h2>
          <label className="chart-number">
            <span className="visually-hidden">Column drawn</span>
            <select value={name} onChange={(event) => setWanted(event.target.value)}>
              {chart.numbers.map((index) => (
                <option key={index} value={view.columns[index]?.name}>{line(view.columns[index]?.name ?? '')}</option>
              ))}
            </select>
          </label>
          <span className="muted chart-step">by window of {windowText(series.step)}</span>
        </h2>
        <span className="legends">
          {series.lines.length === 1 && series.lines[0]?.name === '' ? null : series.lines.map((one, index) => (
            <span key={one.name} className="legend">
              <svg width="14" height="8" aria-hidden="true"><line x1="0" x2="14" y1="4" y2="4" stroke={colors[index]} strokeWidth="3" strokeDasharray={dashes[index]} /></svg>
              <span title={line(one.name)}>{line(one.name).slice(0, 200)}</span>
            </span>
          ))}
          {series.left > 0 ? <span className="muted">and {series.left} smaller</span> : null}
        </span>
      </header>
      <TimeChart
        label={`${name} over time`}
        kind="lines"
        times={series.times}
        step={series.step}
        from={Math.min(first, last - 14 * series.step)}
        to={last + series.step}
        series={series.lines.map((one, index) => ({ name: line(one.name).slice(0, 60) || name, color: colors[index] ?? '', values: one.values, ...(dashes[index] === undefined ? {} : { dash: dashes[index] }) }))}
        format={axisFormat(name)}
        hover={hover}
        onHover={setHover}
        height={130}
      />
    </section>
  );
}

function windowText(millis: number): string {
  if (millis % 3_600_000 === 0) return `${millis / 3_600_000} h`;
  return millis % 60_000 === 0 ? `${millis / 60_000} min` : duration(millis);
}
