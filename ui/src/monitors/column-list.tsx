/** The columns of what the statement reads, to look at beside it; those of `spans` before it reads anything. */
import { useMemo, useState, type ReactNode } from 'react';
import { line } from '../format.ts';
import type { Catalogue } from '../sql/relations.ts';
import { Statement } from '../sql/scope.ts';

export function ColumnList({ catalogue, sql }: { readonly catalogue: Catalogue; readonly sql: string }): ReactNode {
  const [wanted, setWanted] = useState<string | null>(null);
  const relations = useMemo(() => catalogue.relations.filter(({ schema, name }) => (schema === '' || schema === 'live') && !name.includes('$')), [catalogue]);
  const read = useMemo(() => new Statement(sql, catalogue).reads().find((name) => relations.some((one) => one.name === name)), [sql, catalogue, relations]);
  const name = wanted ?? read ?? 'spans';
  const columns = relations.find((one) => one.name === name)?.columns.filter((column) => !column.name.startsWith('_')) ?? [];
  if (relations.length === 0) return null;
  return (
    <section className="card" aria-label="Columns">
      <header className="card-head">
        <h2>Columns of</h2>
        <select className="field" aria-label="Relation" value={name} onChange={(event) => setWanted(event.target.value)}>
          {relations.map((one) => <option key={one.name} value={one.name}>{line(one.name)}</option>)}
        </select>
      </header>
      {/* A region that scrolls must be reachable by keyboard. */}
      {/* eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex */}
      <ul className="column-list" tabIndex={0} aria-label={`Columns of ${name}`}>
        {columns.map((column) => <li key={column.name} title={column.about}><code>{line(column.name)}</code><span className="muted">{column.type}</span></li>)}
      </ul>
    </section>
  );
}
