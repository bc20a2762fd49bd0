/** Traces, newest first, narrowed by filters that live in the address. */
import { useEffect, useState, type ReactNode } from 'react';
import { listTraces } from '../api/client.ts';
import type { Problem } from '../api/problem.ts';
import type { TraceItem } from '../api/types.ts';
import { asProblem, useRequest } from '../api/use-request.ts';
import { compact, duration, integer, line, moment, plural, toMillis, toNumber } from '../format.ts';
import { FirstData } from '../parts/first-data.tsx';
import { Icon } from '../parts/icons.tsx';
import { Loading } from '../parts/loading.tsx';
import { ProblemBox } from '../parts/problem-box.tsx';
import { go, href, replace, useRoute, withQuery } from '../route.ts';
import { apiQuery, isFiltered } from './filters.ts';

const pageSize = 50;

/** A value that follows another one after a pause. */
function useSettled(value: string, pause: number): string {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), pause);
    return () => clearTimeout(timer);
  }, [value, pause]);
  return settled;
}

export default function TracesPage(): ReactNode {
  const route = useRoute();
  const key = useSettled(route.query.toString(), 250);
  const [more, setMore] = useState<{ key: string; items: readonly TraceItem[]; cursor: string | null } | null>(null);
  const [loadingMore, setLoadingMore] = useState(false);
  const [moreProblem, setMoreProblem] = useState<Problem | null>(null);
  const extended = more?.key === key ? more : null;
  const query = (): Record<string, string | number | undefined> => ({ ...apiQuery(new URLSearchParams(key), Date.now()), limit: pageSize });
  const { value, problem, loading, reload } = useRequest(`traces ${key}`, async (signal) => ({ ...(await listTraces(query(), signal)), at: Date.now() }), { every: extended === null ? 3000 : undefined, keep: true });

  const cursor = extended === null ? (value?.next_cursor ?? null) : extended.cursor;
  const loadMore = async (): Promise<void> => {
    if (cursor === null) return;
    setLoadingMore(true);
    setMoreProblem(null);
    try {
      const page = await listTraces({ ...query(), cursor });
      setMore({ key, items: [...(extended?.items ?? []), ...page.items], cursor: page.next_cursor });
    } catch (cause) {
      setMoreProblem(asProblem(cause));
    } finally {
      setLoadingMore(false);
    }
  };

  const known = new Set<string>();
  const items = [...(value?.items ?? []), ...(extended?.items ?? [])].filter((item) => !known.has(item.trace_id) && known.add(item.trace_id));
  const longest = items.reduce((most, item) => Math.max(most, item.duration_ms ?? 0), 0);
  const filtered = isFiltered(route.query) || route.query.has('range');
  return (
    <div className="page">
      <header className="page-head">
        <h1>Traces</h1>
        <span className="muted" role="status">{value === null ? '' : `${plural(items.length, 'trace')}${cursor === null ? '' : ', more below'}`}</span>
        <span className="spring" />
        {extended === null ? <span className="muted">follows new traces</span> : <button type="button" className="button small" onClick={() => { setMore(null); reload(); }}>Back to the newest</button>}
      </header>
      <Filters />
      {problem === null ? null : <ProblemBox problem={problem} onRetry={reload} />}
      {value === null && problem === null ? <Loading what="Reading traces…" /> : null}
      {value === null ? null : items.length === 0 ? (
        filtered ? (
          <div className="empty">
            <h2>No trace fits these filters</h2>
            <p>{loading ? 'Looking…' : 'New traces that fit appear here by themselves.'}</p>
            <p><button type="button" className="button" onClick={() => replace('#/traces')}>Clear the filters</button></p>
          </div>
        ) : (
          <>
            <FirstData what="No traces in the last hour" />
            <p className="empty"><button type="button" className="button" onClick={() => replace('#/traces?range=31d')}>Look 31 days back</button></p>
          </>
        )
      ) : (
        <section className="card" aria-label="Traces">
          {/* A region that scrolls must be reachable by keyboard. */}
          {/* eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex */}
          <div className="table-scroll" tabIndex={0} role="region" aria-label="Traces">
            <table className="table traces">
              <thead>
                <tr>
                  <th scope="col" title="When the newest span of the trace ended; the list follows it">Ended</th>
                  <th scope="col">Name</th>
                  <th scope="col">Service</th>
                  <th scope="col" className="numeric">Duration</th>
                  <th scope="col"><span className="visually-hidden">Duration compared</span></th>
                  <th scope="col" className="numeric">Spans</th>
                  <th scope="col" className="numeric">Errors</th>
                  <th scope="col">Models</th>
                  <th scope="col" className="numeric">Tokens in</th>
                  <th scope="col" className="numeric">out</th>
                  <th scope="col">User</th>
                </tr>
              </thead>
              <tbody>
                {items.map((item) => <TraceRow key={item.trace_id} item={item} longest={longest} now={value.at} />)}
              </tbody>
            </table>
          </div>
          {moreProblem === null ? null : <ProblemBox problem={moreProblem} />}
          {cursor === null ? null : <p className="card-foot"><button type="button" className="button" disabled={loadingMore} onClick={() => void loadMore()}>{loadingMore ? 'Loading…' : 'Older traces'}</button></p>}
        </section>
      )}
    </div>
  );
}

function TraceRow({ item, longest, now }: { readonly item: TraceItem; readonly longest: number; readonly now: number }): ReactNode {
  const errors = toNumber(item.error_count ?? 0);
  const failed = item.status?.toLowerCase() === 'error';
  const name = line(item.root_name ?? '').slice(0, 300);
  const target = href(['traces', item.trace_id]);
  const share = longest > 0 ? Math.sqrt(Math.max(0, item.duration_ms ?? 0) / longest) * 100 : 0;
  return (
    <tr className="linked" onClick={(event) => { if (!(event.target as HTMLElement).closest('a')) go(target); }}>
      <td className="muted" title={`started ${moment(toMillis(item.start_time), now, 'millis')}`}>{moment(toMillis(item.start_time) + Math.max(0, item.duration_ms ?? 0), now)}</td>
      <th scope="row" className="wide">
        {failed ? <span className="bad" title="The root span failed"><Icon name="alert" size={13} /> </span> : null}
        <a href={target}>{name.trim() === '' ? item.trace_id.slice(0, 16) : name}</a>
      </th>
      <td className="short" title={line(item.service_name ?? '').slice(0, 2000)}>{line(item.service_name ?? '').slice(0, 80)}</td>
      <td className="numeric">{duration(item.duration_ms ?? NaN)}</td>
      <td><span className="share-bar" aria-hidden="true"><i className={errors > 0 ? 'failed' : ''} style={{ width: `${share}%` }} /></span></td>
      <td className="numeric">{integer(item.span_count)}</td>
      <td className={errors > 0 ? 'numeric bad' : 'numeric muted'}>{integer(item.error_count ?? 0)}</td>
      <td className="models" title={(item.models ?? []).map(line).join(', ').slice(0, 2000)}><Models names={item.models ?? []} /></td>
      <td className="numeric">{tokens(item.input_tokens)}</td>
      <td className="numeric">{tokens(item.output_tokens)}</td>
      <td className="short">{line(item.user_id ?? '').slice(0, 60)}</td>
    </tr>
  );
}

function Models({ names }: { readonly names: readonly string[] }): ReactNode {
  const first = names[0];
  if (first === undefined) return null;
  return (
    <>
      <span className="chip">{line(first).slice(0, 40)}</span>
      {names.length > 1 ? <span className="muted"> +{names.length - 1}</span> : null}
    </>
  );
}

function tokens(count: TraceItem['input_tokens']): string {
  const number = toNumber(count ?? null);
  return number > 0 ? compact(number) : '';
}

function Filters(): ReactNode {
  const route = useRoute();
  const value = (name: string): string => route.query.get(name) ?? '';
  const set = (changes: Record<string, string>): void => replace(withQuery(route, changes));
  const [open, setOpen] = useState(['user', 'session', 'min_duration_ms', 'max_duration_ms', 'from', 'to'].some((name) => route.query.has(name)));
  const input = (name: string, label: string, more: { type?: string; width?: number } = {}): ReactNode => (
    <label className="filter">
      <span>{label}</span>
      <input className="field" type={more.type ?? 'text'} style={{ width: `${more.width ?? 16}ch` }} value={value(name)} onChange={(event) => set({ [name]: event.target.value })} {...(more.type === 'number' ? { min: 0, step: 'any' } : {})} />
    </label>
  );
  return (
    <form className="filters" role="search" aria-label="Filter traces" onSubmit={(event) => event.preventDefault()}>
      <label className="filter grow">
        <span>Name contains</span>
        <input className="field" type="search" value={value('q')} onChange={(event) => set({ q: event.target.value })} />
      </label>
      {input('service', 'Service')}
      {input('model', 'Model')}
      <label className="filter">
        <span>Status</span>
        <select className="field" value={value('status')} onChange={(event) => set({ status: event.target.value })}>
          <option value="">any</option>
          <option value="error">error</option>
          <option value="ok">ok</option>
          <option value="unset">unset</option>
        </select>
      </label>
      <label className="filter">
        <span>Time</span>
        <select className="field" value={value('range')} onChange={(event) => set({ range: event.target.value, from: '', to: '' })}>
          <option value="">last hour</option>
          <option value="15m">last 15 min</option>
          <option value="6h">last 6 hours</option>
          <option value="24h">last 24 hours</option>
          <option value="7d">last 7 days</option>
          <option value="31d">last 31 days</option>
        </select>
      </label>
      <button type="button" className="button" aria-expanded={open} onClick={() => setOpen(!open)}>{open ? 'Fewer' : 'More'}</button>
      {isFiltered(route.query) || route.query.has('range') ? <button type="button" className="button" onClick={() => replace('#/traces')}>Clear</button> : null}
      {open ? (
        <div className="filters-more">
          {input('user', 'User')}
          {input('session', 'Session')}
          {input('min_duration_ms', 'At least (ms)', { type: 'number', width: 10 })}
          {input('max_duration_ms', 'At most (ms)', { type: 'number', width: 10 })}
          {input('from', 'From', { type: 'datetime-local', width: 22 })}
          {input('to', 'Until', { type: 'datetime-local', width: 22 })}
        </div>
      ) : null}
    </form>
  );
}
