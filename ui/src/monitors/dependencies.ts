/** Who reads whom among the monitors, from what their statements say. */
import type { Monitor } from '../api/types.ts';
import { emptyCatalogue } from '../sql/relations.ts';
import { Statement } from '../sql/scope.ts';

export interface Dependencies {
  readonly reads: readonly string[];
  readonly readBy: readonly string[];
}

const read = new WeakMap<Monitor, readonly string[]>();

/** What a monitor reads: streams and views. */
export function readsOfMonitor(monitor: Monitor): readonly string[] {
  let known = read.get(monitor);
  if (known === undefined) {
    known = monitor.sql === undefined ? [] : new Statement(monitor.sql, emptyCatalogue).reads();
    read.set(monitor, known);
  }
  return known;
}

export function dependencies(name: string, monitors: readonly Monitor[]): Dependencies {
  const own = monitors.find((monitor) => monitor.name === name);
  return {
    reads: own === undefined ? [] : readsOfMonitor(own),
    readBy: monitors.filter((monitor) => monitor.name !== name && readsOfMonitor(monitor).some((one) => one === name || one.startsWith(`${name}$`))).map((monitor) => monitor.name),
  };
}
