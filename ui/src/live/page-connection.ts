/** The page's one connection, and the hooks that tie live views to components. */
import { useEffect, useState, useSyncExternalStore } from 'react';
import { currentKey, namedProject } from '../access/access.ts';
import { keyProtocols } from '../access/keys.ts';
import { LiveConnection, type ConnectionState } from './connection.ts';
import { LiveView, type LiveViewOptions } from './live-view.ts';
import type { Target } from './protocol.ts';

function address(): string {
  const url = new URL('api/v1/live', document.baseURI);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  url.hash = '';
  url.search = '';
  const project = namedProject();
  if (project !== null) url.searchParams.set('project', project);
  return url.href;
}

function open(): WebSocket {
  const key = currentKey();
  return key === null ? new WebSocket(address()) : new WebSocket(address(), keyProtocols(key));
}

export const pageConnection = new LiveConnection({ open });

window.addEventListener('online', () => pageConnection.retryNow());
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'visible') pageConnection.retryNow();
});

export function useConnectionState(): ConnectionState {
  return useSyncExternalStore(
    (listener) => pageConnection.onState(listener),
    () => pageConnection.state,
  );
}

function targetKey(target: Target | null): string {
  return target === null ? '' : JSON.stringify(target);
}

/**
 * Subscribes while the component is shown. The options are those of the first rendering with this target;
 * `attempt` may be raised to subscribe anew.
 */
export function useLiveView(target: Target | null, options: LiveViewOptions = {}, attempt = 0): LiveView | null {
  const [view, setView] = useState<LiveView | null>(null);
  const key = `${targetKey(target)}#${attempt}`;
  useEffect(() => {
    if (target === null) return;
    const opened = new LiveView(pageConnection, target, options);
    // eslint-disable-next-line react-hooks/set-state-in-effect -- the subscription is the outside system; it exists from here on
    setView(opened);
    return () => {
      opened.close();
      setView(null);
    };
    // eslint-disable-next-line react-hooks/exhaustive-deps -- `key` stands for the target's content, not its identity
  }, [key]);
  return view;
}

/** Renders again when the view has news; answers its version. */
export function useVersion(view: LiveView | null): number {
  return useSyncExternalStore(
    (listener) => view?.subscribe(listener) ?? (() => undefined),
    () => view?.version ?? -1,
  );
}
