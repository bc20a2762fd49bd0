/** A view as a table and a chart that follow every tick: sorted, filtered, what changed glows. */
import { useEffect, useMemo, useState, type ReactNode } from 'react';
import { cellText, clock, columnKind, integer, isNumeric, line, nothing, plural } from '../format.ts';
import type { LiveView } from '../live/live-view.ts';
import type { Row } from '../live/multiset.ts';
import { useLiveView, useVersion } from '../live/page-connection.ts';
import { Loading } from '../parts/loading.tsx';
import { ProblemBox } from '../parts/problem-box.tsx';
import { columnWidth, Grid, type GridColumn } from './grid.tsx';
import { defaultOrder, OrderedRows } from './ordered-rows.ts';
import { Segments } from '../parts/segments.tsx';
import { chartKind, ViewChart } from './view-chart.tsx';

const glow = 1800;

type Shown = 'both' | 'chart' | 'table';
const shownOptions: readonly { readonly value: Shown; readonly label: string }[] = [
  { value: 'both', label: 'Chart and table' },
  { value: 'chart', label: 'Chart' },
  { value: 'table', label: 'Table' },
];

export function LiveTable({ view: name, label }: { readonly view: string; readonly label: string }): ReactNode {
  const [ordered] = useState(() => new OrderedRows());
  const [attempt, setAttempt] = useState(0);
  const [filter, setFilter] = useState('');
  const [wanted, setWanted] = useState<Shown | null>(null);
  const [, setArranged] = useState(0);
  const view = useLiveView(
    { view: name },
    {
      onColumns: (columns) => {
        ordered.setColumns(columns);
        ordered.arrange([], defaultOrder(columns), ordered.filter);
      },
      onChange: (change, content) => ordered.apply(change, content.rows()),
    },
    attempt,
  );
  const version = useVersion(view);

  const arrange = (order = ordered.order, text = filter): void => {
    ordered.arrange(view?.content.rows() ?? [], order, text);
    setArranged((value) => value + 1);
  };
  useEffect(() => {
    if (view === null || ordered.filter === filter) return;
    // A pause in typing, since every letter would sort all rows.
    const timer = setTimeout(() => {
      ordered.arrange(view.content.rows(), ordered.order, filter);
      setArranged((value) => value + 1);
    }, 120);
    return () => clearTimeout(timer);
  }, [filter, ordered, view]);

  const columns = view?.columns;
  // Widths are taken once there are rows, and then kept: a table that shifts with every tick cannot be read.
  const settled = (view?.content.size ?? 0) > 0;
  const gridColumns = useMemo<GridColumn[]>(() => {
    const sample = ordered.rows.slice(0, 100);
    return (columns ?? []).map((column, index) => {
      const kind = columnKind(column.type);
      return {
        name: line(column.name),
        hint: `${column.type}${column.key ? ', part of the key' : ''}`,
        numeric: isNumeric(kind),
        width: columnWidth(column.name, sample.map((row) => cellText(row.values[index], kind)), isNumeric(kind)),
      };
    });
    // eslint-disable-next-line react-hooks/exhaustive-deps -- the rows are a sample at the moment they settle
  }, [columns, settled]);

  if (view?.error) return <ProblemBox problem={view.error} title="This view cannot be shown." onRetry={() => setAttempt((value) => value + 1)} />;
  if (view?.asOf == null || columns === undefined) return <Loading what="Waiting for the view’s first frame…" slow="The page connects by itself as soon as the server answers." />;
  const kinds = columns.map((column) => columnKind(column.type));
  const total = view.content.size;
  const drawn = chartKind(columns);
  // Windows are meant to be seen over time; other views are lists first.
  const shown = drawn === null ? 'table' : (wanted ?? (drawn === 'lines' ? 'both' : 'table'));
  const choice = drawn === null ? null : <Segments label="Shown as" value={shown} options={shownOptions} onChange={setWanted} />;
  return (
    <>
      {view.ended === null ? null : <ProblemBox problem={{ code: '', message: `The view ended: ${view.ended}. What is shown is its last content.`, hint: null }} />}
      {view.content.negative > 0 ? <ProblemBox problem={{ code: '', message: `${plural(view.content.negative, 'row')} with a count below zero: the view’s changes do not add up.`, hint: 'Please report this with the server’s version.' }} /> : null}
      {shown === 'chart' ? <div className="shown-choice">{choice}<span className="spring" /><span className="as-of">as of tick {clock(view.asOf, 'millis')}</span></div> : null}
      {shown === 'table' ? null : <ViewChart view={view} version={version} alone={shown === 'chart'} />}
      {shown === 'chart' ? null : <section className="card live-table" aria-label={label}>
        <header className="card-head">
          <input className="field" type="search" placeholder="Filter rows" aria-label="Filter rows" value={filter} onChange={(event) => setFilter(event.target.value)} />
          <span className="muted" role="status">
            {ordered.filter === '' ? plural(total, 'row') : `${integer(ordered.rows.length)} of ${plural(total, 'row')}`}
          </span>
          <span className="spring" />
          {choice}
          <span className="as-of">as of tick {clock(view.asOf, 'millis')}</span>
        </header>
        <Grid<Row>
          label={label}
          columns={gridColumns}
          rows={ordered.rows}
          rowKey={(row) => row.sequence}
          sort={ordered.order}
          onSort={(column) => arrange({ column, descending: ordered.order.column === column ? !ordered.order.descending : isNumeric(kinds[column] ?? 'text') || kinds[column] === 'time' })}
          cell={(row, column) => <CellContent row={row} column={column} text={cellText(row.values[column], kinds[column] ?? 'text')} />}
          cellClass={(row, column) => (glows(view, row, column) ? 'flare' : row.values[column] === null ? 'muted' : '')}
          empty={total === 0 ? 'No rows yet. The view fills as matching telemetry arrives.' : 'No row matches the filter.'}
        />
      </section>}
    </>
  );
}

function glows(view: LiveView, row: Row, column: number): boolean {
  if (row.changedAt === 0 || view.toldAt - row.changedAt > glow) return false;
  return row.changedCells === null || row.changedCells[column] === true;
}

function CellContent({ row, column, text }: { readonly row: Row; readonly column: number; readonly text: string }): ReactNode {
  const shown = text === nothing ? text : line(text);
  return (
    <>
      <span title={text.length > 24 ? shown.slice(0, 2000) : undefined}>{shown.length > 300 ? `${shown.slice(0, 300)}…` : shown}</span>
      {column === 0 && row.count !== 1 ? <span className="count-mark" title="The row is in the view this many times">×{integer(row.count)}</span> : null}
    </>
  );
}
