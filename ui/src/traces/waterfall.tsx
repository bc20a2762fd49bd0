/**
 * The spans of a trace, one a row: the tree on the left, time on the right. Only the rows in sight exist, so
 * 50,000 spans scroll like 50. Arrow keys walk the tree; the selected row is the tree grid's active descendant.
 */
import { useLayoutEffect, type ReactNode } from 'react';
import { duration, line, plural } from '../format.ts';
import { Icon } from '../parts/icons.tsx';
import { useViewport } from '../table/use-viewport.ts';
import { scrollTopFor, virtualWindow } from '../table/virtual-window.ts';
import { classColor } from './classes.ts';
import { Ruler, type TimeWindow } from './minimap.tsx';
import type { SpanNode, TraceTree } from './tree.ts';

const rowHeight = 26;
const deepest = 24;

export interface WaterfallProps {
  readonly tree: TraceTree;
  readonly rows: readonly number[];
  readonly collapsed: ReadonlySet<number>;
  readonly selected: number | null;
  readonly matches: ReadonlySet<number> | null;
  readonly window: TimeWindow;
  readonly onSelect: (index: number) => void;
  readonly onCollapse: (index: number, collapsed: boolean) => void;
  readonly onZoom: (index: number) => void;
}

export function Waterfall(props: WaterfallProps): ReactNode {
  const { tree, rows, selected } = props;
  const { attach, element, viewport } = useViewport();
  const room = Math.max(0, viewport.height - rowHeight);
  const seen = virtualWindow(rows.length, rowHeight, viewport.scrollTop, room);
  const at = selected === null ? -1 : rows.indexOf(selected);

  // The selected row is brought into sight when the selection or the rows change, not while a person scrolls.
  useLayoutEffect(() => {
    const scroller = element.current;
    if (scroller === null || at === -1) return;
    const wanted = scrollTopFor(at, rows.length, rowHeight, scroller.scrollTop, scroller.clientHeight - rowHeight);
    if (wanted !== scroller.scrollTop) scroller.scrollTo({ top: wanted });
  }, [at, rows.length, element]);

  const keys = (event: React.KeyboardEvent): void => {
    const node = at === -1 ? undefined : tree.nodes[rows[at] ?? -1];
    const to = (row: number): void => {
      const next = rows[Math.min(rows.length - 1, Math.max(0, row))];
      if (next !== undefined) props.onSelect(next);
    };
    const page = Math.max(1, Math.floor(room / rowHeight) - 1);
    switch (event.key) {
      case 'ArrowDown': to(at + 1); break;
      case 'ArrowUp': to(at === -1 ? 0 : at - 1); break;
      case 'PageDown': to(at + page); break;
      case 'PageUp': to(at - page); break;
      case 'Home': to(0); break;
      case 'End': to(rows.length - 1); break;
      case 'ArrowRight':
        if (node === undefined || node.children.length === 0) break;
        if (props.collapsed.has(node.index)) props.onCollapse(node.index, false);
        else to(at + 1);
        break;
      case 'ArrowLeft': {
        if (node === undefined) break;
        if (node.children.length > 0 && !props.collapsed.has(node.index)) props.onCollapse(node.index, true);
        else {
          if (node.parent !== null) props.onSelect(node.parent);
        }
        break;
      }
      case 'z':
        if (node === undefined || event.ctrlKey || event.metaKey) return;
        props.onZoom(node.index);
        break;
      default:
        return;
    }
    event.preventDefault();
  };

  return (
    <div
      className="waterfall"
      ref={attach}
      tabIndex={0}
      role="treegrid"
      aria-label="Spans"
      aria-rowcount={rows.length + 1}
      aria-activedescendant={at === -1 ? undefined : `span-row-${rows[at]}`}
      onKeyDown={keys}
    >
      <div role="row" className="waterfall-row waterfall-head" aria-rowindex={1}>
        <div role="columnheader">Span</div>
        <div role="columnheader" aria-label="Time"><Ruler window={props.window} width={viewport.width * 0.55} /></div>
      </div>
      <div role="rowgroup" style={{ height: seen.height }}>
        <div role="presentation" style={{ transform: `translateY(${seen.top}px)` }}>
          {rows.slice(seen.first, seen.end).map((index, offset) => {
            const node = tree.nodes[index];
            return node === undefined ? null : <SpanRow key={index} {...props} node={node} row={seen.first + offset} />;
          })}
        </div>
      </div>
    </div>
  );
}

function SpanRow(props: WaterfallProps & { readonly node: SpanNode; readonly row: number }): ReactNode {
  const { node, window: shown } = props;
  const collapsed = props.collapsed.has(node.index);
  const length = shown.to - shown.from;
  const left = ((node.offset - shown.from) / length) * 100;
  const width = (Math.max(0, node.duration) / length) * 100;
  const right = left + width;
  const color = classColor(node.spanClass);
  const dim = props.matches !== null && !props.matches.has(node.index);
  const name = line(node.name).slice(0, 400);
  return (
    // The tree grid holds the focus and the keys; the row is its active descendant.
    // eslint-disable-next-line jsx-a11y/click-events-have-key-events, jsx-a11y/interactive-supports-focus
    <div
      id={`span-row-${node.index}`}
      role="row"
      className={`waterfall-row${props.selected === node.index ? ' selected' : ''}${node.failed ? ' failed' : ''}${dim ? ' dim' : ''}`}
      aria-rowindex={props.row + 2}
      aria-level={node.depth + 1}
      aria-selected={props.selected === node.index}
      aria-expanded={node.children.length > 0 ? !collapsed : undefined}
      onClick={() => props.onSelect(node.index)}
      onDoubleClick={() => props.onZoom(node.index)}
    >
      <div role="gridcell" className="span-name" style={{ paddingLeft: `min(${6 + Math.min(node.depth, deepest) * 14}px, 50%)` }}>
        {node.children.length > 0 ? (
          <button
            type="button"
            tabIndex={-1}
            aria-label={collapsed ? 'Expand' : 'Collapse'}
            className="toggle"
            onClick={(event) => {
              event.stopPropagation();
              props.onCollapse(node.index, !collapsed);
            }}
          >
            <Icon name={collapsed ? 'right' : 'down'} size={12} />
          </button>
        ) : (
          <span className="toggle" />
        )}
        {node.depth > deepest ? <span className="depth" title={`Level ${node.depth}`}>{node.depth}</span> : null}
        <i className="class-dot" style={{ background: color }} title={line(node.spanClass)} />
        {node.loose === null ? null : <span className="chip loose" title={node.loose === 'missing parent' ? `Its parent ${line(node.parentId ?? '')} is not in the trace` : 'Following its parents leads back to itself'}>{node.loose}</span>}
        <span className="span-title">{name.trim() === '' ? <i className="muted">no name</i> : name}</span>
        {/* Said where it changes; the same word on every row is noise. */}
        {node.parent !== null && props.tree.nodes[node.parent]?.service === node.service ? null : <span className="span-service">{line(node.service).slice(0, 80)}</span>}
        {collapsed ? <span className="chip">{node.descendants} below</span> : null}
        {collapsed && node.failedBelow > 0 ? <span className="chip bad">{plural(node.failedBelow, 'error')}</span> : null}
      </div>
      <div role="gridcell" className="span-time">
        {right < 0 || left > 100 ? (
          <span className={left > 100 ? 'elsewhere after' : 'elsewhere'} aria-hidden="true">{left > 100 ? '→' : '←'}</span>
        ) : (
          <>
            <div className="bar" style={{ left: `${Math.max(0, left)}%`, width: `max(2px, ${Math.min(100, right) - Math.max(0, left)}%)`, background: color }} />
            <span className="bar-label" style={{ left: `max(2px, ${Math.min(100, right)}%)` }}>
              {node.failed ? <Icon name="alert" size={12} /> : null}
              {duration(node.duration)}
              {node.failed ? <span className="visually-hidden">, failed</span> : null}
            </span>
          </>
        )}
      </div>
    </div>
  );
}
