/** Write a monitor, see how it will be kept, create it and watch it, all on one page. */
import { useMemo, useState, type ReactNode } from 'react';
import { createMonitor, explainMonitor } from '../api/client.ts';
import type { Problem } from '../api/problem.ts';
import type { Explanation } from '../api/types.ts';
import { asProblem } from '../api/use-request.ts';
import { line } from '../format.ts';
import { Icon } from '../parts/icons.tsx';
import { ProblemBox } from '../parts/problem-box.tsx';
import { href, useRoute } from '../route.ts';
import { PlanCard } from '../plan/card.tsx';
import { SqlEditor } from '../sql/editor.tsx';
import { fixes, placeOfProblem } from '../sql/fixes.ts';
import { useCatalogue } from '../sql/use-catalogue.ts';
import { LiveTable } from '../table/live-table.tsx';
import { ColumnList } from './column-list.tsx';
import { examples } from './examples.ts';
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
  const { catalogue, reload } = useCatalogue();

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
      reload();
      setWatched((old) => ({ name: made.name ?? name ?? '', round: (old?.round ?? 0) + 1 }));
    } catch (cause) {
      setOutcome({ kind: 'refused', problem: asProblem(cause) });
    }
  };

  const refused = outcome.kind === 'refused' ? outcome.problem : null;
  const position = useMemo(() => (refused === null ? null : placeOfProblem(refused, sql)), [refused, sql]);
  return (
    <div className="page">
      <header className="page-head">
        <h1>New monitor</h1>
        <span className="muted">a question whose answer stays current</span>
      </header>
      <div className="writing">
        <div className="writing-main">
          <section className="card" aria-label="Statement">
            <SqlEditor label="Statement of the monitor" value={sql} onChange={write} onRun={() => void create()} position={position} minLines={12} catalogue={catalogue} purpose="monitor" {...(refused === null ? {} : { describedBy: 'monitor-problem' })} />
            <footer className="writing-foot">
              <button type="button" className="button primary" disabled={outcome.kind === 'busy' || sql.trim() === ''} onClick={() => void create()}>
                <Icon name="create" size={14} />
                Create{name === null ? '' : ` ${line(name)}`}
              </button>
              <button type="button" className="button" disabled={outcome.kind === 'busy' || sql.trim() === ''} onClick={() => void explain()}>Explain</button>
              <span className="muted" role="status">{outcome.kind === 'busy' ? outcome.what : 'Ctrl + Enter creates, Ctrl + Space suggests'}</span>
            </footer>
          </section>
          {refused === null ? null : <ProblemBox id="monitor-problem" problem={refused} actions={fixes(refused, sql, catalogue).map((fix) => ({ label: fix.label, onTake: () => write(fix.sql) }))} {...(position === null ? {} : { title: `Line ${position.line}, column ${position.column}:` })} />}
          {outcome.kind === 'plan' ? (
            <PlanCard plan={outcome.plan} />
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
          <ColumnList catalogue={catalogue} sql={sql} />
        </aside>
      </div>
    </div>
  );
}
