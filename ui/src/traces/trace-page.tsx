/** One trace: what it was, where the time went, what every span says. */
import { useMemo, useState, type ReactNode } from 'react';
import { readTrace } from '../api/client.ts';
import { useRequest } from '../api/use-request.ts';
import { clock, compact, day, duration, integer, line, plural } from '../format.ts';
import { CopyButton } from '../parts/copy-button.tsx';
import { Icon } from '../parts/icons.tsx';
import { Loading } from '../parts/loading.tsx';
import { ProblemBox } from '../parts/problem-box.tsx';
import { replace, useRoute, withQuery } from '../route.ts';
import { classColor } from './classes.ts';
import { Minimap, type TimeWindow } from './minimap.tsx';
import { SpanDetail } from './span-detail.tsx';
import { ancestors, buildTree, visibleRows } from './tree.ts';
import { Waterfall } from './waterfall.tsx';

export default function TracePage({ traceId }: { readonly traceId: string }): ReactNode {
  const { value, problem, reload } = useRequest(`trace ${traceId}`, (signal) => readTrace(traceId, signal));
  if (problem !== null) {
    return (
      <div className="page">
        <header className="page-head"><a href="#/traces" className="muted">Traces</a><span className="muted">/</span><h1 className="mono">{line(traceId)}</h1></header>
        <ProblemBox problem={problem} onRetry={reload} />
      </div>
    );
  }
  if (value === null) return <div className="page"><Loading what="Reading the trace…" slow="Large traces take a moment." /></div>;
  return <TraceView spans={value.spans} cut={value.truncated === true} traceId={value.trace_id} onReload={reload} />;
}

function TraceView({ spans, cut, traceId, onReload }: { readonly cut: boolean; readonly spans: readonly Readonly<Record<string, unknown>>[]; readonly traceId: string; readonly onReload: () => void }): ReactNode {
  const route = useRoute();
  const tree = useMemo(() => buildTree(spans), [spans]);
  const [collapsed, setCollapsed] = useState<ReadonlySet<number>>(() => new Set<number>());
  const [zoom, setZoom] = useState<TimeWindow | null>(null);
  const [search, setSearch] = useState('');
  const rows = useMemo(() => visibleRows(tree, collapsed), [tree, collapsed]);
  const order = useMemo(() => visibleRows(tree, new Set()), [tree]);
  const wholeWindow = { from: 0, to: Math.max(tree.total, 1e-6) };

  const asked = route.query.get('span');
  const selected = useMemo(() => {
    if (asked === null) return null;
    const [id, twin] = asked.split('~');
    return (twin === undefined ? tree.nodes.find((node) => node.id === id)?.index : tree.nodes[Number(twin)]?.index) ?? null;
  }, [asked, tree]);
  const select = (index: number | null): void => {
    const node = index === null ? undefined : tree.nodes[index];
    if (node === undefined) {
      replace(withQuery(route, { span: undefined }));
      return;
    }
    // A span below a collapsed one is shown by opening what is above it.
    const above = ancestors(tree, node.index).filter((one) => collapsed.has(one));
    if (above.length > 0) setCollapsed((old) => new Set([...old].filter((one) => !above.includes(one))));
    const first = tree.nodes.find((one) => one.id === node.id);
    replace(withQuery(route, { span: node.id === '' || first !== node ? `${node.id}~${node.index}` : node.id }));
  };

  const words = search.trim().toLowerCase();
  const matches = useMemo(
    () => (words === '' ? null : new Set(tree.nodes.filter((node) => node.name.toLowerCase().includes(words) || node.service.toLowerCase().includes(words) || node.spanClass === words || node.id === words).map((node) => node.index))),
    [tree, words],
  );
  const next = (wanted: (index: number) => boolean): void => {
    const from = selected === null ? -1 : order.indexOf(selected);
    const found = [...order.slice(from + 1), ...order.slice(0, from + 1)].find(wanted);
    if (found !== undefined) select(found);
  };
  const zoomTo = (index: number): void => {
    const node = tree.nodes[index];
    if (node && node.duration > 0) setZoom({ from: Math.max(0, node.offset - node.duration * 0.04), to: Math.min(tree.total, node.offset + node.duration * 1.04) });
  };

  const root = tree.nodes[tree.roots[0] ?? -1];
  const tokens = useMemo(() => {
    // Agents and chains often repeat the sum of what is below them; models' own spans are counted.
    const sum = (field: string): number => spans.reduce((total, span) => total + (span['span_class'] === 'llm' || span['span_class'] === 'embedding' ? Number(span[field] ?? 0) || 0 : 0), 0);
    return { input: sum('input_tokens'), output: sum('output_tokens') };
  }, [spans]);
  const classes = useMemo(() => {
    const counts = new Map<string, number>();
    for (const node of tree.nodes) counts.set(node.spanClass, (counts.get(node.spanClass) ?? 0) + 1);
    return [...counts].sort((left, right) => right[1] - left[1]);
  }, [tree]);
  const parents = useMemo(() => tree.nodes.filter((node) => node.children.length > 0).map((node) => node.index), [tree]);
  const node = selected === null ? undefined : tree.nodes[selected];
  const span = selected === null ? undefined : spans[selected];

  return (
    <div className="page full trace">
      <header className="page-head">
        <a href="#/traces" className="muted">Traces</a>
        <span className="muted" aria-hidden="true">/</span>
        <h1>{line(root?.name ?? '').slice(0, 200) || 'Trace'}</h1>
        {root === undefined ? null : <span className="chip">{line(root.service).slice(0, 80)}</span>}
        {tree.errors > 0 ? <button type="button" className="chip bad as-button" onClick={() => next((index) => tree.nodes[index]?.failed === true)}><Icon name="alert" size={12} />{plural(tree.errors, 'error')}: next</button> : null}
        <span className="spring" />
        <code className="muted">{line(traceId)}</code>
        <CopyButton text={traceId} label="Copy the trace id" quiet />
        <button type="button" className="button small" onClick={onReload}>Reload</button>
      </header>
      <dl className="trace-facts">
        <div><dt>Duration</dt><dd>{duration(tree.total)}</dd></div>
        <div><dt>Spans</dt><dd>{integer(tree.nodes.length)}{cut ? <span className="chip bad cut">the trace has more</span> : null}</dd></div>
        <div><dt>Started</dt><dd>{day(tree.start)} {clock(tree.start, 'millis')}</dd></div>
        {tokens.input + tokens.output > 0 ? <div><dt>Tokens</dt><dd>{compact(tokens.input)} in · {compact(tokens.output)} out</dd></div> : null}
        <div className="classes">
          <dt className="visually-hidden">Classes</dt>
          <dd>{classes.slice(0, 14).map(([name, count]) => <span key={name} className="legend"><i className="class-dot" style={{ background: classColor(name) }} />{line(name).slice(0, 24)} <span className="muted">{compact(count)}</span></span>)}</dd>
        </div>
      </dl>
      {tree.nodes.length === 0 ? (
        <div className="empty"><h2>No span of this trace is here</h2><p>It may be older than the retention, or not have arrived yet.</p></div>
      ) : (
        <div className="trace-body">
          <section className="card trace-spans" aria-label="Waterfall">
            <div className="trace-tools">
              <input
                className="field"
                type="search"
                placeholder="Find spans"
                aria-label="Find spans by name, service or class"
                value={search}
                onChange={(event) => setSearch(event.target.value)}
                onKeyDown={(event) => {
                  if (event.key === 'Enter' && matches !== null) next((index) => matches.has(index));
                }}
              />
              <span className="muted" role="status">{matches === null ? '' : `${plural(matches.size, 'match', 'matches')}${matches.size > 0 ? ', Enter for the next' : ''}`}</span>
              <span className="spring" />
              {zoom === null ? null : <button type="button" className="button small" onClick={() => setZoom(null)}>Whole trace</button>}
              <button type="button" className="button small" onClick={() => setCollapsed(collapsed.size > 0 ? new Set() : new Set(parents.filter((index) => (tree.nodes[index]?.depth ?? 0) > 0)))}>
                {collapsed.size > 0 ? 'Expand all' : 'Collapse'}
              </button>
            </div>
            <Minimap tree={tree} order={order} window={zoom ?? wholeWindow} onWindow={setZoom} />
            <Waterfall
              tree={tree}
              rows={rows}
              collapsed={collapsed}
              selected={selected}
              matches={matches}
              window={zoom ?? wholeWindow}
              onSelect={select}
              onZoom={zoomTo}
              onCollapse={(index, close) => setCollapsed((old) => { const copy = new Set(old); if (close) copy.add(index); else copy.delete(index); return copy; })}
            />
          </section>
          {node === undefined || span === undefined ? null : <SpanDetail key={node.index} span={span} node={node} tree={tree} onClose={() => select(null)} onZoom={() => zoomTo(node.index)} />}
        </div>
      )}
    </div>
  );
}
