/** The tables of the system page, one per internal relation. */
import type { ReactNode } from 'react';
import { bytes, clock, compact, duration, integer, line, nothing, percent, plural, toMillis, toNumber } from '../format.ts';
import { StateChip } from '../monitors/list-page.tsx';
import { stopReason } from '../monitors/stopped.tsx';
import { Loading } from '../parts/loading.tsx';
import { ProblemBox } from '../parts/problem-box.tsx';
import { href } from '../route.ts';
import { amount, isMissing, names, textOf, type Entry } from './records.ts';
import { SortedGrid, TextCell, type SortedColumn } from './sorted-grid.tsx';
import { useInternal, type Internal } from './use-internal.ts';

type Column = SortedColumn<Entry>;

const text = (name: string, title: string, width: number, hint?: string): Column => ({ name: title, width, ...(hint === undefined ? {} : { hint }), by: (entry) => textOf(entry, name), cell: (entry) => <TextCell text={textOf(entry, name) || nothing} /> });
const number = (name: string, title: string, width: number, hint: string): Column => ({ name: title, width, hint, numeric: true, by: (entry) => amount(entry, name), cell: (entry) => integer(entry[name] ?? null) });
const size = (name: string, title: string, hint: string): Column => ({ name: title, width: 11, hint, numeric: true, by: (entry) => amount(entry, name), cell: (entry) => bytes(amount(entry, name)) });

/** Counted since the start; those that are zero are quiet. */
const fault = (name: string, title: string, width: number, hint: string): Column => ({ ...number(name, title, width, hint), cell: (entry) => (amount(entry, name) > 0 ? <span className="bad">{integer(entry[name] ?? null)}</span> : <span className="muted">0</span>) });

/** The part of all the time that is taken, as a number and a bar. */
function share(entries: readonly Entry[]): Column {
  const all = entries.reduce((sum, entry) => sum + amount(entry, 'busy_us'), 0);
  const of = (entry: Entry): number => (all > 0 ? amount(entry, 'busy_us') / all : 0);
  const largest = entries.reduce((most, entry) => Math.max(most, of(entry)), 0);
  return {
    name: 'Busy share', width: 15, numeric: true, hint: 'Part of the time that all of them took together',
    by: of,
    cell: (entry) => <span className="share-cell" title={duration(amount(entry, 'busy_us') / 1000)}><i className="share-bar" aria-hidden="true"><i style={{ width: `${largest > 0 ? (of(entry) / largest) * 100 : 0}%` }} /></i>{percent(of(entry))}</span>,
  };
}

/** Microseconds a second are millionths of one core. */
function busyNow(internal: Internal, key: (entry: Entry) => string): Column {
  const rate = (entry: Entry): number => internal.rates.get(key(entry)) ?? NaN;
  return { name: 'Now', width: 9, numeric: true, hint: 'Part of one core in the last two seconds', by: rate, cell: (entry) => percent(rate(entry) / 1e6) };
}

function projects(entries: readonly Entry[]): Column[] {
  return new Set(entries.map((entry) => textOf(entry, 'project')).filter((project) => project !== '')).size > 1 ? [text('project', 'Project', 14)] : [];
}

/** A monitor's name, as the way to its plan. */
function monitorColumn(name: string): Column {
  return { name: 'Monitor', width: 26, by: (entry) => textOf(entry, name), cell: (entry) => <a href={href(['monitors', textOf(entry, name)], { show: 'plan' })} title={line(textOf(entry, name))}>{line(textOf(entry, name))}</a> };
}

/** What there is to say while there is no table. */
function Waiting({ internal, relation }: { readonly internal: Internal; readonly relation: string }): ReactNode {
  const { problem } = internal;
  if (problem === null) return <Loading what={`Reading pyflare_internal.${relation}…`} />;
  if (isMissing(problem)) {
    return (
      <section className="card empty" aria-label="Not available">
        <h2>Not available on this server</h2>
        <p>It has no relation <code>pyflare_internal.{relation}</code>, in which newer versions of PyFlare tell about themselves.</p>
      </section>
    );
  }
  return <ProblemBox problem={problem} onRetry={internal.reload} />;
}

function Cut({ internal }: { readonly internal: Internal }): ReactNode {
  return internal.truncated ? <span className="chip bad">only the first {integer(internal.entries?.length ?? 0)}</span> : null;
}

export const monitorKey = (entry: Entry): string => `${textOf(entry, 'project')}/${textOf(entry, 'name')}`;

export function MonitorsTable({ internal }: { readonly internal: Internal }): ReactNode {
  const { entries } = internal;
  if (entries === null) return <Waiting internal={internal} relation="monitors" />;
  const columns: Column[] = [
    ...projects(entries),
    monitorColumn('name'),
    { name: 'State', width: 13, by: (entry) => textOf(entry, 'state'), cell: (entry) => <span title={stopReason(textOf(entry, 'reason')).text}><StateChip state={textOf(entry, 'state')} /></span> },
    number('rows', 'Rows', 11, 'Rows that the view shows'),
    number('changes', 'Changes', 13, 'Changes of the view since it was installed'),
    number('state_rows', 'Kept rows', 12, 'Rows that its operators keep'),
    size('state_bytes', 'Kept', 'Bytes that its operators keep, about'),
    share(entries),
    busyNow(internal, monitorKey),
    fault('late_rows', 'Late', 9, 'Rows that came too late to count'),
    fault('errors', 'Failed', 9, 'Rows left out because an expression failed on them'),
  ];
  return <SortedGrid label="Monitors by cost" noun="monitor" columns={columns} rows={entries} rowKey={monitorKey} text={(entry) => `${textOf(entry, 'name')} ${textOf(entry, 'project')} ${textOf(entry, 'state')}`} first="Busy share" empty="No monitor is installed." note={<Cut internal={internal} />} />;
}

const operatorKey = (entry: Entry): string => `${textOf(entry, 'worker')}/${textOf(entry, 'project')}/${textOf(entry, 'monitor')}/${textOf(entry, 'node')}/${textOf(entry, 'operator')}`;

export function OperatorsTable(): ReactNode {
  const internal = useInternal('operators', 'busy_us', operatorKey);
  const { entries } = internal;
  if (entries === null) return <Waiting internal={internal} relation="operators" />;
  const columns: Column[] = [
    ...projects(entries),
    monitorColumn('monitor'),
    number('node', 'Node', 7, 'Its number in the plan'),
    text('operator', 'Operator', 24),
    number('worker', 'Worker', 9, 'The thread it runs on'),
    number('rows_out', 'Rows out', 13, 'Changes sent on since it was installed'),
    number('state_rows', 'Kept rows', 12, 'Rows that it keeps'),
    size('state_bytes', 'Kept', 'Bytes that it keeps, about'),
    share(entries),
    busyNow(internal, operatorKey),
  ];
  return <SortedGrid label="Operators by cost" noun="operator" columns={columns} rows={entries} rowKey={operatorKey} text={(entry) => `${textOf(entry, 'monitor')} ${textOf(entry, 'operator')}`} first="Busy share" empty="No operator runs." note={<Cut internal={internal} />} />;
}

export function ArrangementsTable(): ReactNode {
  const internal = useInternal('arrangements', null, () => '');
  const { entries } = internal;
  if (entries === null) return <Waiting internal={internal} relation="arrangements" />;
  const readers = (entry: Entry): string[] => names(textOf(entry, 'views'));
  const saved = entries.reduce((sum, entry) => sum + amount(entry, 'bytes') * Math.max(0, readers(entry).length - 1), 0);
  const several = entries.filter((entry) => readers(entry).length > 1).length;
  const columns: Column[] = [
    number('arrangement', 'No.', 8, 'The number of the arrangement'),
    number('worker', 'Worker', 9, 'The thread that keeps it'),
    text('kind', 'Kind', 9, 'base: fed from a stream, for all views that can be read from it; graph: of one view'),
    text('stream', 'Stream', 11),
    { name: 'Read by', width: 40, hint: 'The views that are read from it', by: (entry) => readers(entry).length, cell: (entry) => <Readers list={readers(entry)} /> },
    number('rows', 'Rows', 12, 'Rows in it'),
    size('bytes', 'Kept', 'Bytes, about'),
  ];
  return (
    <SortedGrid
      label="Arrangements" noun="arrangement" columns={columns} rows={entries} first="Kept" empty="Nothing is kept yet."
      rowKey={(entry) => `${textOf(entry, 'worker')}/${textOf(entry, 'arrangement')}`}
      text={(entry) => `${textOf(entry, 'views')} ${textOf(entry, 'stream')} ${textOf(entry, 'kind')}`}
      note={<>{several === 0 ? null : <span className="muted">{plural(several, 'is', 'are')} shared: {bytes(saved)} less than one for each view</span>}<Cut internal={internal} /></>}
    />
  );
}

function Readers({ list }: { readonly list: readonly string[] }): ReactNode {
  if (list.length === 0) return nothing;
  return (
    <span title={line(list.join(', ')).slice(0, 2000)}>
      {list.length > 1 ? <span className="chip">{list.length} views</span> : null} {list.slice(0, 12).map((name, index) => <span key={name}>{index === 0 ? '' : ', '}<a href={href(['monitors', name.replace(/^.*\//, '')])}>{line(name)}</a></span>)}{list.length > 12 ? ', …' : ''}
    </span>
  );
}

const streamKey = (entry: Entry): string => `${textOf(entry, 'stream')}/${textOf(entry, 'partition')}`;

export function StreamsTable({ tick }: { readonly tick: number }): ReactNode {
  const internal = useInternal('streams', 'admitted_rows', streamKey);
  const { entries } = internal;
  if (entries === null) return <Waiting internal={internal} relation="streams" />;
  const mark = (entry: Entry): number => toMillis(entry['mark'] ?? null);
  const rate = (entry: Entry): number => internal.rates.get(streamKey(entry)) ?? NaN;
  const columns: Column[] = [
    text('stream', 'Stream', 18),
    number('partition', 'Partition', 10, 'Of the log'),
    { name: 'Mark', width: 16, numeric: true, hint: 'How far its event time has come', by: mark, cell: (entry) => (mark(entry) > 0 ? <span title={Number.isFinite(tick) ? `${duration(tick - mark(entry))} before the tick` : undefined}>{clock(mark(entry), 'millis')}</span> : nothing) },
    { name: 'Lag', width: 12, numeric: true, hint: 'How far it is behind', by: (entry) => toNumber(entry['lag_ms'] ?? null), cell: (entry) => duration(toNumber(entry['lag_ms'] ?? null)) },
    number('admitted_rows', 'Rows', 15, 'Rows admitted'),
    { name: 'Rows/s', width: 11, numeric: true, hint: 'In the last two seconds', by: rate, cell: (entry) => compact(rate(entry)) },
    number('backlog', 'Backlog', 12, 'In the log, not yet admitted'),
  ];
  return <SortedGrid label="Streams" noun="partition" columns={columns} rows={entries} rowKey={streamKey} text={(entry) => textOf(entry, 'stream')} first="Rows" empty="No stream has rows yet." note={<Cut internal={internal} />} />;
}

export function LeftOutTables(): ReactNode {
  const late = useInternal('late_rows', null, () => '');
  const errors = useInternal('errors', null, () => '');
  return (
    <div className="left-out">
      {late.entries === null ? <Waiting internal={late} relation="late_rows" /> : (
        <SortedGrid
          label="Late rows" titled noun="monitor" rows={late.entries.filter((entry) => amount(entry, 'late_rows') > 0)} first="Late rows" empty="No row came too late."
          columns={[...projects(late.entries), monitorColumn('monitor'), fault('late_rows', 'Late rows', 14, 'Rows that came after their window had left the view')]}
          rowKey={(entry) => `${textOf(entry, 'project')}/${textOf(entry, 'monitor')}`} text={(entry) => textOf(entry, 'monitor')} note={<Cut internal={late} />}
        />
      )}
      {errors.entries === null ? <Waiting internal={errors} relation="errors" /> : (
        <SortedGrid
          label="Failed rows" titled noun="error" rows={errors.entries} first="Rows" empty="No expression failed."
          columns={[...projects(errors.entries), monitorColumn('monitor'), text('error', 'Error', 44), fault('errors', 'Rows', 10, 'Rows left out')]}
          rowKey={(entry) => `${textOf(entry, 'project')}/${textOf(entry, 'monitor')}/${textOf(entry, 'error')}`} text={(entry) => `${textOf(entry, 'monitor')} ${textOf(entry, 'error')}`} note={<Cut internal={errors} />}
        />
      )}
    </div>
  );
}
