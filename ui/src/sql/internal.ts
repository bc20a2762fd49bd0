/** The relations in which the engine tells about itself, as `pyflare_internal.*`. */
import type { Relation } from './relations.ts';

const of = (name: string, about: string, columns: string): Relation => ({
  schema: 'pyflare_internal',
  name,
  kind: 'internal',
  about,
  columns: columns.split(' ').map((entry) => {
    const [column = '', type = ''] = entry.split(':');
    return { name: column, type: type.replace('Timestamp', 'Timestamp(µs, UTC)') };
  }),
});

export const internalRelations: readonly Relation[] = [
  of('monitors', 'Every monitor and what it costs.', 'project:Utf8 name:Utf8 kind:Utf8 state:Utf8 reason:Utf8 start:Timestamp installed_at:Timestamp rows:Int64 changes:Int64 state_rows:Int64 state_bytes:Int64 busy_us:Int64 late_rows:Int64 errors:Int64'),
  of('arrangements', 'What is kept, by worker, and who shares it.', 'worker:Int32 arrangement:Int64 kind:Utf8 views:Utf8 stream:Utf8 rows:Int64 bytes:Int64'),
  of('operators', 'The operators of every monitor, by worker.', 'worker:Int32 project:Utf8 monitor:Utf8 node:Int32 operator:Utf8 rows_out:Int64 state_rows:Int64 state_bytes:Int64 busy_us:Int64'),
  of('streams', 'How far every partition of every stream is.', 'stream:Utf8 partition:Int32 mark:Timestamp admitted_rows:Int64 backlog:Int64 lag_ms:Int64'),
  of('late_rows', 'Rows that came too late, by monitor.', 'project:Utf8 monitor:Utf8 late_rows:Int64'),
  of('errors', 'Rows on which an expression failed, by monitor.', 'project:Utf8 monitor:Utf8 error:Utf8 errors:Int64'),
];
