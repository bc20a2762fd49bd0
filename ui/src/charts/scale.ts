/** Axes: round steps for numbers and for time. */

/** Round values from zero up to at least `max`, about `wanted` of them above zero. */
export function valueTicks(max: number, wanted = 3): number[] {
  if (!(max > 0) || !Number.isFinite(max)) return [0, 1];
  const rough = max / wanted;
  const magnitude = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * magnitude).find((candidate) => candidate >= rough * 0.999) ?? rough;
  const ticks = [0];
  while ((ticks.at(-1) ?? 0) < max * 0.999) ticks.push(Number((step * ticks.length).toPrecision(12)));
  return ticks;
}

const second = 1000;
const minute = 60 * second;
const hour = 60 * minute;
const timeSteps = [second, 2 * second, 5 * second, 10 * second, 15 * second, 30 * second, minute, 2 * minute, 5 * minute, 10 * minute, 15 * minute, 30 * minute, hour, 2 * hour, 3 * hour, 6 * hour, 12 * hour, 24 * hour, 48 * hour, 168 * hour, 672 * hour];

/** Local round times within `[from, to]`, at most `most` of them. */
export function timeTicks(from: number, to: number, most: number): number[] {
  if (!(to > from) || most < 1) return [];
  const step = timeSteps.find((candidate) => (to - from) / candidate <= most) ?? (to - from) / most;
  const zone = new Date(from).getTimezoneOffset() * minute;
  const ticks: number[] = [];
  for (let at = Math.ceil((from - zone) / step) * step + zone; at <= to; at += step) ticks.push(at);
  return ticks;
}

/** Round durations from zero to `total` milliseconds, for the head of a waterfall. */
export function durationTicks(total: number, most: number): number[] {
  if (!(total > 0) || most < 1) return [0];
  const rough = total / most;
  const magnitude = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * magnitude).find((candidate) => candidate >= rough * 0.999) ?? rough;
  const ticks: number[] = [];
  for (let index = 0; index * step <= total * 1.0001; index++) ticks.push(Number((index * step).toPrecision(12)));
  return ticks;
}
