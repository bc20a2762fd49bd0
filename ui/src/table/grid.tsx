/** A table of any length: a header that stays, rows drawn only where they are seen. */
import type { ReactNode } from 'react';
import { useViewport } from './use-viewport.ts';
import { virtualWindow } from './virtual-window.ts';

export interface GridColumn {
  readonly name: string;
  /** Shown under the pointer, such as the type. */
  readonly hint?: string;
  readonly numeric?: boolean;
  /** Width in characters. */
  readonly width: number;
}

export interface GridProps<Row> {
  readonly label: string;
  readonly columns: readonly GridColumn[];
  readonly rows: readonly Row[];
  readonly rowKey: (row: Row, index: number) => string | number;
  readonly cell: (row: Row, column: number) => ReactNode;
  readonly cellClass?: (row: Row, column: number) => string;
  readonly cellStyle?: (row: Row, column: number) => React.CSSProperties | undefined;
  readonly sort?: { readonly column: number; readonly descending: boolean };
  readonly onSort?: (column: number) => void;
  readonly empty?: ReactNode;
}

const rowHeight = 28;

export function Grid<Row>(props: GridProps<Row>): ReactNode {
  const { columns, rows } = props;
  const { attach, viewport } = useViewport();
  const seen = virtualWindow(rows.length, rowHeight, viewport.scrollTop, Math.max(0, viewport.height - rowHeight));
  const template = columns.map((column) => `minmax(${column.width}ch, ${column.width}fr)`).join(' ');
  const drawn = rows.slice(seen.first, seen.end);
  return (
    // A region that scrolls must be reachable by keyboard.
    // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex
    <div className="grid" ref={attach} tabIndex={0} role="table" aria-label={props.label} aria-rowcount={rows.length + 1} aria-colcount={columns.length}>
      <div className="grid-body" style={{ height: seen.height + rowHeight, minWidth: `${columns.reduce((sum, column) => sum + column.width, 0)}ch` }}>
        <div className="grid-row grid-head" role="row" aria-rowindex={1} style={{ gridTemplateColumns: template }}>
          {columns.map((column, index) => {
            const sorted = props.sort?.column === index ? props.sort : undefined;
            return (
              <div
                key={index}
                role="columnheader"
                className={column.numeric ? 'grid-cell numeric' : 'grid-cell'}
                title={column.hint}
                aria-sort={sorted === undefined ? undefined : sorted.descending ? 'descending' : 'ascending'}
              >
                {props.onSort ? (
                  <button type="button" className="sort" onClick={() => props.onSort?.(index)}>
                    {column.name}
                    <span aria-hidden="true" className="sort-arrow">
                      {sorted === undefined ? '' : sorted.descending ? '↓' : '↑'}
                    </span>
                  </button>
                ) : (
                  column.name
                )}
              </div>
            );
          })}
        </div>
        <div style={{ transform: `translateY(${seen.top}px)` }}>
          {drawn.map((row, offset) => {
            const index = seen.first + offset;
            return (
              <div className="grid-row" role="row" aria-rowindex={index + 2} key={props.rowKey(row, index)} style={{ gridTemplateColumns: template }}>
                {columns.map((column, at) => (
                  <div
                    key={at}
                    role="cell"
                    className={`grid-cell${column.numeric ? ' numeric' : ''} ${props.cellClass?.(row, at) ?? ''}`}
                    style={props.cellStyle?.(row, at)}
                  >
                    {props.cell(row, at)}
                  </div>
                ))}
              </div>
            );
          })}
        </div>
      </div>
      {rows.length === 0 && props.empty !== undefined ? <div className="grid-empty">{props.empty}</div> : null}
    </div>
  );
}

/** A width in characters that fits the header and the texts seen, within reason. */
export function columnWidth(name: string, texts: readonly string[], numeric: boolean): number {
  const longest = texts.reduce((most, text) => Math.max(most, text.length), 0);
  // Numbers are set in mono: a character is a character. Words are narrower than their count of zeros.
  const content = Math.max((name.length + 2) * 0.92, longest * (numeric ? 1 : 0.88));
  // The rest is the padding of the cell.
  return Math.min(34, Math.max(6, Math.ceil(content) + 3));
}
