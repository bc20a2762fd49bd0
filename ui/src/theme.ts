/** Light, dark or as the system says. `public/theme.js` applies a remembered choice before the first paint. */
import { useSyncExternalStore } from 'react';

export type Theme = 'light' | 'dark';
const storageName = 'pyflare.theme';
const system = window.matchMedia('(prefers-color-scheme: dark)');
const listeners = new Set<() => void>();

function shown(): Theme {
  const chosen = document.documentElement.dataset['theme'];
  if (chosen === 'light' || chosen === 'dark') return chosen;
  return system.matches ? 'dark' : 'light';
}

export function toggleTheme(): void {
  const next = shown() === 'dark' ? 'light' : 'dark';
  document.documentElement.dataset['theme'] = next;
  try {
    localStorage.setItem(storageName, next);
  } catch {
    // Not remembered, but shown all the same.
  }
  for (const listener of listeners) listener();
}

export function useTheme(): Theme {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      system.addEventListener('change', listener);
      return () => {
        listeners.delete(listener);
        system.removeEventListener('change', listener);
      };
    },
    shown,
  );
}
