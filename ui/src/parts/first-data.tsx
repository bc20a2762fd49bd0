/** What to do when there is nothing to see yet: how to send something, ready to copy. */
import { useState, type ReactNode } from 'react';
import { CopyButton } from './copy-button.tsx';
import { Segments } from './segments.tsx';

const ways = {
  environment: {
    label: 'Any OTel SDK',
    text: `export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318
export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf
export OTEL_SERVICE_NAME=my-service
# SDKs send every 5 s; this makes it 0.2 s
export OTEL_BSP_SCHEDULE_DELAY=200`,
    note: 'OTLP over HTTP listens on 4318, over gRPC on 4317. Set these where your application starts; nothing in its code changes.',
  },
  python: {
    label: 'Python',
    text: `# pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

provider = TracerProvider(resource=Resource.create({"service.name": "hello"}))
provider.add_span_processor(SimpleSpanProcessor(
    OTLPSpanExporter("http://127.0.0.1:4318/v1/traces")))
trace.set_tracer_provider(provider)

with trace.get_tracer("hello").start_as_current_span("chat gpt-4o") as span:
    span.set_attribute("gen_ai.operation.name", "chat")
    span.set_attribute("gen_ai.request.model", "gpt-4o")
    span.set_attribute("gen_ai.usage.input_tokens", 21)
    span.set_attribute("gen_ai.usage.output_tokens", 8)`,
    note: 'Run it and look here: the span is on this page within a second.',
  },
  curl: {
    label: 'curl',
    text: `now=$(date +%s%N)
curl http://127.0.0.1:4318/v1/traces -H 'content-type: application/json' -d '{
  "resourceSpans": [{
    "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "hello"}}]},
    "scopeSpans": [{"spans": [{
      "traceId": "'$(openssl rand -hex 16)'", "spanId": "'$(openssl rand -hex 8)'",
      "name": "chat gpt-4o", "kind": 3,
      "startTimeUnixNano": "'$((now - 420000000))'", "endTimeUnixNano": "'$now'",
      "attributes": [
        {"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}},
        {"key": "gen_ai.request.model", "value": {"stringValue": "gpt-4o"}}]}]}]}]}'`,
    note: 'One span by hand, as JSON.',
  },
  demo: {
    label: 'Demo traffic',
    text: 'pyflare demo',
    note: 'Sends labelled traffic over OTLP: chat, retrieval, agents with tools, embeddings, some failures.',
  },
} as const;

type Way = keyof typeof ways;

export function FirstData({ what }: { readonly what: string }): ReactNode {
  const [way, setWay] = useState<Way>('environment');
  const { text, note } = ways[way];
  return (
    <section className="first-data" aria-label="How to send data">
      <h2>{what}</h2>
      <p className="muted">Point an OpenTelemetry SDK here. This page fills as soon as the first span arrives, no reload needed.</p>
      <Segments
        label="Way to send data"
        value={way}
        onChange={setWay}
        options={(Object.keys(ways) as Way[]).map((value) => ({ value, label: ways[value].label }))}
      />
      <div className="code-block">
        {/* A region that scrolls must be reachable by keyboard. */}
        {/* eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex */}
        <pre tabIndex={0}>{text}</pre>
        <CopyButton text={text} />
      </div>
      <p className="muted">{note}</p>
    </section>
  );
}
