import { describe, expect, it } from 'vitest';
import { defaultOrder, OrderedRows } from '../table/ordered-rows.ts';
import type { LiveConnection, SubscriptionHandler } from './connection.ts';
import { LiveView } from './live-view.ts';
import type { Column, Frame } from './protocol.ts';

const columns: Column[] = [
  { name: 'minute', type: 'Timestamp(µs, "UTC")', nullable: false, key: true },
  { name: 'requests', type: 'Int64', nullable: false, key: false },
] as unknown as Column[];

const frame = (lower: number, upper: number, rows: Frame['rows'], reset = false): Frame => ({ type: 'frame', id: 's1', lower, upper, reset, rows, resume: null }) as unknown as Frame;

describe('LiveView', () => {
  it('keeps what a resumed subscription does not send again', () => {
    let handler: SubscriptionHandler | undefined;
    const connection = { subscribe: (_: unknown, given: SubscriptionHandler) => ((handler = given), { close: () => undefined }) } as unknown as LiveConnection;
    const ordered = new OrderedRows();
    let named = 0;
    const view = new LiveView(connection, { view: 'requests' }, {
      onColumns: (list) => {
        named++;
        ordered.setColumns(list);
        ordered.arrange([], defaultOrder(list), '');
      },
      onChange: (change, content) => ordered.apply(change, content.rows()),
    });
    const shown = (): unknown[] => ordered.rows.map((row) => row.values);
    handler?.schema(columns);
    handler?.frame(frame(0, 5, [[1, '2026-01-01T00:00:00Z', 3], [1, '2026-01-01T00:01:00Z', 4]] as Frame['rows'], true));
    ordered.arrange(view.content.rows(), { column: 1, descending: false }, '');
    // The connection came back: the server names the columns again and goes on where it stopped.
    handler?.schema(structuredClone(columns));
    handler?.frame(frame(5, 9, [[-1, '2026-01-01T00:01:00Z', 4], [1, '2026-01-01T00:01:00Z', 9]] as Frame['rows']));
    expect(shown()).toEqual([['2026-01-01T00:00:00Z', 3], ['2026-01-01T00:01:00Z', 9]]);
    expect(named).toBe(1);
    handler?.schema([...columns, { ...columns[1], name: 'errors' } as Column]);
    expect(named).toBe(2);
    view.close();
  });
});
