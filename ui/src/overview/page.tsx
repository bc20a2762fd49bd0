/** The overview: the four built-in views of the chosen project, live. */
import { useEffect, useMemo, useState, type ReactNode } from 'react';
import { useAccess } from '../access/access.ts';
import { listMonitors } from '../api/client.ts';
import { useRequest } from '../api/use-request.ts';
import { TimeChart, type Series } from '../charts/time-chart.tsx';
import { clock, compact, duration, integer, nothing, percent, plural } from '../format.ts';
import type { LiveView } from '../live/live-view.ts';
import { useLiveView, useVersion } from '../live/page-connection.ts';
import { FirstData } from '../parts/first-data.tsx';
import { Icon } from '../parts/icons.tsx';
import { Loading } from '../parts/loading.tsx';
import { ProblemBox } from '../parts/problem-box.tsx';
import { Segments } from '../parts/segments.tsx';
import { replace, useRoute, withQuery } from '../route.ts';
import { Breakdown } from './breakdown.tsx';
import { minute, MinuteIndex, summarise, type Summary } from './minutes.ts';

const ranges = { '15m': 15, '1h': 60, '6h': 360 } as const;
type Range = keyof typeof ranges;

/** Rows that come later than this after their window are the exception; until then the window counts as open. */
const usualLateness = 10_000;

function useIndexedView(view: string): { view: LiveView | null; index: MinuteIndex; version: number; retry: () => void } {
  const [index] = useState(() => new MinuteIndex());
  const [attempt, setAttempt] = useState(0);
  const opened = useLiveView(
    { view },
    { quiet: 250, onColumns: (columns) => index.setColumns(columns), onChange: (change) => index.apply(change) },
    attempt,
  );
  // While the server recovers a built-in view may not be there yet.
  const failed = opened?.error ?? opened?.ended ?? null;
  useEffect(() => {
    if (failed === null) return;
    const timer = setTimeout(() => setAttempt((value) => value + 1), 3000);
    return () => clearTimeout(timer);
  }, [failed]);
  return { view: opened, index, version: useVersion(opened), retry: () => setAttempt((value) => value + 1) };
}

export function OverviewPage(): ReactNode {
  const route = useRoute();
  const { project, known } = useAccess();
  const requests = useIndexedView('live.requests');
  const errors = useIndexedView('live.errors');
  const latency = useIndexedView('live.latency');
  const tokens = useIndexedView('live.tokens');
  const all = [requests, errors, latency, tokens];
  const [hover, setHover] = useState<number | null>(null);

  const asked = route.query.get('range') ?? '';
  const range: Range = Object.hasOwn(ranges, asked) ? (asked as Range) : '15m';
  const group = useMemo(() => parseGroup(route.query.get('group')), [route]);

  const upper = Math.min(...all.map(({ view }) => view?.asOf ?? Infinity));
  const asOf = Number.isFinite(upper) ? upper : null;
  const to = (Math.floor((asOf ?? 0) / minute) + 1) * minute;
  const from = to - ranges[range] * minute;
  const versions = all.map(({ version }) => version).join();
  const chosen = JSON.stringify(group);
  const summary = useMemo(
    () => summarise({ requests: requests.index, errors: errors.index, latency: latency.index, tokens: tokens.index }, { project, group, from, to }),
    // eslint-disable-next-line react-hooks/exhaustive-deps -- the indexes change in place; `versions` tells when
    [versions, project, chosen, from, to],
  );

  const failed = all.filter(({ view }) => view?.error ?? view?.ended);
  const waiting = asOf === null && failed.length === 0;
  const rowsOfProject = all.some(({ index }) => index.projects.has(project));
  const openAfter = (asOf ?? Infinity) - usualLateness;
  const shared = { times: summary.times, step: minute, from, to, openAfter, hover, onHover: setHover };

  return (
    <div className="page">
      <header className="page-head">
        <h1>Overview</h1>
        <span className="as-of" title="Everything up to this tick is in the numbers">
          {asOf === null ? 'no tick yet' : `as of tick ${clock(asOf, 'millis')}`}
        </span>
        <span className="spring" />
        {group === undefined ? null : (
          <button type="button" className="chip removable" onClick={() => replace(withQuery(route, { group: undefined }))}>
            {group.service ?? 'no service'} · {group.model ?? 'no model'}
            <Icon name="close" size={12} />
            <span className="visually-hidden">Show all groups</span>
          </button>
        )}
        <Segments
          label="Range"
          value={range}
          onChange={(value) => replace(withQuery(route, { range: value === '15m' ? undefined : value }))}
          options={[{ value: '15m', label: '15 min' }, { value: '1h', label: '1 h' }, { value: '6h', label: '6 h' }]}
        />
      </header>

      {failed.map(({ view, retry }) => (
        <ProblemBox
          key={view?.error?.message ?? view?.ended}
          title="A built-in view is not to be had."
          problem={view?.error ?? { code: '', message: `The server ended the subscription: ${view?.ended ?? ''}`, hint: null }}
          onRetry={retry}
        />
      ))}

      {waiting ? (
        <Waiting />
      ) : !rowsOfProject && asOf !== null ? (
        <>
          <FirstData what={known.length > 1 ? `No requests in project “${project}” in the last 6 hours` : 'No requests yet'} />
        </>
      ) : (
        <>
          <div className="tiles">
            <Tile
              title="Requests per minute"
              {...headline(summary.requests, summary, openAfter, integer)}
              note={`${compact(sum(summary.requests))} in range`}
              legend={[]}
            >
              <TimeChart label="Requests per minute" kind="bars" format={compact} {...shared} series={[{ name: 'requests', color: 'var(--requests)', values: summary.requests }]} />
            </Tile>
            <Tile
              title="Error rate"
              {...headline(summary.errorRate, summary, openAfter, percent)}
              note={`${plural(sum(summary.errors), 'error')} in range`}
              tone={(lastClosed(summary.errorRate, summary, openAfter) ?? 0) >= 0.05 ? 'bad' : undefined}
              legend={[]}
            >
              <TimeChart label="Error rate per minute" kind="bars" format={percent} {...shared} series={[{ name: 'error rate', color: 'var(--errors)', values: summary.errorRate }]} />
            </Tile>
            <Tile
              title="Latency p95"
              {...headline(summary.p95, summary, openAfter, duration)}
              note={summary.latencyGroups > 1 ? `slowest of ${summary.latencyGroups} groups in each minute` : 'this group'}
              noteHint="Percentiles of several groups cannot be added up. Choose a row below to see its own."
              legend={latencySeries(summary)}
            >
              <TimeChart label="Latency percentiles per minute" kind="lines" format={duration} {...shared} series={latencySeries(summary)} />
            </Tile>
            <Tile
              title="Tokens per minute"
              {...headline(summary.inputTokens.map((value, at) => value + (summary.outputTokens[at] ?? 0)), summary, openAfter, compact)}
              note={`${compact(sum(summary.inputTokens))} in · ${compact(sum(summary.outputTokens))} out in range`}
              legend={tokenSeries(summary)}
            >
              <TimeChart label="Tokens per minute" kind="bars" format={compact} {...shared} series={tokenSeries(summary)} />
            </Tile>
          </div>
          <Breakdown
            groups={summary.groups}
            chosen={group}
            minutes={ranges[range]}
            onChoose={(next) => replace(withQuery(route, { group: next === undefined ? undefined : JSON.stringify([next.service, next.model]) }))}
          />
        </>
      )}
    </div>
  );
}

/** Why there is no tick yet: the server's own words where it answers at all. */
function Waiting(): ReactNode {
  const { problem } = useRequest('why', (signal) => listMonitors(signal), { every: 2000 });
  return (
    <>
      <Loading what="Waiting for the first tick…" slow="PyFlare is starting, recovering its log, or not running. The page connects by itself as soon as it answers." />
      {problem === null ? null : <ProblemBox problem={problem} />}
    </>
  );
}

function parseGroup(text: string | null): { service: string | null; model: string | null } | undefined {
  try {
    const [service, model] = JSON.parse(text ?? '') as unknown[];
    return { service: typeof service === 'string' ? service : null, model: typeof model === 'string' ? model : null };
  } catch {
    return undefined;
  }
}

function latencySeries(summary: Summary): Series[] {
  return [
    { name: 'p50', color: 'var(--latency-low)', values: summary.p50 },
    { name: 'p95', color: 'var(--latency-mid)', values: summary.p95 },
    { name: 'p99', color: 'var(--latency-high)', values: summary.p99, dash: '3 3' },
  ];
}

function tokenSeries(summary: Summary): Series[] {
  return [
    { name: 'input', color: 'var(--tokens-in)', values: summary.inputTokens },
    { name: 'output', color: 'var(--tokens-out)', values: summary.outputTokens },
  ];
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function lastClosed(values: readonly number[], { times }: Summary, openAfter: number): number | null {
  for (let at = values.length - 1; at >= 0; at--) {
    if ((times[at] ?? 0) + minute <= openAfter) return values[at] ?? null;
  }
  return null;
}

/** The last closed minute in large, the open one beside it; on a fresh start the open one alone. */
function headline(values: readonly number[], summary: Summary, openAfter: number, format: (value: number) => string): { value: string; current: string } {
  const current = values.at(-1) ?? NaN;
  const closed = lastClosed(values, summary, openAfter);
  const before = summary.requests.slice(0, -1).some((value) => value > 0);
  if (closed === null || !before) return { value: Number.isFinite(current) ? format(current) : nothing, current: '' };
  return { value: Number.isFinite(closed) ? format(closed) : nothing, current: Number.isFinite(current) ? `${format(current)} so far this minute` : '' };
}

function Tile(props: {
  readonly title: string;
  readonly value: string;
  readonly current: string;
  readonly note: string;
  readonly noteHint?: string;
  readonly tone?: 'bad' | undefined;
  readonly legend: readonly Series[];
  readonly children: ReactNode;
}): ReactNode {
  return (
    <section className="card tile" aria-label={props.title}>
      <header>
        <h2>{props.title}</h2>
        <span className="tile-note" title={props.noteHint}>{props.note}</span>
      </header>
      <div className="tile-value">
        <strong className={props.tone}>{props.value}</strong>
        <span className="tile-current">{props.current}</span>
        <span className="spring" />
        {props.legend.map((series) => (
          <span key={series.name} className="legend">
            <svg width="14" height="8" aria-hidden="true">
              <line x1="0" x2="14" y1="4" y2="4" stroke={series.color} strokeWidth="3" strokeDasharray={series.dash} />
            </svg>
            {series.name}
          </span>
        ))}
      </div>
      {props.children}
    </section>
  );
}
