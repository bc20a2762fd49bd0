import { useRef, useState, type ReactNode } from 'react';
import { dropMonitor } from '../api/client.ts';
import { Problem } from '../api/problem.ts';
import { asProblem } from '../api/use-request.ts';
import { line } from '../format.ts';
import { Icon } from '../parts/icons.tsx';
import { ProblemBox } from '../parts/problem-box.tsx';

/** Drops a monitor, after asking. */
export function DropButton({ name, onDropped, quiet = false }: { readonly name: string; readonly onDropped: () => void; readonly quiet?: boolean }): ReactNode {
  const dialog = useRef<HTMLDialogElement>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [busy, setBusy] = useState(false);
  const drop = async (): Promise<void> => {
    setBusy(true);
    setProblem(null);
    try {
      await dropMonitor(name);
      dialog.current?.close();
      onDropped();
    } catch (cause) {
      setProblem(asProblem(cause));
    } finally {
      setBusy(false);
    }
  };
  return (
    <>
      <button type="button" className={quiet ? 'button icon-only quiet' : 'button danger'} aria-label={`Drop ${name}`} title="Drop" onClick={() => dialog.current?.showModal()}>
        <Icon name="drop" size={14} />
        {quiet ? null : 'Drop'}
      </button>
      <dialog ref={dialog} className="dialog" aria-label={`Drop ${name}`}>
        <h2>Drop “{line(name)}”?</h2>
        <p className="muted">The view stops and its live rows are gone. Other monitors go on.</p>
        {problem === null ? null : <ProblemBox problem={problem} />}
        <div className="dialog-foot">
          <button type="button" className="button" onClick={() => dialog.current?.close()}>Keep it</button>
          <button type="button" className="button danger" disabled={busy} onClick={() => void drop()}>Drop the monitor</button>
        </div>
      </dialog>
    </>
  );
}
