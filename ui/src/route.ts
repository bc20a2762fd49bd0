/**
 * Where the page is, kept in the address after `#`: `#/traces?service=checkout`. A link shows the same page to
 * anybody, whatever path the server is mounted at.
 */
import { useSyncExternalStore } from 'react';

export interface Route {
  /** Decoded path parts: `#/monitors/my%2Fname` is `['monitors', 'my/name']`. */
  readonly path: readonly string[];
  readonly query: URLSearchParams;
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function parseRoute(hash: string): Route {
  const [path = '', query = ''] = hash.replace(/^#/, '').split(/\?(.*)/s, 2);
  return { path: path.split('/').filter((part) => part !== '').map(decoded), query: new URLSearchParams(query) };
}

export function href(path: readonly string[], query?: Readonly<Record<string, string | undefined>>): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) if (value !== undefined && value !== '') search.set(name, value);
  const text = search.toString();
  return `#/${path.map(encodeURIComponent).join('/')}${text === '' ? '' : `?${text}`}`;
}

let current = { hash: '', route: parseRoute('') };

function snapshot(): Route {
  const hash = window.location.hash;
  if (hash !== current.hash) current = { hash, route: parseRoute(hash) };
  return current.route;
}

function subscribe(listener: () => void): () => void {
  window.addEventListener('hashchange', listener);
  return () => window.removeEventListener('hashchange', listener);
}

export function useRoute(): Route {
  return useSyncExternalStore(subscribe, snapshot);
}

export function go(target: string): void {
  window.location.hash = target.replace(/^#/, '');
}

/** Changes the address without a new entry in the history: for filters typed letter by letter. */
export function replace(target: string): void {
  window.history.replaceState(null, '', target);
  window.dispatchEvent(new HashChangeEvent('hashchange'));
}

/** The present address with some of its query changed; an empty value takes the name out. */
export function withQuery(route: Route, changes: Readonly<Record<string, string | undefined>>): string {
  return href(route.path, { ...Object.fromEntries(route.query), ...changes });
}
