/** The chosen range by service and model. A row narrows the charts to itself. */
import { useState, type ReactNode } from 'react';
import { Sparkline } from '../charts/sparkline.tsx';
import { compact, duration, integer, line, percent } from '../format.ts';
import { Icon } from '../parts/icons.tsx';
import { href } from '../route.ts';
import type { GroupLine } from './minutes.ts';

const shownAtFirst = 50;

const orders = {
  requests: (group: GroupLine) => group.requests,
  errors: (group: GroupLine) => (group.judged > 0 ? group.errors / group.judged : 0),
  p50: (group: GroupLine) => group.p50 || 0,
  p95: (group: GroupLine) => group.p95 || 0,
  p99: (group: GroupLine) => group.p99 || 0,
  input: (group: GroupLine) => group.inputTokens,
  output: (group: GroupLine) => group.outputTokens,
} as const;
type Order = keyof typeof orders;

export function Breakdown(props: {
  readonly groups: readonly GroupLine[];
  readonly chosen: { readonly service: string | null; readonly model: string | null } | undefined;
  readonly minutes: number;
  readonly onChoose: (group: { service: string | null; model: string | null } | undefined) => void;
}): ReactNode {
  const [order, setOrder] = useState<Order>('requests');
  const [all, setAll] = useState(false);
  const total = props.groups.reduce((sum, group) => sum + group.requests, 0);
  const sorted = [...props.groups].sort((left, right) => orders[order](right) - orders[order](left));
  const shown = all ? sorted : sorted.slice(0, shownAtFirst);
  const head = (name: Order, label: string, hint?: string): ReactNode => (
    <th scope="col" className="numeric" aria-sort={order === name ? 'descending' : undefined} title={hint}>
      <button type="button" className="sort" onClick={() => setOrder(name)}>
        {label}
        <span aria-hidden="true" className="sort-arrow">{order === name ? '↓' : ''}</span>
      </button>
    </th>
  );
  const latest = 'In the newest minute with requests; percentiles of several minutes cannot be added up';
  return (
    <section className="card" aria-label="By service and model">
      <header className="card-head">
        <h2>By service and model</h2>
        <span className="muted">last {props.minutes < 60 ? `${props.minutes} min` : `${props.minutes / 60} h`}</span>
      </header>
      {/* A region that scrolls must be reachable by keyboard. */}
      {/* eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex */}
      <div className="table-scroll" tabIndex={0} role="region" aria-label="Groups">
        <table className="table">
          <thead>
            <tr>
              <th scope="col">Service</th>
              <th scope="col">Model</th>
              <th scope="col"><span className="visually-hidden">Requests over time</span></th>
              {head('requests', 'Requests')}
              <th scope="col" className="numeric">Share</th>
              {head('errors', 'Errors')}
              {head('p50', 'p50', latest)}
              {head('p95', 'p95', latest)}
              {head('p99', 'p99', latest)}
              {head('input', 'Tokens in')}
              {head('output', 'Tokens out')}
              <th scope="col"><span className="visually-hidden">Traces</span></th>
            </tr>
          </thead>
          <tbody>
            {shown.map((entry) => {
              const { service, model } = entry.group;
              const chosen = props.chosen !== undefined && props.chosen.service === service && props.chosen.model === model;
              const rate = entry.judged > 0 ? entry.errors / entry.judged : NaN;
              return (
                <tr key={entry.key} className={chosen ? 'chosen' : undefined}>
                  <th scope="row">
                    <button type="button" className="row-choice" aria-pressed={chosen} onClick={() => props.onChoose(chosen ? undefined : { service, model })}>
                      {service === null ? <i className="muted">no service</i> : line(service).slice(0, 200)}
                    </button>
                  </th>
                  <td className="mono model" title={model === null ? undefined : line(model).slice(0, 2000)}>{model === null ? <i className="muted">no model</i> : line(model).slice(0, 200)}</td>
                  <td>{/* Without the minute that is still filling, which would look like a fall. */}<Sparkline values={entry.perMinute.slice(0, -1)} color="var(--requests)" /></td>
                  <td className="numeric">{integer(entry.requests)}</td>
                  <td className="numeric muted">{total > 0 ? percent(entry.requests / total) : ''}</td>
                  <td className={`numeric ${rate >= 0.05 ? 'bad' : ''}`}>{entry.errors > 0 ? `${integer(entry.errors)} · ${percent(rate)}` : '0'}</td>
                  <td className="numeric">{duration(entry.p50)}</td>
                  <td className="numeric">{duration(entry.p95)}</td>
                  <td className="numeric">{duration(entry.p99)}</td>
                  <td className="numeric">{compact(entry.inputTokens)}</td>
                  <td className="numeric">{compact(entry.outputTokens)}</td>
                  <td>
                    <a className="row-link" href={href(['traces'], { service: service ?? undefined, model: model ?? undefined })} aria-label={`Traces of ${service ?? 'no service'}, ${model ?? 'no model'}`}>
                      <Icon name="traces" size={14} />
                    </a>
                  </td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
      {sorted.length === 0 ? <p className="empty">No requests in this range. Choose a longer one above, or wait: the page follows what arrives.</p> : null}
      {sorted.length > shown.length ? (
        <p className="card-foot">
          <button type="button" className="button small" onClick={() => setAll(true)}>Show all {integer(sorted.length)} groups</button>
        </p>
      ) : null}
    </section>
  );
}
