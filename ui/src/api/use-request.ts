/** A request that follows its key: a new key starts a new request and gives up the old one. */
import { useEffect, useRef, useState } from 'react';
import { Problem, unreachable } from './problem.ts';

export interface RequestState<Value> {
  readonly value: Value | null;
  readonly problem: Problem | null;
  readonly loading: boolean;
  readonly reload: () => void;
}

/** A server that does not answer is asked again after so long. */
const whileAway = 3000;

export function asProblem(cause: unknown): Problem {
  return cause instanceof Problem ? cause : unreachable(cause);
}

/**
 * `every` repeats the request while the page is visible. The last value stays until the next one is there; a value
 * of another key is dropped unless `keep` is set.
 */
export function useRequest<Value>(
  key: string,
  send: (signal: AbortSignal) => Promise<Value>,
  options: { readonly every?: number | undefined; readonly keep?: boolean } = {},
): RequestState<Value> {
  const [state, setState] = useState<{ key: string; value: Value | null; problem: Problem | null; loading: boolean }>({
    key,
    value: null,
    problem: null,
    loading: true,
  });
  const [round, setRound] = useState(0);
  const latest = useRef(send);
  useEffect(() => {
    latest.current = send;
  });
  const { every, keep = false } = options;

  useEffect(() => {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const run = async (): Promise<void> => {
      let away = false;
      if (document.visibilityState === 'visible' || every === undefined) {
        try {
          const value = await latest.current(abort.signal);
          if (!abort.signal.aborted) setState({ key, value, problem: null, loading: false });
        } catch (cause) {
          // Nobody there, or not ready: worth another try, as a refusal is not.
          away = [0, 502, 503, 504].includes(asProblem(cause).status);
          if (!abort.signal.aborted) setState((old) => ({ key, value: old.key === key || keep ? old.value : null, problem: asProblem(cause), loading: false }));
        }
      }
      const pause = every ?? (away ? whileAway : undefined);
      if (pause !== undefined && !abort.signal.aborted) timer = setTimeout(() => void run(), pause);
    };
    setState((old) => (old.key === key ? { ...old, loading: true } : { key, value: keep ? old.value : null, problem: null, loading: true }));
    void run();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [key, round, every, keep]);

  return { value: state.value, problem: state.problem, loading: state.loading, reload: () => setRound((value) => value + 1) };
}
