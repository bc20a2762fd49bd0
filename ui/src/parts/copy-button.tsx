import { useEffect, useState, type ReactNode } from 'react';
import { Icon } from './icons.tsx';

/** Where the clipboard is forbidden (plain HTTP from another machine), the old way through a selection. */
async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement('textarea');
    area.value = text;
    document.body.append(area);
    area.select();
    // eslint-disable-next-line @typescript-eslint/no-deprecated -- the only way outside secure contexts
    const done = document.execCommand('copy');
    area.remove();
    return done;
  }
}

export function CopyButton({ text, label = 'Copy', quiet = false }: { readonly text: string; readonly label?: string; readonly quiet?: boolean }): ReactNode {
  const [state, setState] = useState<'ready' | 'copied' | 'failed'>('ready');
  useEffect(() => {
    if (state === 'ready') return;
    const timer = setTimeout(() => setState('ready'), 1600);
    return () => clearTimeout(timer);
  }, [state]);
  const said = state === 'copied' ? 'Copied' : state === 'failed' ? 'Could not copy' : label;
  return (
    <button
      type="button"
      className={quiet ? 'button icon-only quiet' : 'button small'}
      aria-label={quiet ? said : undefined}
      title={quiet ? said : undefined}
      onClick={() => void copy(text).then((done) => setState(done ? 'copied' : 'failed'))}
    >
      <Icon name={state === 'copied' ? 'done' : 'copy'} size={14} />
      {quiet ? null : <span aria-live="polite">{said}</span>}
    </button>
  );
}
