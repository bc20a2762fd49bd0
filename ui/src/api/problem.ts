/** What the server says when it refuses (`application/problem+json`), and what is said for it when it says nothing. */

export interface Position {
  readonly line: number;
  readonly column: number;
}

export class Problem extends Error {
  override readonly name = 'Problem';
  readonly status: number;
  readonly code: string;
  readonly title: string;
  readonly hint: string | null;
  readonly position: Position | null;

  constructor(fields: { status: number; code: string; title: string; detail: string; hint?: string | null; position?: Position | null }) {
    super(fields.detail);
    this.status = fields.status;
    this.code = fields.code;
    this.title = fields.title;
    this.hint = fields.hint ?? null;
    this.position = fields.position ?? null;
  }
}

function field(body: Record<string, unknown>, name: string): string | null {
  const value = body[name];
  return typeof value === 'string' && value !== '' ? value : null;
}

export function parsePosition(value: unknown): Position | null {
  if (typeof value !== 'object' || value === null) return null;
  const { line, column } = value as { line?: unknown; column?: unknown };
  return typeof line === 'number' && line >= 1 ? { line, column: typeof column === 'number' && column >= 1 ? column : 1 } : null;
}

export function parseProblem(status: number, text: string): Problem {
  try {
    const body = JSON.parse(text) as unknown;
    if (typeof body === 'object' && body !== null && !Array.isArray(body)) {
      const fields = body as Record<string, unknown>;
      const title = field(fields, 'title') ?? `The server answered ${status}`;
      return new Problem({
        status,
        code: field(fields, 'code') ?? '',
        title,
        detail: field(fields, 'detail') ?? title,
        hint: field(fields, 'hint'),
        position: parsePosition(fields['position']),
      });
    }
  } catch {
    // Not JSON: a proxy's page, most likely.
  }
  const starting = status === 502 || status === 503 || status === 504;
  return new Problem({
    status,
    code: '',
    title: `The server answered ${status}`,
    detail: starting ? 'PyFlare is not ready to answer.' : 'The answer was not one of PyFlare’s.',
    hint: starting ? 'It may still be starting up or recovering; see /readyz.' : 'Check that this address is PyFlare’s API port (4319).',
  });
}

export function unreachable(cause: unknown): Problem {
  // Browsers say "Failed to fetch", "NetworkError …" and the like: always a TypeError, never a reason.
  const known = cause instanceof Error && !(cause instanceof TypeError);
  return new Problem({
    status: 0,
    code: '',
    title: 'No answer from PyFlare',
    detail: known ? cause.message : 'PyFlare does not answer.',
    hint: 'Is `pyflare serve` running at this address? The page tries again by itself.',
  });
}
