/** Ask anything once: live views and stored history in one SQL. */
import { useMemo, useRef, useState, type ReactNode } from 'react';
import { runSql } from '../api/client.ts';
import type { Problem } from '../api/problem.ts';
import type { SqlAnswer } from '../api/types.ts';
import { asProblem } from '../api/use-request.ts';
import { cellText, clock, columnKind, duration, integer, isNumeric, line, nothing, plural } from '../format.ts';
import type { Cell } from '../live/protocol.ts';
import { Icon } from '../parts/icons.tsx';
import { ProblemBox } from '../parts/problem-box.tsx';
import { useRoute } from '../route.ts';
import { quoted } from '../monitors/statement.ts';
import { columnWidth, Grid } from '../table/grid.tsx';
import { SqlEditor } from './editor.tsx';
import { csv } from './csv.ts';
import { fixes, placeOfProblem } from './fixes.ts';
import type { Catalogue, Relation } from './relations.ts';
import { useCatalogue } from './use-catalogue.ts';

const historyName = 'pyflare.sql-history';
const limits = [100, 1000, 10_000, 100_000];

const first = `SELECT service_name, model, sum(requests) AS requests
FROM live.requests
GROUP BY service_name, model
ORDER BY requests DESC`;

const newestSpans = 'SELECT event_time, service_name, name, model, duration_ns, status\nFROM history.spans\nORDER BY event_time DESC';

/** Those to begin with: what is stored of the streams, what is maintained, what the engine tells. */
function listed({ relations }: Catalogue): Relation[] {
  return [
    ...relations.filter(({ kind }) => kind === 'stored stream'),
    ...relations.filter(({ schema, name }) => schema === 'live' && !name.includes('$')),
    ...relations.filter(({ schema }) => schema === 'pyflare_internal'),
  ];
}

function readHistory(): string[] {
  try {
    const parsed = JSON.parse(localStorage.getItem(historyName) ?? '[]') as unknown;
    return Array.isArray(parsed) ? parsed.filter((entry) => typeof entry === 'string') : [];
  } catch {
    return [];
  }
}

export default function SqlPage(): ReactNode {
  const route = useRoute();
  const asked = route.query.get('query');
  const [past, setPast] = useState(readHistory);
  const [query, setQuery] = useState(() => asked ?? past[0] ?? first);
  const [limit, setLimit] = useState(1000);
  const [answer, setAnswer] = useState<SqlAnswer | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [running, setRunning] = useState(false);
  const abort = useRef<AbortController | null>(null);
  const { catalogue } = useCatalogue();
  const position = useMemo(() => (problem === null ? null : placeOfProblem(problem, query)), [problem, query]);

  const write = (text: string): void => {
    setQuery(text);
    setProblem(null);
  };
  const run = async (): Promise<void> => {
    if (query.trim() === '') return;
    abort.current?.abort();
    const mine = new AbortController();
    abort.current = mine;
    setRunning(true);
    setProblem(null);
    const next = [query, ...past.filter((entry) => entry !== query)].slice(0, 30);
    setPast(next);
    try {
      localStorage.setItem(historyName, JSON.stringify(next));
    } catch {
      // Not remembered beyond this page.
    }
    try {
      const got = await runSql(query, limit, mine.signal);
      if (abort.current === mine) setAnswer(got);
    } catch (cause) {
      if (abort.current === mine && !mine.signal.aborted) setProblem(asProblem(cause));
    } finally {
      if (abort.current === mine) setRunning(false);
    }
  };
  const stop = (): void => {
    abort.current?.abort();
    setRunning(false);
  };

  return (
    <div className="page full">
      <header className="page-head">
        <h1>SQL</h1>
        <span className="muted"><code>live.*</code> is what monitors hold now, <code>history.*</code> what was stored, joined with it</span>
      </header>
      <div className="writing">
        <div className="writing-main">
          <section className="card" aria-label="Query">
            <SqlEditor label="Query" value={query} onChange={write} onRun={() => void run()} position={position} minLines={6} catalogue={catalogue} purpose="query" {...(problem === null ? {} : { describedBy: 'query-problem' })} />
            <footer className="writing-foot">
              {running ? (
                <button type="button" className="button" onClick={stop}><Icon name="close" size={14} />Stop</button>
              ) : (
                <button type="button" className="button primary" disabled={query.trim() === ''} onClick={() => void run()}><Icon name="play" size={14} />Run</button>
              )}
              <label className="filter inline">
                <span>At most</span>
                <select className="field" value={limit} onChange={(event) => setLimit(Number(event.target.value))}>
                  {limits.map((value) => <option key={value} value={value}>{integer(value)} rows</option>)}
                </select>
              </label>
              <select className="field past" aria-label="Earlier queries" value="" onChange={(event) => write(event.target.value)} disabled={past.length === 0}>
                <option value="">Earlier queries</option>
                {past.map((entry) => <option key={entry} value={entry}>{line(entry).slice(0, 90)}</option>)}
              </select>
              <span className="muted" role="status">{running ? 'Running…' : 'Ctrl + Enter runs, Ctrl + Space suggests'}</span>
            </footer>
          </section>
        </div>
        <aside className="writing-side">
          <section className="card relations" aria-label="Relations">
            <header className="card-head"><h2>Relations</h2></header>
            <ul>
              {listed(catalogue).map((one) => (
                <li key={`${one.schema}.${one.name}`}>
                  <button type="button" title={one.columns.map((column) => `${line(column.name)} ${column.type}`).join('\n')} onClick={() => write(one.schema === 'history' && one.name === 'spans' ? newestSpans : `SELECT * FROM ${one.schema}.${quoted(one.name)}`)}><code>{one.schema}.{line(one.name)}</code></button>
                </li>
              ))}
            </ul>
          </section>
        </aside>
      </div>
      {problem === null ? null : <ProblemBox id="query-problem" problem={problem} actions={fixes(problem, query, catalogue).map((fix) => ({ label: fix.label, onTake: () => write(fix.sql) }))} {...(position === null ? {} : { title: `Line ${position.line}, column ${position.column}:` })} />}
      {answer !== null ? <Answer answer={answer} /> : problem !== null ? null : (
        <div className="empty">
          <h2>{running ? 'Running…' : 'The answer appears here'}</h2>
          <p>Write a query, or begin with a relation on the right. Every answer stands at one tick: nothing is missing in it, nothing is in it twice.</p>
        </div>
      )}
    </div>
  );
}

function Answer({ answer }: { readonly answer: SqlAnswer }): ReactNode {
  const kinds = answer.columns.map((column) => columnKind(column.type));
  const sample = answer.rows.slice(0, 100);
  const asOf = Number(answer.as_of ?? NaN) || Date.parse(String(answer.as_of));
  const save = (): void => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([csv(answer.columns.map((column) => column.name), answer.rows)], { type: 'text/csv' }));
    link.download = 'pyflare.csv';
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  };
  return (
    <section className="card live-table" aria-label="Answer">
      <header className="card-head">
        <span role="status">{plural(answer.row_count, 'row')}{answer.truncated ? <span className="chip bad cut">cut at the limit</span> : null}</span>
        {answer.elapsed_ms === undefined ? null : <span className="muted">in {duration(answer.elapsed_ms)}</span>}
        <span className="spring" />
        {Number.isFinite(asOf) ? <span className="as-of">as of tick {clock(asOf, 'millis')}</span> : null}
        <button type="button" className="button small" onClick={save}>Save as CSV</button>
      </header>
      <Grid<readonly Cell[]>
        label="Answer"
        columns={answer.columns.map((column, index) => ({ name: line(column.name), hint: column.type, numeric: isNumeric(kinds[index] ?? 'text'), width: columnWidth(column.name, sample.map((row) => cellText(row[index], kinds[index] ?? 'text')), isNumeric(kinds[index] ?? 'text')) }))}
        rows={answer.rows}
        rowKey={(_, index) => index}
        cell={(row, column) => <AnswerCell text={cellText(row[column], kinds[column] ?? 'text')} />}
        cellClass={(row, column) => (row[column] === null ? 'muted' : '')}
        empty="The answer has no rows."
      />
    </section>
  );
}

function AnswerCell({ text }: { readonly text: string }): ReactNode {
  const shown = text === nothing ? text : line(text.slice(0, 2000));
  return <span title={shown.length > 24 ? shown : undefined}>{shown.slice(0, 300)}</span>;
}
