/**
 * Places for the nodes of a plan: what is read above (or left of) what reads it, the result last. A plan is nearly
 * always a tree, so each node stands over the middle of what it reads, and parts are packed as close as their outlines
 * allow; a node with several readers has its place by the first, and lines to all.
 */
import type { PlanNode } from './nodes.ts';

export interface Size {
  /** Of a node, and between two of them, across and along the direction of flow. */
  readonly across: number;
  readonly along: number;
  readonly gapAcross: number;
  readonly gapAlong: number;
}

export interface Placed {
  readonly node: number;
  readonly x: number;
  readonly y: number;
}

export interface Edge {
  readonly from: number;
  readonly to: number;
  readonly points: readonly [number, number, number, number];
}

export interface Layout {
  readonly places: ReadonlyMap<number, Placed>;
  readonly edges: readonly Edge[];
  readonly width: number;
  readonly height: number;
}

export type Direction = 'down' | 'right';

/** How many nodes follow one another, and how many stand side by side at most. */
export function extent(nodes: readonly PlanNode[]): { readonly long: number; readonly wide: number } {
  const layers = layersOf(nodes);
  const counts = new Map<number, number>();
  for (const layer of layers.values()) counts.set(layer, (counts.get(layer) ?? 0) + 1);
  return { long: counts.size, wide: Math.max(0, ...counts.values()) };
}

/** The result is layer 0; a node is one layer above the furthest of its readers. Loops, which no plan has, are cut. */
function layersOf(nodes: readonly PlanNode[]): Map<number, number> {
  const byNumber = new Map(nodes.map((node) => [node.node, node]));
  const readers = new Map<number, number>();
  for (const node of nodes) for (const input of new Set(node.inputs)) readers.set(input, (readers.get(input) ?? 0) + 1);
  const layers = new Map<number, number>();
  const ready = nodes.filter(({ node }) => !readers.has(node));
  for (const { node } of ready) layers.set(node, 0);
  for (let at = 0; at < ready.length; at++) {
    const reader = ready[at];
    if (reader === undefined) break;
    for (const input of new Set(reader.inputs)) {
      const one = byNumber.get(input);
      if (one === undefined) continue;
      layers.set(input, Math.max(layers.get(input) ?? 0, (layers.get(reader.node) ?? 0) + 1));
      const left = (readers.get(input) ?? 1) - 1;
      readers.set(input, left);
      if (left === 0) ready.push(one);
    }
  }
  for (const { node } of nodes) if (!layers.has(node)) layers.set(node, 0);
  return layers;
}

/** A part of the plan: places across relative to its root, and its outline by layer. */
interface Part {
  readonly places: Map<number, number>;
  readonly least: Map<number, number>;
  readonly most: Map<number, number>;
}

export function layout(nodes: readonly PlanNode[], size: Size, direction: Direction): Layout {
  const layers = layersOf(nodes);
  const byNumber = new Map(nodes.map((node) => [node.node, node]));
  const placed = new Set<number>();
  const step = size.across + size.gapAcross;

  const beside = (parts: readonly Part[]): { parts: Part; roots: number[] } => {
    const all: Part = { places: new Map(), least: new Map(), most: new Map() };
    const shifts: number[] = [];
    for (const part of parts) {
      let shift = parts.length > 1 && shifts.length > 0 ? -Infinity : 0;
      if (shifts.length > 0) for (const [layer, least] of part.least) shift = Math.max(shift, (all.most.get(layer) ?? -Infinity) + step - least);
      if (!Number.isFinite(shift)) shift = Math.max(0, ...all.most.values()) + step - Math.min(...part.least.values());
      shifts.push(shift);
      for (const [node, at] of part.places) all.places.set(node, at + shift);
      for (const [layer, least] of part.least) all.least.set(layer, Math.min(all.least.get(layer) ?? Infinity, least + shift));
      for (const [layer, most] of part.most) all.most.set(layer, Math.max(all.most.get(layer) ?? -Infinity, most + shift));
    }
    return { parts: all, roots: shifts };
  };

  const part = (node: PlanNode): Part => {
    placed.add(node.node);
    const inputs: Part[] = [];
    for (const input of node.inputs) {
      const one = byNumber.get(input);
      if (one !== undefined && !placed.has(input)) inputs.push(part(one));
    }
    const { parts, roots } = beside(inputs);
    const middle = roots.length === 0 ? 0 : ((roots[0] ?? 0) + (roots.at(-1) ?? 0)) / 2;
    const layer = layers.get(node.node) ?? 0;
    const moved = (map: Map<number, number>): Map<number, number> => new Map([...map].map(([key, at]) => [key, at - middle]));
    const own: Part = { places: moved(parts.places), least: moved(parts.least), most: moved(parts.most) };
    own.places.set(node.node, 0);
    own.least.set(layer, Math.min(own.least.get(layer) ?? 0, 0));
    own.most.set(layer, Math.max(own.most.get(layer) ?? 0, 0));
    return own;
  };

  const roots: Part[] = [];
  for (const node of nodes.toSorted((left, right) => (layers.get(left.node) ?? 0) - (layers.get(right.node) ?? 0))) if (!placed.has(node.node)) roots.push(part(node));
  const { parts } = beside(roots);
  const start = Math.min(0, ...parts.places.values());
  const longest = Math.max(0, ...layers.values());
  const places = new Map<number, Placed>();
  let acrossEnd = 0;
  for (const [node, at] of parts.places) {
    const across = at - start;
    const along = (longest - (layers.get(node) ?? 0)) * (size.along + size.gapAlong);
    acrossEnd = Math.max(acrossEnd, across + size.across);
    places.set(node, direction === 'down' ? { node, x: across, y: along } : { node, x: along, y: across });
  }
  const edges: Edge[] = [];
  for (const { node, inputs } of nodes) {
    for (const input of new Set(inputs)) {
      const from = places.get(input);
      const to = places.get(node);
      if (from === undefined || to === undefined) continue;
      const points = direction === 'down'
        ? [from.x + size.across / 2, from.y + size.along, to.x + size.across / 2, to.y] as const
        : [from.x + size.along, from.y + size.across / 2, to.x, to.y + size.across / 2] as const;
      edges.push({ from: input, to: node, points });
    }
  }
  const alongEnd = nodes.length === 0 ? 0 : longest * (size.along + size.gapAlong) + size.along;
  return { places, edges, width: direction === 'down' ? acrossEnd : alongEnd, height: direction === 'down' ? alongEnd : acrossEnd };
}
