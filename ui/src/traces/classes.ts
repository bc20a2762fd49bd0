/** Colours of span classes. An unknown class gets the colour of `other`, never a style out of the data. */
const known = new Set(['llm', 'embedding', 'retriever', 'reranker', 'tool', 'agent', 'chain', 'guardrail', 'evaluator', 'http', 'db', 'other']);

export function classColor(spanClass: string): string {
  return `var(--class-${known.has(spanClass) ? spanClass : 'other'})`;
}
