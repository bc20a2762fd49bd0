/** One monitor: its live rows and how it is defined. */
import type { ReactNode } from 'react';
import { listMonitors } from '../api/client.ts';
import { useRequest } from '../api/use-request.ts';
import { integer, line, moment, toNumber } from '../format.ts';
import { CopyButton } from '../parts/copy-button.tsx';
import { go, href } from '../route.ts';
import { LiveTable } from '../table/live-table.tsx';
import { DropButton } from './drop-button.tsx';
import { startMillis, StateChip } from './list-page.tsx';
import { quoted } from './statement.ts';

export default function MonitorPage({ name }: { readonly name: string }): ReactNode {
  const { value } = useRequest(`monitor ${name}`, async (signal) => (await listMonitors(signal)).find((monitor) => monitor.name === name) ?? null, { every: 10_000 });
  const start = startMillis(value?.start);
  return (
    <div className="page full">
      <header className="page-head">
        <a href="#/monitors" className="muted">Monitors</a>
        <span className="muted" aria-hidden="true">/</span>
        <h1>{line(name)}</h1>
        <StateChip state={value?.state} />
        {value?.builtin === true ? <span className="chip">built in</span> : null}
        <span className="muted description">{line(value?.description ?? '')}</span>
        <LeftOut count={value?.late_rows} word="late" title="Rows that came after their window had left the view" view={`${name}$late`} />
        <LeftOut count={value?.errors} word="failed" title="Rows left out because an expression failed on them" view={`${name}$errors`} />
        <span className="spring" />
        <a className="button" href={href(['sql'], { query: `SELECT * FROM live.${quoted(name)}` })}>Query it</a>
        {value === null || value.builtin === true ? null : <DropButton name={name} onDropped={() => go('#/monitors')} />}
      </header>
      {value?.sql === undefined ? null : (
        <details className="definition">
          <summary>
            Definition
            <span className="muted">
              {Number.isNaN(start) ? '' : ` · every row admitted after ${moment(start)} is in it`}
              {value.retention === undefined ? '' : ` · kept for ${value.retention}`}
              {value.lateness === undefined ? '' : ` · rows may be ${value.lateness} late`}
            </span>
          </summary>
          <div className="code-block">
            <pre>{value.sql}</pre>
            <CopyButton text={value.sql} />
          </div>
        </details>
      )}
      <LiveTable view={name} label={`Rows of ${name}`} />
    </div>
  );
}

/** How many rows the view left out, with the way to the view that says which. */
function LeftOut({ count, word, title, view }: { readonly count: number | string | undefined; readonly word: string; readonly title: string; readonly view: string }): ReactNode {
  if (toNumber(count ?? 0) === 0) return null;
  return (
    <a className="chip bad" title={title} href={href(['sql'], { query: `SELECT * FROM live.${quoted(view)}` })}>
      {integer(count)} {word}
    </a>
  );
}
