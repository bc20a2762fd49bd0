/** How a monitor is kept: the bound of its state, its key and columns, with whom it shares, the graph and its text. */
import { useMemo, type ReactNode } from 'react';
import type { Explanation } from '../api/types.ts';
import { line, nothing } from '../format.ts';
import { CopyButton } from '../parts/copy-button.tsx';
import { href } from '../route.ts';
import { PlanGraph } from './graph.tsx';
import { planNodes, readsOf, type Figures } from './nodes.ts';

export interface PlanCardProps {
  readonly plan: Explanation;
  readonly figures?: ReadonlyMap<number, Figures> | undefined;
  /** Beside the heading. */
  readonly note?: ReactNode;
  /** The monitor's own name, where it runs; what it reads is told elsewhere on its page. */
  readonly name?: string;
}

export function PlanCard({ plan, figures, note, name: own }: PlanCardProps): ReactNode {
  const nodes = useMemo(() => planNodes(plan), [plan]);
  const key = plan.columns?.filter((column) => column.key === true) ?? [];
  const shared = [...new Set(nodes.flatMap((node) => node.sharedWith))].filter((name) => name !== own);
  const reads = readsOf(nodes);
  return (
    <section className="card plan" aria-label="Plan">
      <header className="card-head"><h2>How it is kept</h2>{note}</header>
      <dl className="facts">
        {plan.state === undefined ? null : <div><dt>Keeps</dt><dd>{plan.state}</dd></div>}
        {plan.columns === undefined ? null : <div><dt>Key</dt><dd>{key.length === 0 ? 'the whole row' : <Names names={key.map(({ name }) => name)} />}</dd></div>}
        {reads.length === 0 || own !== undefined ? null : <div><dt>Reads</dt><dd>{reads.map(({ kind, name }, index) => <span key={name}>{index === 0 ? '' : ', '}{kind === 'view' ? <a href={href(['monitors', name])}>{line(name)}</a> : <code>{line(name)}</code>}</span>)}</dd></div>}
        {plan.nodes === undefined ? null : <div><dt>Shares with</dt><dd>{shared.length === 0 ? <span className="muted">nobody</span> : shared.map((name, index) => <span key={name}>{index === 0 ? '' : ', '}<a href={href(['monitors', name])}>{line(name)}</a></span>)}</dd></div>}
      </dl>
      {nodes.length === 0 ? null : <PlanGraph nodes={nodes} figures={figures} label="Graph of the plan" />}
      {plan.columns === undefined ? null : (
        <details>
          <summary>Columns <span className="muted">{plan.columns.length}</span></summary>
          <p className="plan-columns">
            {plan.columns.map((column) => (
              <span key={column.name}><code>{line(column.name)}</code> <span className="muted">{column.type === '' ? nothing : column.type}{column.key === true ? ', key' : ''}</span></span>
            ))}
          </p>
        </details>
      )}
      {plan.operators === undefined || plan.operators.length === 0 ? null : <details><summary>What runs <span className="muted">{plan.operators.length}</span></summary><ol>{plan.operators.map((operator, index) => <li key={index}>{line(operator)}</li>)}</ol></details>}
      {plan.plan === undefined ? null : <PlanText title="Plan as text" text={plan.plan} />}
      {plan.logical === undefined ? null : <PlanText title="Logical plan" text={plan.logical} />}
    </section>
  );
}

function PlanText({ title, text }: { readonly title: string; readonly text: string }): ReactNode {
  return (
    <details>
      <summary>{title}</summary>
      <div className="code-block">
        {/* A region that scrolls must be reachable by keyboard. */}
        {/* eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex */}
        <pre tabIndex={0}>{text}</pre>
        <CopyButton text={text} />
      </div>
    </details>
  );
}

function Names({ names }: { readonly names: readonly string[] }): ReactNode {
  return names.map((name, index) => <span key={name}>{index === 0 ? '' : ', '}<code>{line(name)}</code></span>);
}
