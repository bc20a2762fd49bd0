/**
 * A place to write SQL: a text area over its own coloured copy, with line numbers, the place of an error and what can
 * be written there. The text area keeps everything a text area has: undo, screen readers, the Tab key that leaves it
 * (while nothing is offered).
 */
import { useEffect, useId, useMemo, useRef, useState, type KeyboardEvent, type ReactNode } from 'react';
import type { Position } from '../api/problem.ts';
import { accept, complete, type Completion, type Purpose } from './completion.ts';
import { OfferList } from './offer-list.tsx';
import type { Catalogue } from './relations.ts';
import { tokens } from './tokens.ts';

export interface EditorProps {
  readonly label: string;
  readonly value: string;
  readonly onChange: (value: string) => void;
  /** Ctrl or Cmd with Enter. */
  readonly onRun: () => void;
  readonly position?: Position | null;
  /** The element that says what is wrong. */
  readonly describedBy?: string;
  readonly minLines?: number;
  readonly catalogue: Catalogue;
  readonly purpose: Purpose;
}

/** What is offered, and which of it is chosen; -1: none yet. */
interface Offered {
  readonly completion: Completion;
  readonly active: number;
}

export function SqlEditor(props: EditorProps): ReactNode {
  const area = useRef<HTMLTextAreaElement>(null);
  const listId = useId();
  const [offered, setOffered] = useState<Offered | null>(null);
  const lines = props.value.split('\n');
  const position = props.position ?? null;
  const coloured = useMemo(() => (props.value.length > 100_000 ? [{ kind: 'plain' as const, text: props.value }] : tokens(props.value)), [props.value]);

  useEffect(() => {
    if (position === null || !area.current) return;
    const at = offsetOf(area.current.value, position);
    area.current.focus();
    area.current.setSelectionRange(at, at);
  }, [position]);

  const offer = (asked: boolean): void => {
    const field = area.current;
    const completion = field === null || field.selectionStart !== field.selectionEnd ? null : complete(field.value, field.selectionStart, props.catalogue, props.purpose);
    const before = completion === null ? '' : completion.word === '' ? (field?.value.slice(0, completion.from) ?? '') : '';
    // A relation must follow: they are shown, but none is chosen yet.
    const listing = /\b(?:FROM|JOIN) $/i.test(before);
    const wanted = completion !== null && (asked || completion.word !== '' || before.endsWith('.') || listing);
    // A word that is whole already needs no offer: Enter is a new line then.
    const whole = completion !== null && completion.word !== '' && completion.offers[0]?.insert.toLowerCase() === completion.word.toLowerCase();
    const useful = wanted && (asked || !whole || completion.offers.length > 1);
    setOffered(useful ? { completion, active: whole || (listing && !asked) ? -1 : 0 } : null);
  };
  const take = (index: number): void => {
    const field = area.current;
    const chosen = offered?.completion.offers[index];
    setOffered(null);
    if (field === null || offered === null || chosen === undefined) return;
    const { from, to } = offered.completion;
    const { text, selection } = accept(field.value, { from, to }, chosen);
    field.focus();
    field.setSelectionRange(from, to);
    // The one way of changing a text area that its undo knows of.
    // eslint-disable-next-line @typescript-eslint/no-deprecated
    if (!document.execCommand('insertText', false, chosen.insert)) props.onChange(text);
    setOffered(null);
    // Once the value is the field's own again.
    requestAnimationFrame(() => {
      field.setSelectionRange(...selection);
      if (chosen.insert.endsWith('.')) offer(true);
    });
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      setOffered(null);
      props.onRun();
    } else if (event.key === ' ' && (event.ctrlKey || event.altKey) && !event.metaKey) {
      event.preventDefault();
      offer(true);
    } else if (offered !== null) {
      const { active, completion } = offered;
      const count = completion.offers.length;
      const move: Partial<Record<string, number>> = { ArrowDown: (active + 1) % count, ArrowUp: (Math.max(active, 0) - 1 + count) % count, PageDown: Math.min(count - 1, active + 8), PageUp: Math.max(0, active - 8) };
      const next = move[event.key];
      if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
      if (next !== undefined) {
        event.preventDefault();
        setOffered({ completion, active: next });
      } else if ((event.key === 'Enter' || event.key === 'Tab') && active >= 0) {
        event.preventDefault();
        take(active);
      } else if (event.key === 'Escape') {
        event.preventDefault();
        setOffered(null);
      } else if (['ArrowLeft', 'ArrowRight', 'Home', 'End', 'Enter', 'Tab'].includes(event.key)) setOffered(null);
    }
  };

  const open = offered !== null;
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
            aria-autocomplete="list"
            aria-haspopup="listbox"
            aria-controls={open ? listId : undefined}
            aria-activedescendant={open && offered.active >= 0 ? `${listId}-${offered.active}` : undefined}
            aria-describedby={props.describedBy}
            value={props.value}
            onChange={(event) => {
              props.onChange(event.target.value);
              const { inputType } = event.nativeEvent as InputEvent;
              if (inputType === 'insertText' || inputType === 'deleteContentBackward') offer(false);
              else setOffered(null);
            }}
            onKeyDown={onKeyDown}
            onBlur={() => setOffered(null)}
            onPointerDown={() => setOffered(null)}
            spellCheck={false}
            autoCapitalize="off"
            autoComplete="off"
            wrap="off"
          />
          {open ? <OfferList id={listId} offers={offered.completion.offers} active={offered.active} place={placeOf(props.value, offered.completion.from)} onTake={take} /> : null}
        </div>
      </div>
      <span className="visually-hidden" role="status">{open ? `${offered.completion.offers.length} suggestions` : ''}</span>
    </div>
  );
}

/** Characters before a place. */
export function offsetOf(text: string, position: Position): number {
  const before = text.split('\n').slice(0, position.line - 1);
  return before.reduce((sum, line) => sum + line.length + 1, 0) + position.column - 1;
}

/** Line and column, both from 0, of an offset. */
function placeOf(text: string, offset: number): { readonly line: number; readonly column: number } {
  const before = text.slice(0, offset).split('\n');
  return { line: before.length - 1, column: before.at(-1)?.length ?? 0 };
}

function wordLength(line: string, column: number): number {
  return Math.max(1, /^[\w.]+|^"[^"]*"/.exec(line.slice(column - 1))?.[0].length ?? 1);
}
