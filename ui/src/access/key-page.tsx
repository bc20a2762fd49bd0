/** Asks for a key, tries it, keeps it. */
import { useState, type SubmitEvent, type ReactNode } from 'react';
import { readCaller } from '../api/client.ts';
import { Problem } from '../api/problem.ts';
import { asProblem } from '../api/use-request.ts';
import { ProblemBox } from '../parts/problem-box.tsx';
import { askForKey, useAccess, adoptKey } from './access.ts';
import { isKeyText } from './keys.ts';

export function KeyPage(): ReactNode {
  const { refused, adding } = useAccess();
  const [key, setKey] = useState('');
  const [remember, setRemember] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [busy, setBusy] = useState(false);
  // That a key is missing is what the page says already; that it is unknown is news.
  const shown = problem ?? (refused !== null && refused.code !== 'PF-1001' ? refused : null);

  const open = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault();
    const text = key.trim();
    if (!isKeyText(text)) {
      setProblem(new Problem({ status: 0, code: '', title: 'Not a key', detail: 'This is not a key: keys begin with pf_ and have letters, digits and signs, but no spaces.' }));
      return;
    }
    setBusy(true);
    setProblem(null);
    try {
      const answer = await readCaller(text);
      adoptKey({ key: text, project: answer.project ?? 'default' }, remember);
    } catch (cause) {
      setProblem(asProblem(cause));
    } finally {
      setBusy(false);
    }
  };

  return (
    <div className="page key-page">
      <section className="card">
        <h1>{adding ? 'Add a project' : 'This server asks for a key'}</h1>
        <p className="muted">
          {adding ? 'A key opens one project. Those you have stay.' : 'A key says which project you see. It is one of those in the server’s setting auth.keys; ask whoever runs it.'}
        </p>
        <form onSubmit={(event) => void open(event)}>
          <label className="filter">
            <span>Key</span>
            {/* eslint-disable-next-line jsx-a11y/no-autofocus -- the page has this one purpose */}
            <input className="field mono" type="password" autoFocus autoComplete="off" spellCheck={false} placeholder="pf_…" value={key} onChange={(event) => { setKey(event.target.value); setProblem(null); }} />
          </label>
          <label className="check">
            <input type="checkbox" checked={remember} onChange={(event) => setRemember(event.target.checked)} />
            <span>Remember on this machine <span className="muted">· otherwise until this tab is closed</span></span>
          </label>
          {shown === null ? null : <ProblemBox problem={shown} />}
          <div className="dialog-foot">
            {adding ? <button type="button" className="button" onClick={() => askForKey(false)}>Back</button> : null}
            <button type="submit" className="button primary" disabled={busy || key.trim() === ''}>{busy ? 'Trying…' : 'Open'}</button>
          </div>
        </form>
      </section>
    </div>
  );
}
