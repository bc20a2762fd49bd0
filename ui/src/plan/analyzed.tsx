/** The plan of a monitor that runs, with the figures of its operators, read again while the page is seen. */
import { useRef, useState, type ReactNode } from 'react';
import { analyzeMonitor, explainMonitor } from '../api/client.ts';
import { Problem } from '../api/problem.ts';
import type { Explanation } from '../api/types.ts';
import { useRequest } from '../api/use-request.ts';
import { clock } from '../format.ts';
import { Loading } from '../parts/loading.tsx';
import { ProblemBox } from '../parts/problem-box.tsx';
import { PlanCard } from './card.tsx';
import { figures, type Sample } from './nodes.ts';

const everyMillis = 2000;
/** A server without figures is asked rarely. */
const rarelyMillis = 30_000;

interface Looked {
  readonly plan: Explanation;
  /** `null`: the server has no figures. */
  readonly now: Sample | null;
  readonly before: Sample | null;
}

export function AnalyzedPlan({ name, sql }: { readonly name: string; readonly sql: string | undefined }): ReactNode {
  const last = useRef<Sample | null>(null);
  const [lacking, setLacking] = useState(false);
  const known = useRef<Explanation | null>(null);
  const { value, problem, reload } = useRequest<Looked>(`analyze ${name} ${sql === undefined}`, async (signal) => {
    try {
      const plan = await analyzeMonitor(name, signal);
      const before = last.current;
      last.current = plan.analyze === undefined ? null : { at: Date.now(), analyze: plan.analyze };
      setLacking(last.current === null);
      return { plan, now: last.current, before };
    } catch (cause) {
      if (!(cause instanceof Problem) || (cause.status !== 404 && cause.status !== 400) || sql === undefined) throw cause;
      // Without figures: the plan as it would be made now.
      setLacking(true);
      known.current ??= await explainMonitor(sql, signal);
      return { plan: known.current, now: null, before: null };
    }
  }, { every: lacking ? rarelyMillis : everyMillis });

  if (value === null) return problem === null ? <Loading what="Reading the plan…" /> : <ProblemBox problem={problem} onRetry={reload} />;
  const { now, before } = value;
  return (
    <>
      {problem === null ? null : <ProblemBox problem={problem} onRetry={reload} />}
      <PlanCard
        name={name}
        plan={value.plan}
        figures={now === null ? undefined : figures(now, before)}
        note={now === null
          ? <span className="muted">the figures of its operators are not available</span>
          : <><span className="muted">figures since it was installed, over all workers; the warmer a node, the larger its part of the time</span><span className="spring" /><span className="as-of">at {clock(now.at)}</span></>}
      />
    </>
  );
}
