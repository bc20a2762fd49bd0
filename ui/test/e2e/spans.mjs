// Spans as OTLP/JSON, sent the way an SDK sends them.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';

export const hex = (bytes) => randomBytes(bytes).toString('hex');

const attribute = (key, value) => ({ key, value: typeof value === 'number' ? { intValue: String(value) } : { stringValue: value } });

/** A span that began `start` milliseconds ago. */
export function span(traceId, spanId, parent, name, attributes, { error = false, start = 900, length = 400 } = {}) {
  const begun = BigInt(Date.now() - start) * 1_000_000n;
  return {
    traceId, spanId, ...(parent === undefined ? {} : { parentSpanId: parent }), name, kind: 3,
    startTimeUnixNano: String(begun), endTimeUnixNano: String(begun + BigInt(length) * 1_000_000n),
    attributes: Object.entries(attributes).map(([key, value]) => attribute(key, value)), status: error ? { code: 2, message: 'it failed' } : {},
  };
}

export const chat = (model) => ({ 'gen_ai.operation.name': 'chat', 'gen_ai.provider.name': 'openai', 'gen_ai.request.model': model, 'gen_ai.response.model': model, 'gen_ai.usage.input_tokens': 100, 'gen_ai.usage.output_tokens': 7 });

export async function send(otlp, service, spans, headers = {}) {
  const response = await fetch(`${otlp}/v1/traces`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify({ resourceSpans: [{ resource: { attributes: [attribute('service.name', service)] }, scopeSpans: [{ scope: { name: 'ui-test' }, spans }] }] }),
  });
  assert.equal(response.status, 200, await response.text());
}
