/**
 * A subscribed view for the page: columns, content, how fresh it is, and what went wrong.
 * Every frame is applied at once; listeners hear of it at most once per `quiet` milliseconds, so that ten frames a
 * second do not mean ten renderings.
 */
import type { LiveConnection, Subscription } from './connection.ts';
import { RowMultiset, type Change } from './multiset.ts';
import type { Column, Frame, Target } from './protocol.ts';

export interface LiveError {
  readonly code: string;
  readonly message: string;
  readonly hint: string | null;
}

export interface LiveViewOptions {
  readonly quiet?: number;
  /** Called when the columns are known and when they change: not when a resumed subscription names them again. */
  readonly onColumns?: (columns: readonly Column[]) => void;
  /** Called for every frame that changed something, before the listeners. */
  readonly onChange?: (change: Change, content: RowMultiset) => void;
}

export class LiveView {
  readonly content = new RowMultiset();
  columns: readonly Column[] = [];
  /** The tick up to which the content is complete; `null` before the first frame. */
  asOf: number | null = null;
  receivedAt = 0;
  frames = 0;
  error: LiveError | null = null;
  ended: string | null = null;
  version = 0;
  /** The clock of `changedAt`, as it stood when the listeners were last told. */
  toldAt = 0;

  readonly #subscription: Subscription;
  readonly #listeners = new Set<() => void>();
  readonly #quiet: number;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(connection: LiveConnection, target: Target, options: LiveViewOptions = {}) {
    this.#quiet = options.quiet ?? 150;
    this.#subscription = connection.subscribe(target, {
      schema: (columns) => {
        this.error = null;
        this.ended = null;
        if (JSON.stringify(columns) !== JSON.stringify(this.columns)) {
          this.columns = columns;
          this.content.setColumns(columns);
          options.onColumns?.(columns);
        }
        this.#changed();
      },
      frame: (frame: Frame) => {
        const change = this.content.apply(frame, performance.now());
        this.asOf = frame.upper;
        this.receivedAt = Date.now();
        this.frames++;
        this.error = null;
        this.ended = null;
        if (change.reset || change.added.length + change.removed.length + change.recounted.length > 0) options.onChange?.(change, this.content);
        this.#changed();
      },
      error: (code, message, hint) => {
        this.error = { code, message, hint };
        this.#changed();
      },
      end: (reason) => {
        this.ended = reason;
        this.#changed();
      },
    });
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  close(): void {
    clearTimeout(this.#timer);
    this.#listeners.clear();
    this.#subscription.close();
  }

  #changed(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.version++;
      this.toldAt = performance.now();
      for (const listener of this.#listeners) listener();
    }, this.#quiet);
  }
}
