/**
 * The built-in views by minute and group, kept from the changes of their frames, and what the overview shows of them.
 *
 * Counts and sums over several groups are exact here, as they are in the views. Percentiles cannot be added up:
 * over several groups the highest one of each minute is given, and the page says so.
 */
import { toMillis, toNumber } from '../format.ts';
import type { Change, Row } from '../live/multiset.ts';
import type { Column } from '../live/protocol.ts';

export const minute = 60_000;

export interface Group {
  readonly project: string;
  readonly service: string | null;
  readonly model: string | null;
}

const separator = '\u0000';
const absent = '\u0001';

export function groupKey(group: Group): string {
  return [group.project, group.service ?? absent, group.model ?? absent].join(separator);
}

export function parseGroupKey(key: string): Group {
  const [project = '', service = absent, model = absent] = key.split(separator);
  return { project, service: service === absent ? null : service, model: model === absent ? null : model };
}

export class MinuteIndex {
  /** minute → group → row */
  readonly minutes = new Map<number, Map<string, Row>>();
  readonly projects = new Map<string, number>();
  #at = new Map<string, number>();

  setColumns(columns: readonly Column[]): void {
    this.#at = new Map(columns.map((column, index) => [column.name, index]));
  }

  apply(change: Change): void {
    if (change.reset) {
      this.minutes.clear();
      this.projects.clear();
    } else {
      for (const row of change.removed) this.#remove(row);
    }
    for (const row of change.added) this.#add(row);
  }

  value(row: Row, column: string): number {
    const at = this.#at.get(column);
    return at === undefined ? NaN : toNumber(row.values[at]);
  }

  #text(row: Row, column: string): string | null {
    const cell = row.values[this.#at.get(column) ?? -1];
    // The built-in views write an absent service or model as an empty text, so that it can be part of their key.
    return typeof cell === 'string' && cell !== '' ? cell : null;
  }

  #place(row: Row): { time: number; project: string; key: string } {
    const project = this.#text(row, 'project') ?? '';
    const time = toMillis(row.values[this.#at.get('window_start') ?? -1]);
    return { time, project, key: groupKey({ project, service: this.#text(row, 'service_name'), model: this.#text(row, 'model') }) };
  }

  #add(row: Row): void {
    const { time, project, key } = this.#place(row);
    if (Number.isNaN(time)) return;
    let groups = this.minutes.get(time);
    if (!groups) this.minutes.set(time, (groups = new Map<string, Row>()));
    groups.set(key, row);
    this.projects.set(project, (this.projects.get(project) ?? 0) + 1);
  }

  #remove(row: Row): void {
    const { time, project, key } = this.#place(row);
    const groups = this.minutes.get(time);
    if (groups?.get(key) !== row) return;
    groups.delete(key);
    if (groups.size === 0) this.minutes.delete(time);
    const left = (this.projects.get(project) ?? 0) - 1;
    if (left > 0) this.projects.set(project, left);
    else this.projects.delete(project);
  }
}

export interface Indexes {
  readonly requests: MinuteIndex;
  readonly errors: MinuteIndex;
  readonly latency: MinuteIndex;
  readonly tokens: MinuteIndex;
}

export interface Choice {
  readonly project: string;
  /** `undefined`: any. */
  readonly group: { readonly service: string | null; readonly model: string | null } | undefined;
  readonly from: number;
  readonly to: number;
}

export interface GroupLine {
  readonly key: string;
  readonly group: Group;
  readonly requests: number;
  readonly errors: number;
  readonly judged: number;
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly perMinute: readonly number[];
}

export interface Summary {
  readonly times: readonly number[];
  readonly requests: readonly number[];
  readonly errors: readonly number[];
  readonly errorRate: readonly number[];
  readonly p50: readonly number[];
  readonly p95: readonly number[];
  readonly p99: readonly number[];
  readonly inputTokens: readonly number[];
  readonly outputTokens: readonly number[];
  /** Groups that the latency lines were taken over, at most in any minute. */
  readonly latencyGroups: number;
  readonly groups: readonly GroupLine[];
}

type Mutable<Value> = { -readonly [Name in keyof Value]: Value[Name] extends readonly number[] ? number[] : Value[Name] };

export function summarise(indexes: Indexes, choice: Choice): Summary {
  const count = Math.max(0, Math.round((choice.to - choice.from) / minute));
  const times = Array.from({ length: count }, (_, index) => choice.from + index * minute);
  const zeros = (): number[] => times.map(() => 0);
  const gaps = (): number[] => times.map(() => NaN);
  const judged = zeros();
  const summary = {
    times, requests: zeros(), errors: zeros(), errorRate: gaps(), p50: gaps(), p95: gaps(), p99: gaps(),
    inputTokens: zeros(), outputTokens: zeros(), latencyGroups: 0,
  };
  const lines = new Map<string, Mutable<GroupLine>>();
  const lineOf = (key: string): Mutable<GroupLine> => {
    let found = lines.get(key);
    if (!found) {
      found = { key, group: parseGroupKey(key), requests: 0, errors: 0, judged: 0, p50: NaN, p95: NaN, p99: NaN, inputTokens: 0, outputTokens: 0, perMinute: zeros() };
      lines.set(key, found);
    }
    return found;
  };
  const prefix = choice.project + separator;
  const chosen = choice.group === undefined ? undefined : groupKey({ project: choice.project, ...choice.group });
  const each = (index: MinuteIndex, visit: (at: number, line: Mutable<GroupLine>, row: Row, inCharts: boolean) => void): void => {
    for (const [at, time] of times.entries()) {
      for (const [key, row] of index.minutes.get(time) ?? []) {
        if (key.startsWith(prefix)) visit(at, lineOf(key), row, chosen === undefined || key === chosen);
      }
    }
  };
  const add = (sums: number[], at: number, amount: number): void => {
    sums[at] = (sums[at] ?? 0) + amount;
  };
  const highest = (values: number[], at: number, value: number): void => {
    const old = values[at] ?? NaN;
    if (!Number.isNaN(value)) values[at] = Number.isNaN(old) ? value : Math.max(old, value);
  };

  each(indexes.requests, (at, line, row, inCharts) => {
    const amount = or0(indexes.requests.value(row, 'requests'));
    line.requests += amount;
    add(line.perMinute, at, amount);
    if (inCharts) add(summary.requests, at, amount);
  });
  each(indexes.errors, (at, line, row, inCharts) => {
    const errors = or0(indexes.errors.value(row, 'errors'));
    const requests = or0(indexes.errors.value(row, 'requests'));
    line.errors += errors;
    line.judged += requests;
    if (!inCharts) return;
    add(summary.errors, at, errors);
    add(judged, at, requests);
  });
  const latencyGroups = zeros();
  each(indexes.latency, (at, line, row, inCharts) => {
    const [p50, p95, p99] = ['p50_ms', 'p95_ms', 'p99_ms'].map((column) => indexes.latency.value(row, column)) as [number, number, number];
    // Minutes come in order, so the newest one stays.
    Object.assign(line, { p50, p95, p99 });
    if (!inCharts) return;
    add(latencyGroups, at, 1);
    highest(summary.p50, at, p50);
    highest(summary.p95, at, p95);
    highest(summary.p99, at, p99);
  });
  each(indexes.tokens, (at, line, row, inCharts) => {
    const input = or0(indexes.tokens.value(row, 'input_tokens'));
    const output = or0(indexes.tokens.value(row, 'output_tokens'));
    line.inputTokens += input;
    line.outputTokens += output;
    if (!inCharts) return;
    add(summary.inputTokens, at, input);
    add(summary.outputTokens, at, output);
  });
  for (const at of times.keys()) {
    const requests = judged[at] ?? 0;
    if (requests > 0) summary.errorRate[at] = (summary.errors[at] ?? 0) / requests;
  }
  return { ...summary, latencyGroups: Math.max(0, ...latencyGroups), groups: [...lines.values()].sort((left, right) => right.requests - left.requests) };
}

function or0(value: number): number {
  return Number.isNaN(value) ? 0 : value;
}
