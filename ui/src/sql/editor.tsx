/**
 * A place to write SQL: a text area over its own coloured copy, with line numbers and the place of an error.
 * The text area keeps everything a text area has: undo, spell, screen readers, the Tab key that leaves it.
 */
import { useEffect, useMemo, useRef, type ReactNode } from 'react';
import type { Position } from '../api/problem.ts';
import { tokens } from './tokens.ts';

export interface EditorProps {
  readonly label: string;
  readonly value: string;
  readonly onChange: (value: string) => void;
  /** Ctrl or Cmd with Enter. */
  readonly onRun: () => void;
  readonly position?: Position | null;
  readonly minLines?: number;
}

export function SqlEditor(props: EditorProps): ReactNode {
  const area = useRef<HTMLTextAreaElement>(null);
  const lines = props.value.split('\n');
  const position = props.position ?? null;
  const coloured = useMemo(() => (props.value.length > 100_000 ? [{ kind: 'plain' as const, text: props.value }] : tokens(props.value)), [props.value]);

  useEffect(() => {
    if (position === null || !area.current) return;
    const before = area.current.value.split('\n').slice(0, position.line - 1);
    const at = before.reduce((sum, text) => sum + text.length + 1, 0) + position.column - 1;
    area.current.focus();
    area.current.setSelectionRange(at, at);
  }, [position]);

  return (
    <div className="editor" style={{ minHeight: `calc(${props.minLines ?? 8} * var(--editor-line) + 20px)` }}>
      <div className="editor-sheet">
        <div className="editor-numbers" aria-hidden="true">
          {lines.map((_, index) => (
            <div key={index} className={position?.line === index + 1 ? 'wrong' : undefined}>{index + 1}</div>
          ))}
        </div>
        <div className="editor-text">
          <pre aria-hidden="true">
            {coloured.map((token, index) => (token.kind === 'plain' || token.kind === 'name' ? token.text : <span key={index} className={`sql-${token.kind}`}>{token.text}</span>))}
            {'\n'}
          </pre>
          {position === null ? null : (
            <i className="editor-mark" aria-hidden="true" style={{ top: `calc(${position.line - 1} * var(--editor-line))`, left: `${position.column - 1}ch`, width: `${wordLength(lines[position.line - 1] ?? '', position.column)}ch` }} />
          )}
          <textarea
            ref={area}
            aria-label={props.label}
            aria-invalid={position !== null}
            value={props.value}
            onChange={(event) => props.onChange(event.target.value)}
            onKeyDown={(event) => {
              if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
                event.preventDefault();
                props.onRun();
              }
            }}
            spellCheck={false}
            autoCapitalize="off"
            autoComplete="off"
            wrap="off"
          />
        </div>
      </div>
    </div>
  );
}

function wordLength(line: string, column: number): number {
  return Math.max(1, /^[\w.]+/.exec(line.slice(column - 1))?.[0].length ?? 1);
}
