/** What spans carry as text, made readable: chat messages, JSON, plain text; attribute values that are JSON text. */

export interface ChatMessage {
  readonly role: string;
  readonly text: string;
  readonly calls: readonly { readonly name: string; readonly arguments: string }[];
}

export type Content = { readonly kind: 'messages'; readonly messages: readonly ChatMessage[] } | { readonly kind: 'json' | 'text'; readonly text: string };

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function asText(value: unknown): string {
  if (value === null || value === undefined) return '';
  if (typeof value === 'string') return value;
  if (Array.isArray(value)) {
    return value.map((part: unknown) => (isObject(part) && typeof part['text'] === 'string' ? part['text'] : isObject(part) && typeof part['content'] === 'string' ? part['content'] : asText(part))).join('\n');
  }
  return JSON.stringify(value, null, 2);
}

function message(value: unknown): ChatMessage | null {
  if (!isObject(value) || typeof value['role'] !== 'string') return null;
  const calls = Array.isArray(value['tool_calls']) ? (value['tool_calls'] as unknown[]) : [];
  return {
    role: value['role'],
    text: asText(value['content'] ?? value['parts']),
    calls: calls.flatMap((call) => {
      const inner = isObject(call) && isObject(call['function']) ? call['function'] : call;
      return isObject(inner) && typeof inner['name'] === 'string' ? [{ name: inner['name'], arguments: asText(inner['arguments']) }] : [];
    }),
  };
}

export function readContent(value: unknown): Content | null {
  if (value === null || value === undefined || value === '') return null;
  let parsed: unknown = value;
  if (typeof value === 'string') {
    if (!/^\s*[[{]/.test(value)) return { kind: 'text', text: value };
    try {
      parsed = JSON.parse(value) as unknown;
    } catch {
      return { kind: 'text', text: value };
    }
  }
  const list = isObject(parsed) && Array.isArray(parsed['messages']) ? (parsed['messages'] as unknown[]) : Array.isArray(parsed) ? (parsed as unknown[]) : [parsed];
  const messages = list.map(message);
  if (messages.length > 0 && messages.every((one) => one !== null)) return { kind: 'messages', messages };
  return { kind: 'json', text: pretty(parsed) };
}

function pretty(value: unknown): string {
  try {
    return JSON.stringify(value, null, 2);
  } catch {
    return String(value);
  }
}

/** Attribute values are JSON text: a string without its quotes, the rest as it is. */
export function attributeText(value: unknown): string {
  if (typeof value !== 'string') return value === undefined ? '' : pretty(value);
  if (!value.startsWith('"')) return value;
  try {
    const parsed = JSON.parse(value) as unknown;
    return typeof parsed === 'string' ? parsed : value;
  } catch {
    return value;
  }
}

/** Objects and lists may come as JSON text or as what they are. */
export function readList(value: unknown): Record<string, unknown>[] {
  const parsed = typeof value === 'string' ? parse(value) : value;
  return Array.isArray(parsed) ? parsed.filter(isObject) : [];
}

export function readMap(value: unknown): [string, unknown][] {
  const parsed = typeof value === 'string' ? parse(value) : value;
  return isObject(parsed) ? Object.entries(parsed).sort(([left], [right]) => (left < right ? -1 : 1)) : [];
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return null;
  }
}
