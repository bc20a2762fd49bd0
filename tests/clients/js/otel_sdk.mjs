// The OpenTelemetry JS SDK with its OTLP/HTTP exporters (JSON or protobuf; both send chunked bodies).
//
// Reads the order as JSON from standard input: what to send, where, in which encoding. Writes one
// JSON line per span to standard output, only after the exporter reported success. Exits 1 if an
// export failed.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { readFileSync } from "node:fs";
import path from "node:path";

const order = JSON.parse(readFileSync(0, "utf8"));
const require = createRequire(path.join(order.packages, "package.json"));
const load = (name) => import(pathToFileURL(require.resolve(name)).href);

const { ROOT_CONTEXT, SpanKind, SpanStatusCode, trace } = await load("@opentelemetry/api");
const { SeverityNumber } = await load("@opentelemetry/api-logs");
const { resourceFromAttributes } = await load("@opentelemetry/resources");

// Nothing about the machine: no resource detector runs.
const resource = resourceFromAttributes({
  "service.name": order.service,
  "service.version": "1.4.0",
  "deployment.environment.name": "test",
});
const suffix = order.encoding === "json" ? "http" : "proto";
const exporterOptions = (signal) => ({
  url: `${order.endpoint}/v1/${signal}`,
  headers: order.headers,
  timeoutMillis: 30_000,
});

function nanoseconds([seconds, nanos]) {
  return BigInt(seconds) * 1_000_000_000n + BigInt(nanos);
}

function highResolution(text) {
  const value = BigInt(text);
  return [Number(value / 1_000_000_000n), Number(value % 1_000_000_000n)];
}

function keptLine(span) {
  const context = span.spanContext();
  const line = {
    trace_id: context.traceId,
    span_id: context.spanId,
    parent_span_id: span.parentSpanContext?.spanId ?? null,
    name: span.name,
    kind: SpanKind[span.kind].toLowerCase(),
    status: SpanStatusCode[span.status.code].toLowerCase(),
    status_message: span.status.message ?? null,
    attributes: span.attributes,
    resource: span.resource.attributes,
  };
  // Written by hand: a JavaScript number cannot hold these times exactly.
  const times = `"start_unix_nano":${nanoseconds(span.startTime)},"end_unix_nano":${nanoseconds(span.endTime)}`;
  return `${JSON.stringify(line).slice(0, -1)},${times}}`;
}

class KeepingExporter {
  constructor(exporter) {
    this.exporter = exporter;
    this.failures = [];
  }
  export(spans, done) {
    this.exporter.export(spans, (result) => {
      if (result.code === 0) {
        for (const span of spans) process.stdout.write(`${keptLine(span)}\n`);
      } else {
        this.failures.push(String(result.error));
      }
      done(result);
    });
  }
  forceFlush() {
    return this.exporter.forceFlush?.() ?? Promise.resolve();
  }
  shutdown() {
    return this.exporter.shutdown();
  }
}

async function sendTraces() {
  const { BasicTracerProvider, BatchSpanProcessor } = await load("@opentelemetry/sdk-trace-base");
  const { OTLPTraceExporter } = await load(`@opentelemetry/exporter-trace-otlp-${suffix}`);
  const exporter = new KeepingExporter(new OTLPTraceExporter(exporterOptions("traces")));
  const provider = new BasicTracerProvider({
    resource,
    spanProcessors: [new BatchSpanProcessor(exporter, { maxQueueSize: 65_536, scheduledDelayMillis: 200 })],
  });
  const tracer = provider.getTracer("support-agent", "0.3.1");
  for (const planned of order.traces) {
    const started = [];
    for (const span of planned) {
      const parent = span.parent === null ? ROOT_CONTEXT : trace.setSpan(ROOT_CONTEXT, started[span.parent]);
      const options = {
        kind: SpanKind[span.kind.toUpperCase()],
        attributes: span.attributes,
        startTime: highResolution(span.start),
      };
      const opened = tracer.startSpan(span.name, options, parent);
      if (span.error) opened.setStatus({ code: SpanStatusCode.ERROR, message: span.error });
      started.push(opened);
    }
    for (let index = started.length - 1; index >= 0; index -= 1) {
      started[index].end(highResolution(planned[index].end));
    }
  }
  await provider.forceFlush();
  await provider.shutdown();
  if (exporter.failures.length) throw new Error(exporter.failures.join("; "));
}

async function sendMetrics() {
  const { MeterProvider, PeriodicExportingMetricReader } = await load("@opentelemetry/sdk-metrics");
  const { OTLPMetricExporter } = await load(`@opentelemetry/exporter-metrics-otlp-${suffix}`);
  const reader = new PeriodicExportingMetricReader({
    exporter: new OTLPMetricExporter(exporterOptions("metrics")),
    exportIntervalMillis: 3_600_000,
  });
  const provider = new MeterProvider({ resource, readers: [reader] });
  const meter = provider.getMeter("support-agent", "0.3.1");
  const requests = meter.createCounter("requests", { unit: "{request}" });
  const tokens = meter.createHistogram("gen_ai.client.token.usage", { unit: "{token}" });
  const depth = meter.createGauge("queue.depth");
  for (let number = 0; number < order.count; number += 1) {
    const labels = { "gen_ai.request.model": `model-${number % 3}` };
    requests.add(1, labels);
    tokens.record(10 + ((number * 7) % 500), labels);
    depth.record(number % 17, labels);
  }
  await provider.forceFlush();
  await provider.shutdown();
}

async function sendLogs() {
  const { BatchLogRecordProcessor, LoggerProvider } = await load("@opentelemetry/sdk-logs");
  const { OTLPLogExporter } = await load(`@opentelemetry/exporter-logs-otlp-${suffix}`);
  const exporter = new OTLPLogExporter(exporterOptions("logs"));
  const provider = new LoggerProvider({ resource, processors: [new BatchLogRecordProcessor({ exporter })] });
  const logger = provider.getLogger("support-agent", "0.3.1");
  for (let number = 0; number < order.count; number += 1) {
    logger.emit({
      severityNumber: SeverityNumber.INFO,
      severityText: "INFO",
      eventName: "gen_ai.client.inference.operation.details",
      body: { message: `handled request ${number}`, steps: [1, 2, number] },
      attributes: {
        "gen_ai.request.model": `model-${number % 3}`,
        "gen_ai.input.messages": [{ role: "user", parts: [{ type: "text", content: `question ${number}` }] }],
      },
    });
  }
  await provider.forceFlush();
  await provider.shutdown();
}

try {
  if (order.signals.includes("traces")) await sendTraces();
  if (order.signals.includes("metrics")) await sendMetrics();
  if (order.signals.includes("logs")) await sendLogs();
} catch (error) {
  process.stderr.write(`${error.stack ?? error}\n`);
  process.exitCode = 1;
}
