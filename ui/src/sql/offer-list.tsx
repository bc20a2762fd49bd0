/** What completion offers, in a list at the word being written. The focus stays in the text area. */
import { useEffect, useLayoutEffect, useRef, type ReactNode } from 'react';
import { line } from '../format.ts';
import type { Offer } from './completion.ts';

const signs: Readonly<Record<Offer['kind'], string>> = { column: 'c', relation: 'r', function: 'ƒ', keyword: 'k', template: 't', value: 'v' };

export interface OfferListProps {
  readonly id: string;
  readonly offers: readonly Offer[];
  readonly active: number;
  /** Line and column of the word, from 0. */
  readonly place: { readonly line: number; readonly column: number };
  readonly onTake: (index: number) => void;
}

export function OfferList({ id, offers, active, place, onTake }: OfferListProps): ReactNode {
  const anchor = useRef<HTMLElement>(null);
  const box = useRef<HTMLDivElement>(null);

  // It lies above everything that scrolls, so it is put where the word is on the screen.
  useLayoutEffect(() => {
    const put = (): void => {
      if (!anchor.current || !box.current) return;
      const word = anchor.current.getBoundingClientRect();
      const { offsetWidth: width, offsetHeight: height } = box.current;
      const below = word.bottom + 3;
      const top = below + height > window.innerHeight && word.top - height - 3 > 0 ? word.top - height - 3 : below;
      box.current.style.top = `${top}px`;
      box.current.style.left = `${Math.max(6, Math.min(word.left - 30, window.innerWidth - width - 6))}px`;
    };
    put();
    window.addEventListener('scroll', put, { capture: true, passive: true });
    window.addEventListener('resize', put);
    return () => {
      window.removeEventListener('scroll', put, { capture: true });
      window.removeEventListener('resize', put);
    };
  }, [place.line, place.column, offers]);

  useEffect(() => {
    box.current?.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: 'nearest' });
  }, [active]);

  const about = offers[active]?.about ?? '';
  return (
    <>
      <i className="editor-caret" ref={anchor} aria-hidden="true" style={{ top: `calc(${place.line} * var(--editor-line))`, left: `${place.column}ch` }} />
      <div className="offers" ref={box}>
        <div className="offers-list" role="listbox" id={id} aria-label="Suggestions">
          {offers.map((offer, index) => (
            // The keyboard is the text area's: it moves and takes, as the pattern has it.
            // eslint-disable-next-line jsx-a11y/click-events-have-key-events
            <div
              key={index}
              id={`${id}-${index}`}
              role="option"
              tabIndex={-1}
              aria-selected={index === active}
              className="offer"
              onMouseDown={(event) => event.preventDefault()}
              onClick={() => onTake(index)}
            >
              <i className={`offer-sign ${offer.kind}`} aria-hidden="true">{signs[offer.kind]}</i>
              <span className="offer-label">{line(offer.label)}</span>
              <span className="offer-detail">{line(offer.detail)}</span>
            </div>
          ))}
        </div>
        <div className="offers-about" aria-hidden="true">{active < 0 ? 'Down chooses, Enter takes, Esc closes' : about === '' ? '\u00a0' : line(about)}</div>
      </div>
    </>
  );
}
