import type { ReactNode } from 'react';
import { Icon } from './icons.tsx';

export interface ShownProblem {
  readonly code: string;
  readonly message: string;
  readonly hint: string | null;
}

/** An error as the server told it: what, why (with its code), and what to do. */
export function ProblemBox({ problem, title, onRetry }: { readonly problem: ShownProblem; readonly title?: string; readonly onRetry?: () => void }): ReactNode {
  return (
    <div className="problem" role="alert">
      <Icon name="alert" />
      <div>
        {title === undefined ? null : <strong>{title} </strong>}
        <span className="problem-detail">{sentence(problem.message)}</span>
        {problem.code === '' ? null : <code className="problem-code">{problem.code}</code>}
        {problem.hint === null ? null : <p className="problem-hint">{sentence(problem.hint)}</p>}
        {onRetry === undefined ? null : (
          <p>
            <button type="button" className="button small" onClick={onRetry}>
              Try again
            </button>
          </p>
        )}
      </div>
    </div>
  );
}

/** Begins with a capital, unless what it begins with is a name that is written so. */
function sentence(text: string): string {
  return /^[a-z]+ /.test(text) ? text.charAt(0).toUpperCase() + text.slice(1) : text;
}
