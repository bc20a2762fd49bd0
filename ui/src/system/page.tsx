/** How the engine is doing and what it spends on what: the status, and the relations in which it tells about itself. */
import { useRef, type ReactNode } from 'react';
import { readStatus } from '../api/client.ts';
import { useRequest } from '../api/use-request.ts';
import { toNumber } from '../format.ts';
import { Loading } from '../parts/loading.tsx';
import { ProblemBox } from '../parts/problem-box.tsx';
import { Segments } from '../parts/segments.tsx';
import { replace, useRoute, withQuery } from '../route.ts';
import { Health } from './health.tsx';
import { amount, perSecond, textOf, type Reading } from './records.ts';
import { ArrangementsTable, LeftOutTables, monitorKey, MonitorsTable, OperatorsTable, StreamsTable } from './tables.tsx';
import { everyMillis, useInternal } from './use-internal.ts';

const tabs = [
  { value: 'monitors', label: 'Monitors' },
  { value: 'operators', label: 'Operators' },
  { value: 'arrangements', label: 'Arrangements' },
  { value: 'streams', label: 'Streams' },
  { value: 'left-out', label: 'Left out' },
] as const;

export default function SystemPage(): ReactNode {
  const route = useRoute();
  const last = useRef<Reading | null>(null);
  const { value, problem, reload } = useRequest('status', async (signal) => {
    const status = await readStatus(signal);
    const all = Object.values(status.rows_admitted ?? {}).reduce((sum: number, count) => sum + toNumber(count), 0);
    const reading: Reading = { at: performance.now(), counts: new Map([['rows', all]]) };
    const rate = perSecond(reading, last.current).get('rows') ?? NaN;
    last.current = reading;
    return { status, rate };
  }, { every: everyMillis });
  const monitors = useInternal('monitors', 'busy_us', monitorKey);
  const wanted = route.query.get('show');
  const shown = tabs.find((tab) => tab.value === wanted)?.value ?? 'monitors';
  const list = monitors.entries;
  const stopped = list === null ? null : list.filter((entry) => textOf(entry, 'state') === 'stopped').length;
  return (
    <div className="page full system">
      <header className="page-head">
        <h1>System</h1>
        <span className="muted">how the engine is doing, and what it spends on what</span>
        <span className="spring" />
        {value?.status.version === undefined ? null : <span className="muted">PyFlare {value.status.version}</span>}
      </header>
      {problem === null ? null : <ProblemBox problem={problem} onRetry={reload} />}
      {value === null ? (problem === null ? <Loading what="Reading the status…" /> : null) : (
        <Health
          status={value.status}
          rowsPerSecond={value.rate}
          running={list === null || stopped === null ? null : list.length - stopped}
          stopped={stopped}
          stateBytes={list === null ? null : list.reduce((sum, entry) => sum + amount(entry, 'state_bytes'), 0)}
        />
      )}
      <div><Segments label="What is shown" value={shown} options={tabs} onChange={(tab) => replace(withQuery(route, { show: tab === 'monitors' ? undefined : tab }))} /></div>
      {shown === 'monitors' ? <MonitorsTable internal={monitors} /> : null}
      {shown === 'operators' ? <OperatorsTable /> : null}
      {shown === 'arrangements' ? <ArrangementsTable /> : null}
      {shown === 'streams' ? <StreamsTable tick={toNumber(value?.status.tick ?? NaN)} /> : null}
      {shown === 'left-out' ? <LeftOutTables /> : null}
    </div>
  );
}
