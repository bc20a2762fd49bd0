/** All monitors of the project: its own and the built-in views. */
import type { ReactNode } from 'react';
import { listMonitors } from '../api/client.ts';
import type { Monitor } from '../api/types.ts';
import { useRequest } from '../api/use-request.ts';
import { ago, integer, line, nothing, toNumber } from '../format.ts';
import { Icon } from '../parts/icons.tsx';
import { Loading } from '../parts/loading.tsx';
import { ProblemBox } from '../parts/problem-box.tsx';
import { href } from '../route.ts';
import { DropButton } from './drop-button.tsx';
import { isStopped, stopReason } from './stopped.tsx';

export default function MonitorsPage(): ReactNode {
  const { value, problem, reload } = useRequest('monitors', async (signal) => ({ monitors: await listMonitors(signal), at: Date.now() }), { every: 4000 });
  const own = value?.monitors.filter((monitor) => monitor.builtin !== true) ?? [];
  const builtin = value?.monitors.filter((monitor) => monitor.builtin === true) ?? [];
  return (
    <div className="page">
      <header className="page-head">
        <h1>Monitors</h1>
        <span className="muted">standing queries whose results are always current</span>
        <span className="spring" />
        <a className="button primary" href="#/new">
          <Icon name="create" size={14} />
          New monitor
        </a>
      </header>
      {problem === null ? null : <ProblemBox problem={problem} onRetry={reload} />}
      {value === null && problem === null ? <Loading what="Reading the monitors…" /> : null}
      {value === null ? null : (
        <>
          <section className="card" aria-label="Your monitors">
            <header className="card-head"><h2>Yours</h2></header>
            {own.length === 0 ? (
              <div className="empty">
                <h2>No monitor of your own yet</h2>
                <p>Write a question as SQL once; its answer stays current with every span that arrives, and late ones correct it.</p>
                <p><a className="button" href="#/new">Begin with an example</a></p>
              </div>
            ) : (
              <MonitorTable monitors={own} now={value.at} onDropped={reload} />
            )}
          </section>
          {builtin.length === 0 ? null : (
            <section className="card" aria-label="Built-in views">
              <header className="card-head">
                <h2>Built in</h2>
                <span className="muted">written in the same SQL as yours</span>
              </header>
              <MonitorTable monitors={builtin} now={value.at} />
            </section>
          )}
        </>
      )}
    </div>
  );
}

/** `start` is a tick (milliseconds), whether as a number, digits or a time. */
export function startMillis(start: Monitor['start']): number {
  if (start === null || start === undefined || start === 0 || start === '0') return NaN;
  const millis = typeof start === 'number' || /^\d+$/.test(start) ? Number(start) : Date.parse(start);
  // Tick 0: from the very beginning.
  return millis > 0 ? millis : NaN;
}

function MonitorTable({ monitors, now, onDropped }: { readonly monitors: readonly Monitor[]; readonly now: number; readonly onDropped?: () => void }): ReactNode {
  return (
    // A region that scrolls must be reachable by keyboard.
    // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex
    <div className="table-scroll" tabIndex={0} role="region" aria-label="Monitors">
      <table className="table monitors">
        <thead>
          <tr>
            <th scope="col">Name</th>
            <th scope="col">What it says</th>
            <th scope="col" className="numeric">Rows</th>
            <th scope="col">State</th>
            <th scope="col">Started</th>
            <th scope="col"><span className="visually-hidden">Drop</span></th>
          </tr>
        </thead>
        <tbody>
          {monitors.map((monitor) => {
            const start = startMillis(monitor.start);
            const columns = monitor.columns?.map((column) => line(column.name)).join(', ') ?? '';
            return (
              <tr key={monitor.name}>
                <th scope="row"><a href={href(['monitors', monitor.name])}>{line(monitor.name)}</a></th>
                <td className="wide">{isStopped(monitor) ? <StopLine monitor={monitor} /> : monitor.description != null && monitor.description !== '' ? line(monitor.description) : <span className="muted mono">{columns}</span>}</td>
                <td className="numeric">{integer(monitor.rows)}{toNumber(monitor.errors ?? 0) > 0 ? <span className="bad" title="Rows left out because an expression failed on them"> {integer(monitor.errors)} failed</span> : null}</td>
                <td><StateChip state={monitor.state} /></td>
                <td className="muted">{Number.isNaN(start) ? nothing : ago(now - start)}</td>
                <td className="numeric">{onDropped ? <DropButton name={monitor.name} onDropped={onDropped} quiet /> : null}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

/** Why it stopped, in the place of what it says. */
function StopLine({ monitor }: { readonly monitor: Monitor }): ReactNode {
  const { code, text } = stopReason(monitor.reason);
  return <span className="bad" title={line(text)}>{code === '' ? 'Stopped' : code}: {text === '' ? 'see its page' : line(text)}</span>;
}

export function StateChip({ state }: { readonly state: string | undefined }): ReactNode {
  if (state === undefined) return null;
  const well = /^(live|running|active|ready|ok)$/i.test(state);
  const ill = /^(stopped|failed)$/i.test(state);
  return <span className={well ? 'chip good' : ill ? 'chip bad' : 'chip'}>{line(state)}</span>;
}
