/** The engine at a glance: whether it keeps up, how much comes in, what it holds. */
import type { ReactNode } from 'react';
import type { Status } from '../api/types.ts';
import { bytes, clock, compact, duration, integer, nothing, plural, toNumber } from '../format.ts';

/** A tick is at most 1 s after the one before; beyond some of them something is behind. */
const laggingMillis = 5000;

export interface HealthProps {
  readonly status: Status;
  /** Rows a second over all streams; NaN until there are two readings. */
  readonly rowsPerSecond: number;
  readonly running: number | null;
  readonly stopped: number | null;
  readonly stateBytes: number | null;
}

function sum(counts: Status['rows_admitted']): number {
  return Object.values(counts ?? {}).reduce((total: number, count) => total + toNumber(count), 0);
}

export function condition(status: Status): { readonly word: string; readonly well: boolean; readonly why: string } {
  if (status.replaying === true) return { word: 'Recovering', well: false, why: 'it reads its log again after a start' };
  const lag = toNumber(status.lag_ms ?? 0);
  if (lag > laggingMillis) return { word: 'Behind', well: false, why: `the newest complete tick is ${duration(lag)} old` };
  return { word: 'Healthy', well: true, why: 'it keeps up' };
}

export function Health({ status, rowsPerSecond, running, stopped, stateBytes }: HealthProps): ReactNode {
  const state = condition(status);
  const lost = ([['late', status.late_rows], ['not decoded', status.decode_errors], ['rejected', status.rejected_rows]] as const).filter(([, count]) => toNumber(count ?? 0) > 0);
  return (
    <section className="stats" aria-label="Health">
      <Stat name="State" value={<span className={state.well ? 'chip good' : 'chip bad'}>{state.word}</span>} note={state.why} />
      <Stat name="Complete tick" value={clock(toNumber(status.complete_tick ?? status.tick ?? NaN), 'millis')} note={plural(status.workers ?? 1, 'worker')} />
      <Stat name="Lag" value={duration(toNumber(status.lag_ms ?? NaN))} note="behind the tick" />
      <Stat name="Rows a second" value={Number.isNaN(rowsPerSecond) ? nothing : compact(rowsPerSecond)} note={`${compact(sum(status.rows_admitted))} admitted in all`} />
      <Stat name="Backlog" value={bytes(toNumber(status.log_backlog_bytes ?? 0))} note="not yet admitted" />
      <Stat name="Duplicates" value={compact(toNumber(status.duplicates ?? 0))} note={lost.length === 0 ? 'counted once' : lost.map(([word, count]) => `${compact(toNumber(count ?? 0))} ${word}`).join(', ')} />
      {running === null ? null : <Stat name="Monitors" value={integer(running)} note={stopped !== null && stopped > 0 ? <span className="bad">running, {integer(stopped)} stopped</span> : 'running'} />}
      {stateBytes === null ? null : <Stat name="Kept" value={bytes(stateBytes)} note="by all monitors" />}
    </section>
  );
}

function Stat({ name, value, note }: { readonly name: string; readonly value: ReactNode; readonly note: ReactNode }): ReactNode {
  return (
    <div className="stat card">
      <h2>{name}</h2>
      <p className="stat-value">{value}</p>
      <p className="muted stat-note">{note}</p>
    </div>
  );
}
