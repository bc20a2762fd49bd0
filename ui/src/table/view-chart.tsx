/** A chart of a view: lines over its windows, or bars of its largest rows where it has none. */
import { useMemo, useState, type ReactNode } from 'react';
import { TimeChart } from '../charts/time-chart.tsx';
import { axisFormat, duration, integer, line } from '../format.ts';
import type { LiveView } from '../live/live-view.ts';
import type { Column } from '../live/protocol.ts';
import { rankColumns, viewRanks } from './view-ranks.ts';
import { chartColumns, viewSeries } from './view-series.ts';

const colors = ['var(--requests)', 'var(--tokens-out)', 'var(--tokens-in)', 'var(--latency-mid)', 'var(--latency-high)'];
const dashes = [undefined, '6 3', '2 3', '8 3 2 3', '1 4'];
const mostRows = 150_000;
/** Above this the chart is drawn anew every few seconds instead of with every frame. */
const manyRows = 5000;
const everyMillis = 2000;

export type ChartKind = 'lines' | 'bars';

/** How a view can be drawn; `null`: not at all. */
export function chartKind(columns: readonly Column[]): ChartKind | null {
  return chartColumns(columns) !== null ? 'lines' : rankColumns(columns) !== null ? 'bars' : null;
}

export interface ViewChartProps {
  readonly view: LiveView;
  readonly version: number;
  /** Without the table below it. */
  readonly alone: boolean;
}

export function ViewChart(props: ViewChartProps): ReactNode {
  switch (chartKind(props.view.columns)) {
    case 'lines': return <WindowLines {...props} />;
    case 'bars': return <RankBars {...props} />;
    case null: return null;
  }
}

/** What the chart shows changes with every frame, or every few seconds where that is too much. */
function momentOf(view: LiveView, version: number): number {
  return view.content.size > manyRows ? Math.floor(view.toldAt / everyMillis) : version;
}

function MeasureChoice({ columns, numbers, value, onChange }: { readonly columns: readonly Column[]; readonly numbers: readonly number[]; readonly value: string; readonly onChange: (name: string) => void }): ReactNode {
  return (
    <label className="chart-number">
      <span className="visually-hidden">Column drawn</span>
      <select value={value} onChange={(event) => onChange(event.target.value)}>
        {numbers.map((index) => (
          <option key={index} value={columns[index]?.name}>{line(columns[index]?.name ?? '')}</option>
        ))}
      </select>
    </label>
  );
}

/** Why there is no chart, where that is all there would be. */
function NoChart({ view, alone }: ViewChartProps): ReactNode {
  if (!alone) return null;
  const why = view.content.size === 0 ? 'No rows yet. The chart fills as matching telemetry arrives.' : view.content.size > mostRows ? `A chart is drawn of at most ${integer(mostRows)} rows; the table shows them all.` : 'No row has a number to draw.';
  return <section className="card empty" aria-label="Chart"><p>{why}</p></section>;
}

function RankBars(props: ViewChartProps): ReactNode {
  const { view, version } = props;
  const [wanted, setWanted] = useState<string | null>(null);
  const chart = useMemo(() => rankColumns(view.columns), [view.columns]);
  const number = chart?.numbers.find((index) => view.columns[index]?.name === wanted) ?? chart?.numbers[0];
  const moment = momentOf(view, version);
  const ranks = useMemo(
    () => (chart === null || number === undefined || view.content.size === 0 || view.content.size > mostRows ? null : viewRanks(view.content.rows(), view.columns, chart, number)),
    // eslint-disable-next-line react-hooks/exhaustive-deps -- the content changes in place; `moment` tells when
    [chart, number, view, moment],
  );
  if (chart === null || number === undefined || ranks === null || ranks.bars.length === 0) return <NoChart {...props} />;
  const name = view.columns[number]?.name ?? '';
  const format = axisFormat(name);
  const largest = Math.abs(ranks.bars[0]?.value ?? 0);
  return (
    <section className="card tile" aria-label="Chart">
      <header>
        <h2>
          <MeasureChoice columns={view.columns} numbers={chart.numbers} value={name} onChange={setWanted} />
          <span className="muted chart-step">the largest{ranks.left > 0 ? `, and ${integer(ranks.left)} smaller` : ''}</span>
        </h2>
      </header>
      <ol className="rank-bars">
        {ranks.bars.map((bar) => (
          <li key={bar.sequence}>
            <span className="rank-name" title={line(bar.name).slice(0, 500)}>{line(bar.name).slice(0, 200)}</span>
            <span className="rank-track" aria-hidden="true"><i className={bar.value < 0 ? 'below' : undefined} style={{ width: `${largest > 0 ? (Math.abs(bar.value) / largest) * 100 : 0}%` }} /></span>
            <span className="rank-value">{format(bar.value)}</span>
          </li>
        ))}
      </ol>
    </section>
  );
}

function WindowLines(props: ViewChartProps): ReactNode {
  const { view, version, alone } = props;
  const [hover, setHover] = useState<number | null>(null);
  const [wanted, setWanted] = useState<string | null>(null);
  const chart = useMemo(() => chartColumns(view.columns), [view.columns]);
  const number = chart === null ? undefined : (chart.numbers.find((index) => view.columns[index]?.name === wanted) ?? chart.numbers[0]);
  const moment = momentOf(view, version);
  const series = useMemo(
    () => (chart === null || number === undefined || view.content.size === 0 || view.content.size > mostRows ? null : viewSeries(view.content.rows(), view.columns, chart, number)),
    // eslint-disable-next-line react-hooks/exhaustive-deps -- the content changes in place; `moment` tells when
    [chart, number, view, moment],
  );
  const first = series?.times[0];
  if (chart === null || series === null || first === undefined || number === undefined) return <NoChart {...props} />;
  const last = series.times.at(-1) ?? first;
  const name = view.columns[number]?.name ?? '';
  return (
    <section className="card tile" aria-label="Chart">
      <header>
        <h2>
          <MeasureChoice columns={view.columns} numbers={chart.numbers} value={name} onChange={setWanted} />
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
        height={alone ? 340 : 130}
      />
    </section>
  );
}

function windowText(millis: number): string {
  if (millis % 3_600_000 === 0) return `${millis / 3_600_000} h`;
  return millis % 60_000 === 0 ? `${millis / 60_000} min` : duration(millis);
}
