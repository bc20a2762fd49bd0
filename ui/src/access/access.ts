/**
 * What the page may see: its key, its project, whether the server asks for keys at all, and where it takes telemetry.
 *
 * Without keys the header `x-pyflare-project` says which project is meant; with keys the key does. Every request and
 * the WebSocket take both from here. An answer 401 to the key in use makes the page ask for another one.
 */
import { useSyncExternalStore } from 'react';
import type { Problem } from '../api/problem.ts';
import { KeyRing, type HeldKey } from './keys.ts';

const projectName = 'pyflare.project';
export const defaultProject = 'default';

export interface AccessState {
  readonly project: string;
  /** Whether a person chose it; otherwise the first project with data may take its place. */
  readonly chosen: boolean;
  readonly known: readonly string[];
  /** Whether the server asks for keys; `null` until it said so. */
  readonly keyed: boolean | null;
  /** Why the server answers nothing until it sees a key that it knows. */
  readonly refused: Problem | null;
  /** A person wants to enter a key for one more project. */
  readonly adding: boolean;
  readonly otlpHttp: string | null;
  readonly otlpGrpc: string | null;
  /** Rises whenever another key or project is in use: everything shown is then read anew. */
  readonly epoch: number;
}

function rememberedProject(): string | null {
  try {
    return localStorage.getItem(projectName);
  } catch {
    return null;
  }
}

const ring = new KeyRing();
const first = ring.current?.project ?? rememberedProject();
let state: AccessState = {
  project: first ?? defaultProject, chosen: first !== null, known: [first ?? defaultProject], keyed: null, refused: null, adding: false,
  otlpHttp: null, otlpGrpc: null, epoch: 0,
};
const listeners = new Set<() => void>();

function set(changes: Partial<AccessState>): void {
  const next = { ...state, ...changes };
  if ((Object.keys(next) as (keyof AccessState)[]).every((name) => next[name] === state[name])) return;
  state = next;
  for (const listener of listeners) listener();
}

export function onAccess(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function accessNow(): AccessState {
  return state;
}

export function useAccess(): AccessState {
  return useSyncExternalStore(onAccess, accessNow);
}

/** The key in use; `null` on a server without keys. */
export function currentKey(): string | null {
  return state.keyed === false ? null : (ring.current?.key ?? null);
}

/** The project to name with a request; `null` where the key says it. */
export function namedProject(): string | null {
  // A header holds visible ASCII only.
  return currentKey() === null && /^[\x21-\x7e]+$/.test(state.project) ? state.project : null;
}

/** The server knows the key, or asks for none. */
export function admitted(answer: { readonly project: string | null; readonly keys: boolean; readonly otlp_http: string | null; readonly otlp_grpc: string | null }): void {
  const common = { keyed: answer.keys, refused: null, otlpHttp: answer.otlp_http, otlpGrpc: answer.otlp_grpc };
  if (!answer.keys || answer.project === null) {
    // A key that is held from another time must not hide the other projects of an open server.
    set(common);
    return;
  }
  const moved = state.project !== answer.project;
  set({ ...common, project: answer.project, chosen: true, known: heldProjects(answer.project), epoch: state.epoch + (moved ? 1 : 0) });
}

/** The server does not answer to the key that the request carried. */
export function refused(problem: Problem, key: string | null): void {
  if (key === currentKey()) set({ refused: problem, keyed: true });
}

export function adoptKey(held: HeldKey, remember: boolean): void {
  ring.add(held, remember);
  set({ keyed: true, refused: null, adding: false, project: held.project, chosen: true, known: heldProjects(held.project), epoch: state.epoch + 1 });
}

export function askForKey(adding: boolean): void {
  set({ adding });
}

/** Forgets the key of the project in use; another one that is held takes its place. */
export function forgetKey(): void {
  ring.forget(state.project);
  const next = ring.current;
  set({ refused: null, project: next?.project ?? defaultProject, known: heldProjects(next?.project ?? defaultProject), epoch: state.epoch + 1 });
}

export function chooseProject(project: string): void {
  if (project === state.project) return;
  if (state.keyed === true) ring.use(project);
  try {
    if (state.keyed !== true) localStorage.setItem(projectName, project);
  } catch {
    // Not remembered, but chosen all the same.
  }
  set({ project, chosen: true, refused: null, epoch: state.epoch + 1 });
}

/** Tells which projects of an open server have rows. */
export function noteProjects(seen: Iterable<string>): void {
  if (state.keyed === true) return;
  const withRows = [...seen];
  const known = [...new Set([state.project, ...state.known, ...withRows])].sort();
  const only = withRows.includes(state.project) || state.chosen ? undefined : withRows.sort()[0];
  if (known.length === state.known.length && only === undefined) return;
  set({ known, project: only ?? state.project, epoch: state.epoch + (only === undefined ? 0 : 1) });
}

function heldProjects(project: string): string[] {
  return [...new Set([project, ...ring.all.map((held) => held.project)])].sort();
}
