/**
 * The keys this browser holds, one a project. They are kept for the tab unless a person asks to be remembered on
 * this machine; never in an address, a cookie or a message of the page.
 */

export interface HeldKey {
  readonly key: string;
  readonly project: string;
}

const storageName = 'pyflare.keys';
const activeName = 'pyflare.key-in-use';

function parse(text: string | null): HeldKey[] {
  try {
    const value = JSON.parse(text ?? '[]') as unknown;
    if (!Array.isArray(value)) return [];
    return (value as unknown[]).filter((entry): entry is HeldKey => {
      const { key, project } = (entry ?? {}) as Partial<HeldKey>;
      return typeof key === 'string' && typeof project === 'string' && isKeyText(key);
    });
  } catch {
    return [];
  }
}

function read(storage: () => Storage, name: string): string | null {
  try {
    return storage().getItem(name);
  } catch {
    return null;
  }
}

function write(storage: () => Storage, name: string, value: string | null): void {
  try {
    if (value === null) storage().removeItem(name);
    else storage().setItem(name, value);
  } catch {
    // Storage is forbidden or full: the key lasts as long as the page.
  }
}

const tab = (): Storage => sessionStorage;
const machine = (): Storage => localStorage;

/** What a header can carry. */
export function isKeyText(text: string): boolean {
  return /^[\x21-\x7e]{1,512}$/.test(text);
}

export class KeyRing {
  #ofTab: readonly HeldKey[] = parse(read(tab, storageName));
  #ofMachine: readonly HeldKey[] = parse(read(machine, storageName));
  #active: string | null = read(tab, activeName) ?? read(machine, activeName);

  /** All keys, one a project, those of the tab first. */
  get all(): readonly HeldKey[] {
    const seen = new Set<string>();
    return [...this.#ofTab, ...this.#ofMachine].filter(({ project }) => !seen.has(project) && seen.add(project));
  }

  get current(): HeldKey | null {
    return this.all.find(({ project }) => project === this.#active) ?? this.all[0] ?? null;
  }

  /** Holds a key and uses it from now on; an older one of its project goes. */
  add(held: HeldKey, remember: boolean): void {
    this.#drop(held.project);
    if (remember) this.#ofMachine = [...this.#ofMachine, held];
    else this.#ofTab = [...this.#ofTab, held];
    this.use(held.project);
  }

  use(project: string): void {
    this.#active = project;
    this.#save();
  }

  forget(project: string): void {
    this.#drop(project);
    if (this.#active === project) this.#active = null;
    this.#save();
  }

  #drop(project: string): void {
    this.#ofTab = this.#ofTab.filter((held) => held.project !== project);
    this.#ofMachine = this.#ofMachine.filter((held) => held.project !== project);
  }

  #save(): void {
    write(tab, storageName, this.#ofTab.length === 0 ? null : JSON.stringify(this.#ofTab));
    write(machine, storageName, this.#ofMachine.length === 0 ? null : JSON.stringify(this.#ofMachine));
    write(tab, activeName, this.#active);
    write(machine, activeName, this.#ofMachine.some(({ project }) => project === this.#active) ? this.#active : null);
  }
}

/** The subprotocols that carry a key to a WebSocket, the one header a page can fill there. */
export function keyProtocols(key: string): string[] {
  const encoded = btoa(key).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
  return ['pyflare', `pyflare.key.${encoded}`];
}
