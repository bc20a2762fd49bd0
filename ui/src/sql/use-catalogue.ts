/** The catalogue of the server the page talks to: its streams with their columns, its views with theirs. */
import { listFields, listMonitors, listViews } from '../api/client.ts';
import type { Field, Monitor } from '../api/types.ts';
import { useRequest } from '../api/use-request.ts';
import { Problem } from '../api/problem.ts';
import { Catalogue, emptyCatalogue, type Relation, type RelationColumn } from './relations.ts';
import { internalRelations } from './internal.ts';

const text = 'Utf8';
const time = 'Timestamp(µs, UTC)';
const lateColumns: readonly RelationColumn[] = [
  { name: 'project', type: text }, { name: 'pane_start', type: time }, { name: 'pane_end', type: time }, { name: 'admitted_at', type: time }, { name: 'late_rows', type: 'Int64' },
];
const errorColumns: readonly RelationColumn[] = [
  { name: 'project', type: text }, { name: 'error', type: text }, { name: 'admitted_at', type: time }, { name: 'errors', type: 'Int64' },
];

export function catalogueOf(fields: readonly Field[], views: readonly Monitor[]): Catalogue {
  const streams = new Map<string, RelationColumn[]>();
  for (const field of fields) {
    const columns = streams.get(field.stream) ?? [];
    const unit = field.unit == null || field.unit === '' ? '' : ` In ${field.unit}.`;
    columns.push({ name: field.name, type: field.type, about: `${field.description ?? ''}${unit}` });
    streams.set(field.stream, columns);
  }
  // A project's own view goes before a built-in one of the same name, as it does in a query.
  const byName = new Map([...views].sort((left, right) => Number(right.builtin === true) - Number(left.builtin === true)).map((view) => [view.name, view]));
  const maintained = [...byName.values()].map((view): Relation => ({ schema: 'live', name: view.name, kind: view.builtin === true ? 'built-in view' : 'view', about: view.description ?? '', columns: view.columns ?? [] }));
  const leftOut = [...byName.values()].flatMap((view) => (view.companions ?? []).map((name): Relation => {
    const late = name.endsWith('$late');
    return { schema: 'live', name, kind: 'left out', about: late ? `Rows that came too late for ${view.name}.` : `Rows on which an expression of ${view.name} failed.`, columns: late ? lateColumns : errorColumns };
  }));
  const stored = maintained.map((view): Relation => ({ ...view, schema: 'history', kind: 'stored view' }));
  return new Catalogue([
    ...[...streams].map(([name, columns]): Relation => ({ schema: '', name, kind: 'stream', about: 'A stream of telemetry.', columns })),
    ...maintained,
    ...[...streams].map(([name, columns]): Relation => ({ schema: 'history', name, kind: 'stored stream', about: 'Everything stored, and what has come since.', columns })),
    ...stored,
    ...leftOut,
    ...internalRelations,
  ]);
}

/** Refreshed now and then; what the server does not tell is left out. */
export function useCatalogue(): { readonly catalogue: Catalogue; readonly reload: () => void } {
  const { value, reload } = useRequest('catalogue', async (signal) => {
    const [fields, views] = await Promise.all([optional(listFields(signal)), optional(listViews(signal))]);
    return catalogueOf(fields ?? [], views ?? (await listMonitors(signal)));
  }, { every: 20_000 });
  return { catalogue: value ?? emptyCatalogue, reload };
}

/** `null` where the server has no such route. */
async function optional<Value>(request: Promise<Value>): Promise<Value | null> {
  try {
    return await request;
  } catch (cause) {
    if (cause instanceof Problem && cause.status === 404) return null;
    throw cause;
  }
}
