/**
 * A plan drawn: what is read on one side, the result on the other. The nodes are a list in the order of the plan's text
 * for who does not see the drawing, and buttons that show their details; lines are drawn behind them.
 */
import { useMemo, useRef, useState, type CSSProperties, type PointerEvent, type ReactNode } from 'react';
import { useWidth } from '../charts/time-chart.tsx';
import { bytes, compact, duration, integer, line, percent, plural } from '../format.ts';
import { href } from '../route.ts';
import { extent, layout, type Direction, type Layout } from './layout.ts';
import type { Figures, PlanNode } from './nodes.ts';

const nodeWidth = 196;
/** Around the drawing. */
const margin = 18;
const zooms = [0.5, 0.65, 0.8, 1, 1.25];

export interface PlanGraphProps {
  readonly nodes: readonly PlanNode[];
  readonly figures?: ReadonlyMap<number, Figures> | undefined;
  readonly label: string;
}

export function PlanGraph({ nodes, figures, label }: PlanGraphProps): ReactNode {
  const [attach, width] = useWidth();
  const [zoom, setZoom] = useState(3);
  const [chosen, setChosen] = useState<number | null>(null);
  const scroll = useRef<HTMLDivElement | null>(null);
  const grip = useRef<{ x: number; y: number; left: number; top: number } | null>(null);

  const nodeHeight = figures === undefined ? 54 : 88;
  const { direction, drawn } = useMemo(() => fitted(nodes, nodeHeight, width), [nodes, nodeHeight, width]);
  const scale = zooms[zoom] ?? 1;
  const node = nodes.find((one) => one.node === chosen) ?? null;

  const onPointerDown = (event: PointerEvent): void => {
    const box = scroll.current;
    if (box === null || event.pointerType !== 'mouse' || event.button !== 0 || (event.target instanceof Element && event.target.closest('button') !== null)) return;
    grip.current = { x: event.clientX, y: event.clientY, left: box.scrollLeft, top: box.scrollTop };
    box.setPointerCapture(event.pointerId);
  };
  const onPointerMove = (event: PointerEvent): void => {
    const box = scroll.current;
    if (box === null || grip.current === null) return;
    box.scrollLeft = grip.current.left - (event.clientX - grip.current.x);
    box.scrollTop = grip.current.top - (event.clientY - grip.current.y);
  };
  const release = (): void => {
    grip.current = null;
  };

  return (
    <div className="plan-graph" ref={attach}>
      <div className="plan-tools">
        <span className="muted">{plural(nodes.length, 'operator')}; rows flow {direction === 'down' ? 'downwards' : 'to the right'}</span>
        <span className="spring" />
        <button type="button" className="button small" aria-label="Smaller" disabled={zoom === 0} onClick={() => setZoom(zoom - 1)}>−</button>
        <span className="muted plan-zoom">{percent(scale)}</span>
        <button type="button" className="button small" aria-label="Larger" disabled={zoom === zooms.length - 1} onClick={() => setZoom(zoom + 1)}>+</button>
      </div>
      {width === 0 ? null : (
        // A region that scrolls must be reachable by keyboard; the pointer may pull it.
        <div
          className="plan-scroll"
          ref={scroll}
          role="region"
          aria-label={label}
          // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex
          tabIndex={0}
          onPointerDown={onPointerDown}
          onPointerMove={onPointerMove}
          onPointerUp={release}
          onPointerCancel={release}
        >
          <div className="plan-canvas" style={{ width: drawn.width * scale, height: drawn.height * scale }}>
            <div style={{ width: drawn.width, height: drawn.height, transform: `scale(${scale})`, transformOrigin: '0 0' }}>
              <svg width={drawn.width} height={drawn.height} aria-hidden="true">
                {drawn.edges.map(({ from, to, points: [x1, y1, x2, y2] }) => {
                  const bend = direction === 'down' ? `M${x1} ${y1}C${x1} ${(y1 + y2) / 2} ${x2} ${(y1 + y2) / 2} ${x2} ${y2 - 5}` : `M${x1} ${y1}C${(x1 + x2) / 2} ${y1} ${(x1 + x2) / 2} ${y2} ${x2 - 5} ${y2}`;
                  const head = direction === 'down' ? `M${x2 - 4} ${y2 - 7}L${x2} ${y2 - 1}L${x2 + 4} ${y2 - 7}Z` : `M${x2 - 7} ${y2 - 4}L${x2 - 1} ${y2}L${x2 - 7} ${y2 + 4}Z`;
                  return (
                    <g key={`${from}-${to}`} className={chosen === from || chosen === to ? 'plan-edge chosen' : 'plan-edge'}>
                      <path d={bend} fill="none" strokeWidth={thickness(figures?.get(from)?.rowsOut)} />
                      <path d={head} className="plan-head" />
                    </g>
                  );
                })}
              </svg>
              <ol className="plan-nodes">
                {nodes.map((one) => {
                  const place = drawn.places.get(one.node);
                  const own = figures?.get(one.node);
                  const heat = own?.busyShare ?? 0;
                  const readers = one.inputs.length === 0 ? '' : `; reads ${one.inputs.map((input) => nodes.find(({ node: number }) => number === input)?.title ?? input).join(' and ')}`;
                  return (
                    <li key={one.node} style={{ left: place?.x ?? 0, top: place?.y ?? 0, width: nodeWidth, height: nodeHeight }}>
                      <button
                        type="button"
                        className={`plan-node ${kindOf(one.title)}${own === undefined ? '' : ' figured'}`}
                        style={{ '--heat': `${Math.round(heat * 100)}%` } as CSSProperties}
                        aria-pressed={chosen === one.node}
                        title={line(`${one.title}${one.detail === '' ? '' : `: ${one.detail}`}`).slice(0, 1000)}
                        onClick={() => setChosen(chosen === one.node ? null : one.node)}
                      >
                        <b>{line(one.title)}{one.sharedWith.length > 0 ? <span className="plan-shared" title={`Shared with ${one.sharedWith.join(', ')}`}>shared</span> : null}</b>
                        <span className="plan-detail">{line(one.detail)}</span>
                        <span className="visually-hidden">{readers}</span>
                        {own === undefined ? null : (
                          <span className="plan-figures">
                            <span><span className="visually-hidden">; busy </span>{percent(own.busyShare)}<i className="plan-heat" aria-hidden="true" /></span>
                            <span><span className="visually-hidden">; </span>{compact(own.rowsOut)} out{own.stateRows > 0 || own.stateBytes > 0 ? <> · <span className="visually-hidden">keeps </span>{compact(own.stateRows)} kept</> : null}</span>
                          </span>
                        )}
                      </button>
                    </li>
                  );
                })}
              </ol>
            </div>
          </div>
        </div>
      )}
      {node === null ? null : <NodeDetails node={node} figures={figures?.get(node.node)} onClose={() => setChosen(null)} />}
    </div>
  );
}

/** The direction in which a plan is read with the least scrolling sideways. */
function fitted(nodes: readonly PlanNode[], nodeHeight: number, width: number): { readonly direction: Direction; readonly drawn: Layout } {
  const down = layout(nodes, { across: nodeWidth, along: nodeHeight, gapAcross: 22, gapAlong: 32 }, 'down');
  const right = layout(nodes, { across: nodeHeight, along: nodeWidth, gapAcross: 16, gapAlong: 40 }, 'right');
  const { long, wide } = extent(nodes);
  const room = width - 2 * margin;
  // A plan that is a strip reads like a line, where it fits.
  if (right.width <= room && (long >= wide || down.width > room)) return { direction: 'right', drawn: right };
  return down.width <= Math.max(room, right.width) ? { direction: 'down', drawn: down } : { direction: 'right', drawn: right };
}

function NodeDetails({ node, figures, onClose }: { readonly node: PlanNode; readonly figures: Figures | undefined; readonly onClose: () => void }): ReactNode {
  return (
    <section className="plan-chosen" aria-label="Chosen operator">
      <header>
        <h3>{line(node.title)}</h3>
        <span className="spring" />
        <button type="button" className="button small" onClick={onClose}>Close</button>
      </header>
      {node.detail === '' ? null : <p className="mono">{line(node.detail)}</p>}
      {node.sharedWith.length === 0 ? null : <p>Shared with {node.sharedWith.map((name, index) => <span key={name}>{index === 0 ? '' : ', '}<a href={href(['monitors', name])}>{line(name)}</a></span>)}: kept once for all of them.</p>}
      {figures === undefined ? null : (
        <dl className="facts">
          <div><dt>Busy</dt><dd>{duration(figures.busyMicros / 1000)}, {percent(figures.busyShare)} of the monitor</dd></div>
          <div><dt>Changes sent on</dt><dd>{integer(figures.rowsOut)}{Number.isNaN(figures.rowsPerSecond) ? '' : `, now ${compact(figures.rowsPerSecond)}/s`}</dd></div>
          <div><dt>Kept</dt><dd>{integer(figures.stateRows)} rows, {bytes(figures.stateBytes)}</dd></div>
        </dl>
      )}
    </section>
  );
}

/** Lines grow with the order of magnitude of what went over them. */
function thickness(rows: number | undefined): number {
  return rows === undefined || rows <= 0 ? 1.5 : Math.min(5, 1.5 + Math.log10(rows) / 2);
}

function kindOf(title: string): string {
  if (/^(source|view)$/i.test(title)) return 'reads';
  if (/join|union|intersect|except/i.test(title)) return 'meets';
  if (/aggregate|top|window|distinct/i.test(title)) return 'keeps';
  return 'passes';
}
