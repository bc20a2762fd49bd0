import { describe, expect, it } from 'vitest';
import { RowMultiset } from '../live/multiset.ts';
import type { Cell, Column } from '../live/protocol.ts';
import { minute, MinuteIndex, summarise, type Indexes } from './minutes.ts';

const start = Date.UTC(2026, 10, 24, 5, 0);
const head = ['project', 'service_name', 'model', 'window_start'];

class View {
  readonly index = new MinuteIndex();
  readonly #content = new RowMultiset();

  constructor(...values: string[]) {
    const columns: Column[] = [...head, ...values].map((name, at) => ({ name, type: 'x', key: at < head.length }));
    this.#content.setColumns(columns);
    this.index.setColumns(columns);
  }

  frame(rows: Cell[][], reset = false): void {
    this.index.apply(this.#content.apply({ reset, rows }, 0));
  }
}

function views(): { requests: View; errors: View; latency: View; tokens: View; indexes: Indexes } {
  const made = { requests: new View('requests'), errors: new View('errors', 'requests'), latency: new View('p50_ms', 'p95_ms', 'p99_ms'), tokens: new View('input_tokens', 'output_tokens') };
  return { ...made, indexes: { requests: made.requests.index, errors: made.errors.index, latency: made.latency.index, tokens: made.tokens.index } };
}

const at = (offset: number): string => new Date(start + offset * minute).toISOString();
const choice = { project: 'p', group: undefined, from: start, to: start + 3 * minute };

describe('summarise', () => {
  it('adds up groups of the project and leaves other projects out', () => {
    const { requests, indexes } = views();
    requests.frame([[1, 'p', 'a', 'm', at(0), '3'], [1, 'p', 'b', null, at(0), '4'], [1, 'other', 'a', 'm', at(0), '100'], [1, 'p', 'a', 'm', at(2), '5'], [1, 'p', 'a', 'm', at(9), '7']], true);
    const summary = summarise(indexes, choice);
    expect(summary.requests).toEqual([7, 0, 5]);
    expect(summary.groups.map(({ group, requests: count, perMinute }) => [group.service, group.model, count, perMinute])).toEqual([['a', 'm', 8, [3, 0, 5]], ['b', null, 4, [4, 0, 0]]]);
  });

  it('follows corrections and expiry', () => {
    const { requests, indexes } = views();
    requests.frame([[1, 'p', 'a', 'm', at(0), '3']], true);
    requests.frame([[1, 'p', 'a', 'm', at(0), '8'], [-1, 'p', 'a', 'm', at(0), '3']]);
    expect(summarise(indexes, choice).requests).toEqual([8, 0, 0]);
    requests.frame([[-1, 'p', 'a', 'm', at(0), '8']]);
    expect(summarise(indexes, choice).requests).toEqual([0, 0, 0]);
    expect([...requests.index.projects.keys()]).toEqual([]);
  });

  it('divides errors by the requests they are of, and has no rate without requests', () => {
    const { errors, indexes } = views();
    errors.frame([[1, 'p', 'a', 'm', at(0), '1', '4'], [1, 'p', 'b', 'm', at(0), '0', '4']], true);
    expect(summarise(indexes, choice).errorRate).toEqual([0.125, NaN, NaN]);
  });

  it('gives the highest percentile of several groups and the own one of a chosen group', () => {
    const { latency, indexes } = views();
    latency.frame([[1, 'p', 'a', 'm', at(0), 1, 20, 30], [1, 'p', 'b', 'm', at(0), 5, 10, 15], [1, 'p', 'a', 'm', at(1), 2, 3, 4]], true);
    const all = summarise(indexes, choice);
    expect([all.p50, all.p95, all.latencyGroups]).toEqual([[5, 2, NaN], [20, 3, NaN], 2]);
    const one = summarise(indexes, { ...choice, group: { service: 'b', model: 'm' } });
    expect([one.p95, one.latencyGroups]).toEqual([[10, NaN, NaN], 1]);
    expect(one.groups.find(({ group }) => group.service === 'a')?.p95).toBe(3);
  });

  it('starts over on reset', () => {
    const { tokens, indexes } = views();
    tokens.frame([[1, 'p', 'a', 'm', at(0), '10', '5']], true);
    tokens.frame([[1, 'p', 'a', 'm', at(1), '1', '2']], true);
    const summary = summarise(indexes, choice);
    expect([summary.inputTokens, summary.outputTokens]).toEqual([[0, 1, 0], [0, 2, 0]]);
  });
});
