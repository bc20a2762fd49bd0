/** Write a monitor, see how it will be kept, create it and watch it, all on one page. */
import { useState, type ReactNode } from 'react';
import { createMonitor, explainMonitor } from '../api/client.ts';
import type { Problem } from '../api/problem.ts';
import type { Explanation } from '../api/types.ts';
import { asProblem } from '../api/use-request.ts';
import { line } from '../format.ts';
import { Icon } from '../parts/icons.tsx';
import { ProblemBox } from '../parts/problem-box.tsx';
import { href, useRoute } from '../route.ts';
import { SqlEditor } from '../sql/editor.tsx';
import { LiveTable } from '../table/live-table.tsx';
import { examples, spanColumns } from './examples.ts';
import { monitorName } from './statement.ts';

const draftName = 'pyflare.monitor-draft';

function draft(): string {
  try {
    return sessionStorage.getItem(draftName) ?? '';
  } catch {
    return '';
  }
}

type Outcome =
  | { readonly kind: 'none' }
  | { readonly kind: 'busy'; readonly what: string }
  | { readonly kind: 'refused'; readonly problem: Problem }
  | { readonly kind: 'plan'; readonly plan: Explanation };

export default function NewMonitorPage(): ReactNode {
  const route = useRoute();
  const [sql, setSql] = useState(() => route.query.get('sql') ?? (draft() || (examples[0]?.sql ?? '')));
  const [outcome, setOutcome] = useState<Outcome>({ kind: 'none' });
  const [watched, setWatched] = useState<{ name: string; round: number } | null>(null);
  const name = monitorName(sql);

  const write = (text: string): void => {
    setSql(text);
    setOutcome({ kind: 'none' });
    try {
      sessionStorage.setItem(draftName, text);
    } catch {
      // Then a reload begins with the example.
    }
  };
  const explain = async (): Promise<void> => {
    setOutcome({ kind: 'busy', what: 'Planning…' });
    try {
      setOutcome({ kind: 'plan', plan: await explainMonitor(sql) });
    } catch (cause) {
      setOutcome({ kind: 'refused', problem: asProblem(cause) });
    }
  };
  const create = async (): Promise<void> => {
    setOutcome({ kind: 'busy', what: 'Creating…' });
    try {
      const made = await createMonitor(sql);
      setOutcome({ kind: 'none' });
      setWatched((old) => ({ name: made.name ?? name ?? '', round: (old?.round ?? 0) + 1 }));
    } catch (cause) {
      setOutcome({ kind: 'refused', problem: asProblem(cause) });
    }
  };

  const refused = outcome.kind === 'refused' ? outcome.problem : null;
  const position = refused?.position ?? null;
  return (
    <div className="page">
      <header className="page-head">
        <h1>New monitor</h1>
        <span className="muted">a question whose answer stays current</span>
      </header>
      <div className="writing">
        <div className="writing-main">
          <section className="card" aria-label="Statement">
            <SqlEditor label="Statement of the monitor" value={sql} onChange={write} onRun={() => void create()} position={position} minLines={12} />
            <footer className="writing-foot">
              <button type="button" className="button primary" disabled={outcome.kind === 'busy' || sql.trim() === ''} onClick={() => void create()}>
                <Icon name="create" size={14} />
                Create{name === null ? '' : ` ${line(name)}`}
              </button>
              <button type="button" className="button" disabled={outcome.kind === 'busy' || sql.trim() === ''} onClick={() => void explain()}>Explain</button>
              <span className="muted" role="status">{outcome.kind === 'busy' ? outcome.what : 'Ctrl + Enter creates'}</span>
            </footer>
          </section>
          {refused === null ? null : <ProblemBox problem={refused} {...(position === null ? {} : { title: `Line ${position.line}, column ${position.column}:` })} />}
          {outcome.kind === 'plan' ? (
            <Plan plan={outcome.plan} />
          ) : null}
          {watched === null ? null : (
            <section className="watched" aria-label={`Result of ${watched.name}`}>
              <header className="page-head">
                <h2>Live: <a href={href(['monitors', watched.name])}>{line(watched.name)}</a></h2>
              </header>
              <LiveTable key={watched.round} view={watched.name} label={`Rows of ${watched.name}`} />
            </section>
          )}
        </div>
        <aside className="writing-side">
          <section className="card" aria-label="Examples">
            <header className="card-head"><h2>Examples</h2></header>
            <ul className="example-list">
              {examples.map((example) => (
                <li key={example.title}>
                  <button type="button" onClick={() => write(example.sql)}>
                    <b>{example.title}</b>
                    <span className="muted">{example.about}</span>
                  </button>
                </li>
              ))}
            </ul>
          </section>
          <section className="card" aria-label="Columns of spans">
            <header className="card-head"><h2>Columns of <code>spans</code></h2></header>
            <dl className="column-list">
              {spanColumns.map(({ group, names }) => (
                <div key={group}>
                  <dt>{group}</dt>
                  <dd>{names.map((column) => <code key={column}>{column}</code>)}</dd>
                </div>
              ))}
            </dl>
          </section>
        </aside>
      </div>
    </div>
  );
}

function Plan({ plan }: { readonly plan: Explanation }): ReactNode {
  return (
    <section className="card plan" aria-label="Plan">
      <header className="card-head"><h2>How it will be kept</h2></header>
      {plan.state === undefined ? null : <p>{plan.state}</p>}
      {plan.operators === undefined ? null : <ol>{plan.operators.map((operator, index) => <li key={index}>{operator}</li>)}</ol>}
      {plan.columns === undefined ? null : (
        <p className="plan-columns">
          {plan.columns.map((column) => (
            <span key={column.name}><code>{line(column.name)}</code> <span className="muted">{column.type}{column.key === true ? ', key' : ''}</span></span>
          ))}
        </p>
      )}
      {plan.plan === undefined ? null : <details><summary>Plan</summary><pre>{plan.plan}</pre></details>}
      {plan.logical === undefined ? null : <details><summary>Logical plan</summary><pre>{plan.logical}</pre></details>}
    </section>
  );
}
