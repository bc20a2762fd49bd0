/** A table of records of any length that is sorted by a press on a heading and narrowed by a text. */
import { useMemo, useState, type ReactNode } from 'react';
import { integer, line, plural } from '../format.ts';
import { Grid } from '../table/grid.tsx';
import { sorted } from './records.ts';

export interface SortedColumn<Row> {
  readonly name: string;
  readonly hint?: string;
  readonly width: number;
  /** What it is sorted by; numbers are set to the right. */
  readonly by: (row: Row) => number | string;
  readonly numeric?: boolean;
  readonly cell: (row: Row) => ReactNode;
}

export interface SortedGridProps<Row> {
  readonly label: string;
  readonly columns: readonly SortedColumn<Row>[];
  readonly rows: readonly Row[];
  readonly rowKey: (row: Row) => string;
  /** What the filter looks in. */
  readonly text: (row: Row) => string;
  /** The column it is sorted by at first, from the largest down. */
  readonly first: string;
  readonly noun: string;
  /** Whether the label stands above it. */
  readonly titled?: boolean;
  readonly empty: ReactNode;
  readonly note?: ReactNode;
}

export function SortedGrid<Row>(props: SortedGridProps<Row>): ReactNode {
  const { columns, rows } = props;
  const [order, setOrder] = useState({ name: props.first, descending: true });
  const [filter, setFilter] = useState('');
  const at = Math.max(0, columns.findIndex((column) => column.name === order.name));
  const shown = useMemo(() => {
    const wanted = filter.trim().toLowerCase();
    const kept = wanted === '' ? rows : rows.filter((row) => props.text(row).toLowerCase().includes(wanted));
    const column = columns[at];
    return column === undefined ? kept : sorted(kept, column.by, order.descending);
    // eslint-disable-next-line react-hooks/exhaustive-deps -- the columns are the same for the same kind of rows
  }, [rows, filter, at, order.descending]);
  return (
    <section className="card live-table" aria-label={props.label}>
      <header className="card-head">
        {props.titled === true ? <h2>{props.label}</h2> : null}
        <input className="field" type="search" placeholder="Filter" aria-label={`Filter ${props.label.toLowerCase()}`} value={filter} onChange={(event) => setFilter(event.target.value)} />
        <span className="muted" role="status">{filter.trim() === '' ? plural(rows.length, props.noun) : `${integer(shown.length)} of ${plural(rows.length, props.noun)}`}</span>
        <span className="spring" />
        {props.note}
      </header>
      <Grid<Row>
        label={props.label}
        columns={columns.map(({ name, hint, width, numeric }) => ({ name, width, ...(hint === undefined ? {} : { hint }), ...(numeric === undefined ? {} : { numeric }) }))}
        rows={shown}
        rowKey={(row) => props.rowKey(row)}
        sort={{ column: at, descending: order.descending }}
        onSort={(column) => {
          const name = columns[column]?.name ?? '';
          setOrder({ name, descending: order.name === name ? !order.descending : columns[column]?.numeric === true });
        }}
        cell={(row, column) => columns[column]?.cell(row)}
        empty={rows.length === 0 ? props.empty : 'Nothing matches the filter.'}
      />
    </section>
  );
}

/** A text from outside in one line. */
export function TextCell({ text }: { readonly text: string }): ReactNode {
  const shown = line(text);
  return <span title={shown.length > 20 ? shown.slice(0, 2000) : undefined}>{shown.slice(0, 300)}</span>;
}
