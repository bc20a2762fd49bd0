/** Rows as CSV (RFC 4180). Text that a spreadsheet would run as a formula is kept from it by a leading apostrophe. */
import type { Cell } from '../live/protocol.ts';

export function csv(names: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const all = [names, ...rows];
  return all.map((row) => row.map(field).join(',')).join('\r\n') + '\r\n';
}

function field(cell: Cell): string {
  if (cell === null) return '';
  let text = typeof cell === 'object' ? JSON.stringify(cell) : String(cell);
  if (typeof cell === 'string' && /^[=+\-@\t\r]/.test(text) && !/^-?[\d.]+(?:e[+-]?\d+)?$/i.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
