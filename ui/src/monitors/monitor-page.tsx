/** One monitor: its live rows, how it is defined, whom it reads and who reads it, how it is kept and what that costs. */
import type { ReactNode } from 'react';
import { listMonitors } from '../api/client.ts';
import type { Monitor } from '../api/types.ts';
import { useRequest } from '../api/use-request.ts';
import { integer, line, moment, toNumber } from '../format.ts';
import { CopyButton } from '../parts/copy-button.tsx';
import { Loading } from '../parts/loading.tsx';
import { Segments } from '../parts/segments.tsx';
import { AnalyzedPlan } from '../plan/analyzed.tsx';
import { go, href, replace, useRoute, withQuery } from '../route.ts';
import { replacing } from '../sql/fixes.ts';
import { LiveTable } from '../table/live-table.tsx';
import { dependencies } from './dependencies.ts';
import { DropButton } from './drop-button.tsx';
import { startMillis, StateChip } from './list-page.tsx';
import { isStopped, Stopped } from './stopped.tsx';
import { quoted } from './statement.ts';

const tabs = [{ value: 'result', label: 'Result' }, { value: 'plan', label: 'Plan' }] as const;

export default function MonitorPage({ name }: { readonly name: string }): ReactNode {
  const route = useRoute();
  const { value } = useRequest(`monitor ${name}`, async (signal) => {
    const all = await listMonitors(signal);
    return { all: ownFirst(all), own: ownFirst(all).find((monitor) => monitor.name === name) ?? null };
  }, { every: 10_000 });
  const own = value?.own ?? null;
  const start = startMillis(own?.start);
  const shown = route.query.get('show') === 'plan' ? 'plan' : 'result';
  return (
    <div className={shown === 'result' ? 'page full' : 'page'}>
      <header className="page-head">
        <a href="#/monitors" className="muted">Monitors</a>
        <span className="muted" aria-hidden="true">/</span>
        <h1>{line(name)}</h1>
        <StateChip state={own?.state} />
        {own?.builtin === true ? <span className="chip">built in</span> : null}
        <span className="muted description">{line(own?.description ?? '')}</span>
        <LeftOut count={own?.late_rows} word="late" title="Rows that came after their window had left the view" view={`${name}$late`} />
        <LeftOut count={own?.errors} word="failed" title="Rows left out because an expression failed on them" view={`${name}$errors`} />
        <span className="spring" />
        <Segments label="What is shown" value={shown} options={tabs} onChange={(tab) => replace(withQuery(route, { show: tab === 'plan' ? 'plan' : undefined }))} />
        <a className="button" href={href(['sql'], { query: `SELECT * FROM live.${quoted(name)}` })}>Query it</a>
        {own === null || own.builtin === true ? null : (
          <>
            {own.sql === undefined ? null : <a className="button" href={href(['new'], { sql: replacing(own.sql) })}>Change it</a>}
            <DropButton name={name} onDropped={() => go('#/monitors')} />
          </>
        )}
      </header>
      {own !== null && isStopped(own) ? <Stopped monitor={own} /> : null}
      {own?.sql === undefined ? null : (
        <details className="definition">
          <summary>
            Definition
            <span className="muted">
              {Number.isNaN(start) ? '' : ` · every row admitted after ${moment(start)} is in it`}
              {own.retention === undefined ? '' : ` · kept for ${own.retention}`}
              {own.lateness === undefined ? '' : ` · rows may be ${own.lateness} late`}
            </span>
          </summary>
          <div className="code-block">
            {/* A region that scrolls must be reachable by keyboard. */}
            {/* eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex */}
            <pre tabIndex={0}>{own.sql}</pre>
            <CopyButton text={own.sql} />
          </div>
        </details>
      )}
      {value === null || own === null ? null : <Neighbours name={name} monitors={value.all} />}
      {shown === 'result' && !(own !== null && isStopped(own)) ? <LiveTable view={name} label={`Rows of ${name}`} /> : null}
      {shown === 'result' ? null : value === null ? <Loading what="Reading the monitor…" /> : <AnalyzedPlan name={name} sql={own?.sql} />}
    </div>
  );
}

/** A project's own monitor goes before a built-in one of the same name. */
function ownFirst(monitors: readonly Monitor[]): readonly Monitor[] {
  return monitors.toSorted((left, right) => Number(left.builtin === true) - Number(right.builtin === true));
}

/** What the monitor reads, and the monitors that read it. */
function Neighbours({ name, monitors }: { readonly name: string; readonly monitors: readonly Monitor[] }): ReactNode {
  const { reads, readBy } = dependencies(name, monitors);
  if (reads.length === 0 && readBy.length === 0) return null;
  const known = new Set(monitors.map((monitor) => monitor.name));
  const names = (list: readonly string[]): ReactNode => list.map((one, index) => (
    <span key={one}>{index === 0 ? '' : ', '}{known.has(one) ? <a href={href(['monitors', one])}>{line(one)}</a> : <code>{line(one)}</code>}</span>
  ));
  return (
    <dl className="facts neighbours">
      {reads.length === 0 ? null : <div><dt>Reads</dt><dd>{names(reads)}</dd></div>}
      <div><dt>Read by</dt><dd>{readBy.length === 0 ? <span className="muted">no monitor</span> : names(readBy)}</dd></div>
    </dl>
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
