import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { LiveConnection, type Socket } from './connection.ts';
import type { Column, Frame } from './protocol.ts';

class FakeSocket implements Socket {
  onopen: Socket['onopen'] = null;
  onmessage: Socket['onmessage'] = null;
  onclose: Socket['onclose'] = null;
  onerror: Socket['onerror'] = null;
  readonly sent: Record<string, unknown>[] = [];
  closed = false;

  send(data: string): void {
    this.sent.push(JSON.parse(data) as Record<string, unknown>);
  }

  close(): void {
    this.closed = true;
  }

  open(): void {
    this.onopen?.({} as Event);
  }

  lose(): void {
    this.onclose?.({} as CloseEvent);
  }

  say(message: unknown): void {
    this.onmessage?.({ data: typeof message === 'string' ? message : JSON.stringify(message) } as MessageEvent);
  }
}

function setUp(): { sockets: FakeSocket[]; connection: LiveConnection; last: () => FakeSocket } {
  const sockets: FakeSocket[] = [];
  const connection = new LiveConnection({
    open: () => {
      const socket = new FakeSocket();
      sockets.push(socket);
      return socket;
    },
    random: () => 1,
  });
  return { sockets, connection, last: () => sockets.at(-1) as FakeSocket };
}

function listener(): { frames: Frame[]; columns: (readonly Column[])[]; errors: string[]; ends: string[]; handler: Parameters<LiveConnection['subscribe']>[1] } {
  const frames: Frame[] = [];
  const columns: (readonly Column[])[] = [];
  const errors: string[] = [];
  const ends: string[] = [];
  return { frames, columns, errors, ends, handler: { schema: (list) => columns.push(list), frame: (frame) => frames.push(frame), error: (code) => errors.push(code), end: (reason) => ends.push(reason) } };
}

const frame = (id: unknown, lower: number, upper: number, more: object = {}): object => ({ type: 'frame', id, lower, upper, reset: false, rows: [], resume: `at-${upper}`, ...more });

describe('LiveConnection', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it('subscribes as the contract says once the socket is open', () => {
    const { connection, last } = setUp();
    connection.subscribe({ view: 'live.requests' }, listener().handler);
    expect(last().sent).toEqual([]);
    last().open();
    expect(last().sent).toEqual([{ type: 'subscribe', id: 's1', view: 'live.requests', snapshot: true, progress: true, int64: 'string' }]);
    expect(connection.state).toEqual({ kind: 'open' });
  });

  it('resumes from the last token after a lost connection and goes on without a gap', () => {
    const { connection, last, sockets } = setUp();
    const { frames, handler } = listener();
    connection.subscribe({ view: 'v' }, handler);
    last().open();
    last().say(frame('s1', 0, 10, { reset: true }));
    last().say(frame('s1', 10, 20));
    last().lose();
    expect(connection.state.kind).toBe('waiting');
    vi.advanceTimersByTime(250);
    expect(sockets).toHaveLength(2);
    last().open();
    expect(last().sent[0]).toMatchObject({ type: 'subscribe', view: 'v', resume: 'at-20' });
    last().say(frame('s1', 20, 30));
    expect(frames.map(({ lower, upper }) => [lower, upper])).toEqual([[0, 10], [10, 20], [20, 30]]);
  });

  it('takes a reset in place of the resumed frames', () => {
    const { connection, last } = setUp();
    const { frames, handler } = listener();
    connection.subscribe({ view: 'v' }, handler);
    last().open();
    last().say(frame('s1', 0, 10, { reset: true }));
    last().lose();
    vi.advanceTimersByTime(250);
    last().open();
    last().say(frame('s1', 0, 900, { reset: true }));
    last().say(frame('s1', 900, 910));
    expect(frames.map(({ upper }) => upper)).toEqual([10, 900, 910]);
  });

  it('never papers over a gap or an overlap: it starts again under a new id', () => {
    for (const wrong of [21, 19]) {
      const { connection, last } = setUp();
      const { frames, handler } = listener();
      connection.subscribe({ view: 'v' }, handler);
      last().open();
      last().say(frame('s1', 0, 20, { reset: true }));
      last().say(frame('s1', wrong, 30));
      expect(frames).toHaveLength(1);
      expect(last().sent.slice(1)).toEqual([
        { type: 'unsubscribe', id: 's1' },
        { type: 'subscribe', id: 's2', view: 'v', snapshot: true, progress: true, int64: 'string' },
      ]);
      last().say(frame('s1', 30, 40, { reset: true }));
      last().say(frame('s2', 0, 50, { reset: true }));
      expect(frames.map(({ upper }) => upper)).toEqual([20, 50]);
    }
  });

  it('ignores what an old socket still says', () => {
    const { connection, last, sockets } = setUp();
    const { frames, handler } = listener();
    connection.subscribe({ view: 'v' }, handler);
    last().open();
    last().say(frame('s1', 0, 10, { reset: true }));
    last().lose();
    sockets[0]?.say(frame('s1', 10, 20));
    expect(frames).toHaveLength(1);
    expect(sockets[0]?.closed).toBe(true);
  });

  it('waits longer after each failure, up to a bound, and starts over after a message', () => {
    const { connection, last } = setUp();
    connection.subscribe({ view: 'v' }, listener().handler);
    const delays: number[] = [];
    for (let attempt = 0; attempt < 8; attempt++) {
      last().lose();
      const { state } = connection;
      if (state.kind === 'waiting') delays.push(state.retryAt - Date.now());
      vi.advanceTimersByTime(10_000);
    }
    expect(delays).toEqual([250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    last().open();
    last().say(frame('s1', 0, 1, { reset: true }));
    last().lose();
    const { state } = connection;
    expect(state.kind === 'waiting' ? state.retryAt - Date.now() : 0).toBe(250);
  });

  it('spreads the attempts of many pages', () => {
    const sockets: FakeSocket[] = [];
    const connection = new LiveConnection({ open: () => { const socket = new FakeSocket(); sockets.push(socket); return socket; }, random: () => 0 });
    connection.subscribe({ view: 'v' }, listener().handler);
    sockets[0]?.lose();
    const { state } = connection;
    expect(state.kind === 'waiting' ? state.retryAt - Date.now() : 0).toBe(125);
  });

  it('takes a silent socket for dead', () => {
    const { connection, last, sockets } = setUp();
    connection.subscribe({ view: 'v' }, listener().handler);
    last().open();
    vi.advanceTimersByTime(14_000);
    last().say(frame('s1', 0, 1, { reset: true }));
    vi.advanceTimersByTime(14_000);
    expect(sockets).toHaveLength(1);
    vi.advanceTimersByTime(1_300);
    expect(sockets).toHaveLength(2);
  });

  it('tells an error once and tries the subscription again on the next connection, from a snapshot', () => {
    const { connection, last } = setUp();
    const { errors, ends, handler } = listener();
    connection.subscribe({ view: 'v' }, handler);
    last().open();
    last().say({ type: 'error', id: 's1', code: 'PF-5013', message: 'there is no view "v"' });
    last().say(frame('s1', 0, 10, { reset: true }));
    expect([errors, ends]).toEqual([['PF-5013'], []]);
    last().lose();
    vi.advanceTimersByTime(250);
    last().open();
    expect(last().sent[0]).not.toHaveProperty('resume');
  });

  it('tells the end of a view', () => {
    const { connection, last } = setUp();
    const { ends, handler } = listener();
    connection.subscribe({ view: 'v' }, handler);
    last().open();
    last().say({ type: 'end', id: 's1', reason: 'the monitor was dropped' });
    expect(ends).toEqual(['the monitor was dropped']);
  });

  it('shares one socket and closes it with the last subscription', () => {
    const { connection, last, sockets } = setUp();
    const first = connection.subscribe({ view: 'a' }, listener().handler);
    last().open();
    const second = connection.subscribe({ sql: 'SELECT 1' }, listener().handler);
    expect(sockets).toHaveLength(1);
    expect(last().sent[1]).toMatchObject({ id: 's2', sql: 'SELECT 1' });
    first.close();
    expect(last().sent[2]).toEqual({ type: 'unsubscribe', id: 's1' });
    second.close();
    second.close();
    expect([last().closed, connection.state.kind]).toEqual([true, 'idle']);
  });

  it('survives messages that are none', () => {
    const { connection, last } = setUp();
    const { frames, handler } = listener();
    connection.subscribe({ view: 'v' }, handler);
    last().open();
    for (const nonsense of ['', 'nonsense', '[]', 'null', '3', '{"type":"frame"}', '{"type":"frame","id":"s1","lower":5,"upper":3,"rows":[]}', '{"type":"frame","id":"s1","lower":0,"upper":3,"rows":[1]}', '{"type":"schema","id":"s1","columns":[{}]}', '{"type":"new","id":"s1"}']) last().say(nonsense);
    last().say(frame('s1', 0, 10, { reset: true }));
    expect(frames).toHaveLength(1);
  });
});
