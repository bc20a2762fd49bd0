/**
 * A view's content: a multiset of rows, kept by adding up the diffs of its frames.
 *
 * Invariants: after every frame no row has the count zero; a frame is applied as one step, so that a row taken out
 * and put back within it is no change at all; what is reported (`added`, `removed`, `recounted`) is exactly the
 * difference between the content before and after. Counts below zero mean that the sender broke the protocol; they
 * are kept, so that later frames still add up, and told by `negative`.
 */
import type { Cell, Column, Frame } from './protocol.ts';

export interface Row {
  readonly values: readonly Cell[];
  readonly count: number;
  /** Rises with each row that enters; a stable order among rows that compare equal. */
  readonly sequence: number;
  /** When the row entered by a change (not by a snapshot), in the caller's clock; otherwise 0. */
  readonly changedAt: number;
  /** Which cells differ from the former version of the same key; `null` when the row is new. */
  readonly changedCells: readonly boolean[] | null;
}

type StoredRow = { -readonly [name in keyof Row]: Row[name] };

export interface Change {
  readonly reset: boolean;
  readonly added: readonly Row[];
  readonly removed: readonly Row[];
  readonly recounted: readonly Row[];
}

export class RowMultiset {
  #rows = new Map<string, StoredRow>();
  #sequence = 0;
  #negative = 0;
  #keyColumns: readonly number[] = [];

  setColumns(columns: readonly Column[]): void {
    this.#keyColumns = columns.flatMap((column, index) => (column.key ? [index] : []));
  }

  /** How many distinct rows. */
  get size(): number {
    return this.#rows.size;
  }

  get negative(): number {
    return this.#negative;
  }

  rows(): IterableIterator<Row> {
    return this.#rows.values();
  }

  apply(frame: Pick<Frame, 'reset' | 'rows'>, now: number): Change {
    const removedAll: Row[] = [];
    if (frame.reset) {
      removedAll.push(...this.#rows.values());
      this.#rows = new Map();
      this.#negative = 0;
    }
    const deltas = new Map<string, { values: readonly Cell[]; diff: number }>();
    for (const [diff, ...values] of frame.rows) {
      const amount = Number(diff);
      if (!Number.isSafeInteger(amount) || amount === 0) continue;
      const name = JSON.stringify(values);
      const delta = deltas.get(name);
      if (delta) delta.diff += amount;
      else deltas.set(name, { values, diff: amount });
    }

    const added: StoredRow[] = [];
    const removed: Row[] = [];
    const recounted: Row[] = [];
    for (const [name, { values, diff }] of deltas) {
      if (diff === 0) continue;
      const row = this.#rows.get(name);
      if (row === undefined) {
        const entered: StoredRow = { values, count: diff, sequence: this.#sequence++, changedAt: frame.reset ? 0 : now, changedCells: null };
        this.#rows.set(name, entered);
        if (diff < 0) this.#negative++;
        added.push(entered);
        continue;
      }
      if (row.count < 0) this.#negative--;
      row.count += diff;
      if (row.count < 0) this.#negative++;
      if (row.count === 0) {
        this.#rows.delete(name);
        removed.push(row);
      } else {
        row.changedAt = now;
        recounted.push(row);
      }
    }
    if (!frame.reset) this.#markChangedCells(added, removed);
    return { reset: frame.reset, added, removed: frame.reset ? removedAll : removed, recounted };
  }

  /** The values of the view's key, as one text; the whole row where no key is known. */
  identity(values: readonly Cell[]): string {
    return JSON.stringify(this.#keyColumns.length === 0 ? values : this.#keyColumns.map((index) => values[index] ?? null));
  }

  #markChangedCells(added: readonly StoredRow[], removed: readonly Row[]): void {
    if (this.#keyColumns.length === 0 || removed.length === 0) return;
    const former = new Map(removed.map((row) => [this.identity(row.values), row]));
    for (const row of added) {
      const old = former.get(this.identity(row.values));
      if (old) row.changedCells = row.values.map((value, index) => !sameCell(value, old.values[index]));
    }
  }
}

function sameCell(left: Cell, right: Cell | undefined): boolean {
  if (left === right) return true;
  return typeof left === 'object' && typeof right === 'object' && JSON.stringify(left) === JSON.stringify(right);
}
