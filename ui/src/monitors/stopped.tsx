/** A monitor that the server has stopped: why, and the ways out. */
import type { ReactNode } from 'react';
import type { Monitor } from '../api/types.ts';
import { ProblemBox } from '../parts/problem-box.tsx';
import { go, href } from '../route.ts';
import { replacing } from '../sql/fixes.ts';

export function isStopped(monitor: Monitor): boolean {
  return /^(stopped|failed)$/i.test(monitor.state ?? '');
}

/** The code that a reason names, apart from its words. */
export function stopReason(reason: string | null | undefined): { readonly code: string; readonly text: string } {
  const text = reason ?? '';
  const code = /PF-\d{4}/.exec(text)?.[0] ?? '';
  return { code, text: text.replace(/^\s*\(?PF-\d{4}\)?\s*[:,–-]?\s*/, '').replace(/\s*\(PF-\d{4}\)/, '') };
}

export function Stopped({ monitor }: { readonly monitor: Monitor }): ReactNode {
  const { code, text } = stopReason(monitor.reason);
  const { sql } = monitor;
  return (
    <ProblemBox
      title="This monitor has stopped."
      problem={{ code, message: text === '' ? 'The server does not say why.' : text, hint: 'It follows nothing any more and its rows are gone; other monitors go on. Change the statement so that it stays within its limits and create it again, or drop it.' }}
      actions={sql === undefined || monitor.builtin === true ? [] : [{ label: 'Change it and create it again', onTake: () => go(href(['new'], { sql: replacing(sql) })) }]}
    />
  );
}
