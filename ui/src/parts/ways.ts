/** How to send telemetry to this server: commands with its own addresses, ready to copy. */

export interface Target {
  /** `http://host:port` of OTLP/HTTP. */
  readonly http: string;
  readonly grpcPort: string;
  /** A header that says the project, where one is needed. */
  readonly header: { readonly name: string; readonly value: string } | null;
}

/** From what the server says (`host:port`, or nothing) to what a program on the reader's side can use. */
export function targetOf(said: { readonly otlpHttp: string | null; readonly otlpGrpc: string | null; readonly keyed: boolean | null; readonly project: string }, pageHost: string): Target {
  const reachable = (address: string): string => address.replace(/^(0\.0\.0\.0|\[::\])(?=:\d+$)/, pageHost);
  const header =
    said.keyed === true ? { name: 'x-pyflare-key', value: 'pf_…' } : said.project === 'default' ? null : { name: 'x-pyflare-project', value: said.project };
  return { http: `http://${reachable(said.otlpHttp ?? '127.0.0.1:4318')}`, grpcPort: said.otlpGrpc?.split(':').at(-1) ?? '4317', header };
}

/** For a shell, inside single quotes. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

export interface Way {
  readonly label: string;
  readonly text: string;
  readonly note: string;
}

export function ways({ http, grpcPort, header }: Target): Readonly<Record<'environment' | 'python' | 'curl' | 'demo', Way>> {
  const port = http.split(':').at(-1) ?? '';
  const environmentHeader = header === null ? '' : `\nexport OTEL_EXPORTER_OTLP_HEADERS=${quoted(`${header.name}=${header.value}`)}`;
  const pythonHeader = header === null ? '' : `,\n    headers={${JSON.stringify(header.name)}: ${JSON.stringify(header.value)}}`;
  const curlHeader = header === null ? '' : ` \\\n  -H ${quoted(`${header.name}: ${header.value}`)}`;
  const demo = [
    'pyflare demo',
    ...(http === 'http://127.0.0.1:4318' ? [] : [`--endpoint ${http}`]),
    ...(header === null ? [] : [header.name === 'x-pyflare-key' ? `--key ${header.value}` : `--project ${quoted(header.value)}`]),
  ].join(' ');
  return {
    environment: {
      label: 'Any OTel SDK',
      text: `export OTEL_EXPORTER_OTLP_ENDPOINT=${http}
export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf${environmentHeader}
export OTEL_SERVICE_NAME=my-service
# SDKs send every 5 s; this makes it 0.2 s
export OTEL_BSP_SCHEDULE_DELAY=200`,
      note: `OTLP over HTTP listens on ${port}, over gRPC on ${grpcPort}. Set these where your application starts; nothing in its code changes.`,
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
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(
    "${http}/v1/traces"${pythonHeader})))
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
curl ${http}/v1/traces -H 'content-type: application/json'${curlHeader} -d '{
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
      text: demo,
      note: 'Sends labelled traffic over OTLP: chat, retrieval, agents with tools, embeddings, some failures.',
    },
  };
}
