/**
 * The project (tenant) that the page looks at. Chosen once, remembered on this machine. Projects become known as
 * their rows arrive in the built-in views.
 */
import { useSyncExternalStore } from 'react';

const storageName = 'pyflare.project';
export const defaultProject = 'default';

interface State {
  readonly project: string;
  /** Whether a person chose it; otherwise the first project with data may take its place. */
  readonly chosen: boolean;
  readonly known: readonly string[];
}

function remembered(): string | null {
  try {
    return localStorage.getItem(storageName);
  } catch {
    return null;
  }
}

const first = remembered();
let state: State = { project: first ?? defaultProject, chosen: first !== null, known: [first ?? defaultProject] };
const listeners = new Set<() => void>();

function set(next: State): void {
  state = next;
  for (const listener of listeners) listener();
}

export function currentProject(): string {
  return state.project;
}

export function chooseProject(project: string): void {
  try {
    localStorage.setItem(storageName, project);
  } catch {
    // Not remembered, but chosen all the same.
  }
  set({ ...state, project, chosen: true });
}

/** Tells which projects have rows. */
export function noteProjects(seen: Iterable<string>): void {
  const withRows = [...seen];
  const known = [...new Set([state.project, ...state.known, ...withRows])].sort();
  const only = withRows.includes(state.project) || state.chosen ? undefined : withRows.sort()[0];
  if (known.length === state.known.length && only === undefined) return;
  set({ ...state, known, project: only ?? state.project });
}

export function useProjects(): State {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => state,
  );
}
