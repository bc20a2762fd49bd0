/** Values as people read them. Nothing here throws: what cannot be read is shown as it came. */
import type { Cell } from './live/protocol.ts';

export const nothing = '—';

export type ColumnKind = 'time' | 'integer' | 'number' | 'boolean' | 'text';

/** The kind of a column from its type's name, whether Arrow's (`Timestamp(µs, UTC)`), SQL's or JSON's. */
export function columnKind(type: string): ColumnKind {
  const name = type.toLowerCase();
  if (name.startsWith('timestamp') || name.startsWith('date')) return 'time';
  if (/^(u?int\d*|bigint|smallint|tinyint|integer)\b/.test(name)) return 'integer';
  if (/^(float|double|decimal|real|numeric)/.test(name)) return 'number';
  if (name.startsWith('bool')) return 'boolean';
  return 'text';
}

export function isNumeric(kind: ColumnKind): boolean {
  return kind === 'integer' || kind === 'number';
}

/** A number for arithmetic and drawing; exactness ends at 2^53. */
export function toNumber(cell: Cell | undefined): number {
  if (typeof cell === 'number') return cell;
  if (typeof cell === 'string' && cell !== '') return cell === '∞' ? Infinity : cell === '-∞' ? -Infinity : Number(cell);
  if (typeof cell === 'boolean') return cell ? 1 : 0;
  return NaN;
}

/** Milliseconds since 1970 of an RFC 3339 text or a number of milliseconds; NaN where there is none. */
export function toMillis(cell: Cell | undefined): number {
  if (typeof cell === 'number') return cell;
  if (typeof cell !== 'string') return NaN;
  const parsed = Date.parse(cell);
  return Number.isNaN(parsed) ? Date.parse(`${cell}Z`) : parsed;
}

function grouped(digits: string): string {
  return digits.replace(/\B(?=(\d{3})+(?!\d))/g, '\u202f');
}

/** A whole number with all its digits, in groups of three. */
export function integer(cell: Cell | undefined): string {
  if (cell === null || cell === undefined) return nothing;
  const digits = typeof cell === 'object' ? JSON.stringify(cell) : String(cell);
  if (!/^-?\d+$/.test(digits)) return typeof cell === 'number' ? decimal(cell) : digits;
  return digits.startsWith('-') ? `−${grouped(digits.slice(1))}` : grouped(digits);
}

/** At most four significant digits after what matters: 0.01234, 3.142, 1 234.5. */
export function decimal(value: number): string {
  if (Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value > 0 ? '∞' : '−∞';
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e15) return value.toExponential(3).replace('-', '−').replace('e+', 'e');
  const places = size >= 1000 ? 1 : size >= 100 ? 2 : size >= 1 ? 3 : Math.min(7, 3 - Math.floor(Math.log10(size)));
  const [whole = '0', fraction = ''] = size.toFixed(places).split('.');
  const kept = fraction.replace(/0+$/, '');
  return `${value < 0 ? '−' : ''}${grouped(whole)}${kept === '' ? '' : `.${kept}`}`;
}

/** Short, for tiles and axes: 950, 12.4k, 3.1M. */
export function compact(value: number): string {
  if (!Number.isFinite(value)) return nothing;
  const size = Math.abs(value);
  for (const [unit, letter] of [[1e12, 'T'], [1e9, 'B'], [1e6, 'M'], [1e3, 'k']] as const) {
    if (size >= unit * 0.99995) {
      const scaled = value / unit;
      return `${trimmed(scaled, Math.abs(scaled) >= 100 ? 0 : 1)}${letter}`;
    }
  }
  return trimmed(value, size >= 100 || Number.isInteger(value) ? 0 : size >= 1 ? 1 : 2);
}

function trimmed(value: number, places: number): string {
  const text = value.toFixed(places);
  return (places > 0 ? text.replace(/\.?0+$/, '') : text).replace('-', '−');
}

/** A share of one: 0, 0.02 %, 4.5 %, 100 %. */
export function percent(share: number): string {
  if (!Number.isFinite(share)) return nothing;
  const value = share * 100;
  if (value === 0) return '0 %';
  if (Math.abs(value) < 0.01) return '< 0.01 %';
  return `${trimmed(value, Math.abs(value) < 1 ? 2 : Math.abs(value) < 99.95 ? 1 : 0)} %`;
}

/** A duration given in milliseconds: 740 ns, 12 µs, 3.4 ms, 1.25 s, 2 m 05 s, 1 h 02 m. */
export function duration(millis: number): string {
  if (!Number.isFinite(millis)) return nothing;
  if (millis < 0) return `−${duration(-millis)}`;
  if (millis === 0) return '0 ms';
  if (millis < 0.001) return `${Math.round(millis * 1e6)} ns`;
  if (millis < 1) return `${threeDigits(millis * 1000)} µs`;
  if (millis < 999.5) return `${threeDigits(millis)} ms`;
  if (millis < 59_995) return `${threeDigits(millis / 1000)} s`;
  const seconds = Math.round(millis / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${pad(seconds % 60)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 * 48 ? `${Math.floor(minutes / 60)} h ${pad(minutes % 60)} m` : `${trimmed(minutes / 1440, 1)} d`;
}

function threeDigits(value: number): string {
  return trimmed(value, value >= 100 ? 0 : value >= 10 ? 1 : 2);
}

function pad(value: number, width = 2): string {
  return String(value).padStart(width, '0');
}

export function clock(millis: number, parts: 'minutes' | 'seconds' | 'millis' = 'seconds'): string {
  const date = new Date(millis);
  if (Number.isNaN(date.getTime())) return nothing;
  const minutes = `${pad(date.getHours())}:${pad(date.getMinutes())}`;
  if (parts === 'minutes') return minutes;
  const seconds = `${minutes}:${pad(date.getSeconds())}`;
  return parts === 'seconds' ? seconds : `${seconds}.${pad(date.getMilliseconds(), 3)}`;
}

export function day(millis: number): string {
  const date = new Date(millis);
  return Number.isNaN(date.getTime()) ? nothing : `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
}

/** Local date and time; the date is left out for today. */
export function moment(millis: number, now = Date.now(), parts: 'minutes' | 'seconds' | 'millis' = 'seconds'): string {
  if (!Number.isFinite(millis)) return nothing;
  return day(millis) === day(now) ? clock(millis, parts) : `${day(millis)} ${clock(millis, parts)}`;
}

export function ago(millis: number): string {
  if (!Number.isFinite(millis)) return nothing;
  if (millis < 1500) return 'just now';
  if (millis < 60_000) return `${Math.round(millis / 1000)} s ago`;
  if (millis < 3_600_000) return `${Math.round(millis / 60_000)} min ago`;
  if (millis < 172_800_000) return `${Math.round(millis / 3_600_000)} h ago`;
  return `${Math.round(millis / 86_400_000)} days ago`;
}

export function bytes(count: number): string {
  if (count < 1000) return `${count} B`;
  const [unit, name] = count < 1e6 ? ([1e3, 'kB'] as const) : count < 1e9 ? ([1e6, 'MB'] as const) : ([1e9, 'GB'] as const);
  return `${threeDigits(count / unit)} ${name}`;
}

/** A cell of a table, by its column's kind. */
export function cellText(cell: Cell | undefined, kind: ColumnKind): string {
  if (cell === null || cell === undefined) return nothing;
  if (typeof cell === 'object') return JSON.stringify(cell);
  if (kind === 'integer') return integer(cell);
  if (kind === 'number') return typeof cell === 'number' ? decimal(cell) : String(cell);
  if (kind === 'time') {
    const millis = toMillis(cell);
    if (Number.isNaN(millis)) return String(cell);
    const fraction = millis % 1000 !== 0;
    return `${day(millis)} ${clock(millis, fraction ? 'millis' : 'seconds')}`;
  }
  return String(cell);
}

/** One sentence's noun with its number. */
export function plural(count: number, one: string, many = `${one}s`): string {
  return `${integer(count)} ${count === 1 ? one : many}`;
}

/** Text from outside for a single line: control and direction characters made visible, so that nothing reorders or hides the rest. */
export function line(text: string): string {
  // eslint-disable-next-line no-control-regex -- control characters are the point
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '␣').replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c]/g, '�');
}

/** How the numbers of a column are drawn on an axis: with the unit that its name ends in. */
export function axisFormat(column: string): (value: number) => string {
  const name = column.toLowerCase();
  const unit = ([[/(^|_)(ns|nanos)$/, 1e-6], [/(^|_)(us|micros)$/, 1e-3], [/(^|_)(ms|millis)$/, 1], [/(^|_)(s|seconds)$/, 1000]] as const).find(([ending]) => ending.test(name));
  if (unit !== undefined) return (value) => duration(value * unit[1]);
  return /(^|_)(rate|share|ratio)$/.test(name) ? percent : compact;
}
