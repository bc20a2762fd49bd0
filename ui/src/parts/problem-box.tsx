import type { ReactNode } from 'react';
import { Icon } from './icons.tsx';

export interface ShownProblem {
  readonly code: string;
  readonly message: string;
  readonly hint: string | null;
}

export interface ProblemAction {
  readonly label: string;
  readonly onTake: () => void;
}

export interface ProblemBoxProps {
  readonly problem: ShownProblem;
  readonly title?: string;
  readonly onRetry?: () => void;
  /** What one press can do about it. */
  readonly actions?: readonly ProblemAction[];
  readonly id?: string;
  readonly children?: ReactNode;
}

/** A message longer than this is shown up to its first line. */
const longest = 300;

/** An error as the server told it: what, why (with its code), and what to do. */
export function ProblemBox({ problem, title, onRetry, actions = [], id, children }: ProblemBoxProps): ReactNode {
  const message = sentence(problem.message);
  const cut = message.length > longest ? message.indexOf('\n') : -1;
  const taken = [...actions, ...(onRetry === undefined ? [] : [{ label: 'Try again', onTake: onRetry }])];
  return (
    <div className="problem" role="alert" id={id}>
      <Icon name="alert" />
      <div>
        {title === undefined ? null : <strong>{title} </strong>}
        <span className="problem-detail">{cut < 0 ? message : message.slice(0, cut)}</span>
        {problem.code === '' ? null : <code className="problem-code">{problem.code}</code>}
        {problem.hint === null ? null : <p className="problem-hint">{sentence(problem.hint)}</p>}
        {cut < 0 ? null : <details className="problem-hint"><summary>More</summary><p className="problem-detail">{message.slice(cut + 1)}</p></details>}
        {children}
        {taken.length === 0 ? null : (
          <p className="problem-actions">
            {taken.map((action) => <button key={action.label} type="button" className="button small" onClick={action.onTake}>{action.label}</button>)}
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
