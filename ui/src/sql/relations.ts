/** What a query can read: relations and their columns, by the names SQL calls them. */

export interface RelationColumn {
  readonly name: string;
  readonly type: string;
  readonly about?: string;
}

export interface Relation {
  /** `live`, `history`, `pyflare_internal`; empty for a stream as a monitor reads it. */
  readonly schema: string;
  readonly name: string;
  /** What it is, in a word or two: "stream", "view". */
  readonly kind: string;
  readonly about: string;
  readonly columns: readonly RelationColumn[];
}

export class Catalogue {
  readonly relations: readonly Relation[];
  readonly #byName = new Map<string, Relation>();

  constructor(relations: readonly Relation[]) {
    this.relations = relations;
    // A bare name means the first relation that has it.
    for (const relation of relations) {
      for (const name of [relation.name, ...(relation.schema === '' ? [] : [`${relation.schema}.${relation.name}`])]) {
        if (!this.#byName.has(name)) this.#byName.set(name, relation);
      }
    }
  }

  /** A relation by the parts of its name: `['live', 'requests']`. */
  find(path: readonly string[]): Relation | undefined {
    return this.#byName.get(path.slice(-2).join('.')) ?? (path.length === 1 ? undefined : this.#byName.get(path.join('.')));
  }

  get schemas(): readonly string[] {
    return [...new Set(this.relations.map((relation) => relation.schema))].filter((schema) => schema !== '');
  }
}

export const emptyCatalogue = new Catalogue([]);
