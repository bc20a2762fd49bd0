//! What the demo's applications do: five services, each with its own kind of trace.
//!
//! Latencies and token counts are log-normal, as real ones are; spans of a trace lie within their root, and the
//! root ends at the time it is made for. Attributes follow the semantic conventions for generative AI (1.37 and
//! later); the retrieval service also speaks OpenInference, the tabular model `pyflare.ml.*`.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::scenes::Making;
use super::spans::attribute;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Service {
    Chat,
    Search,
    Agent,
    Indexer,
    Fraud,
}

impl Service {
    /// Name, its two versions, and what instruments it.
    fn describe(self) -> (&'static str, [&'static str; 2], &'static str) {
        match self {
            Service::Chat => (
                "demo-shop-assistant",
                ["2.14.0", "2.15.0-rc1"],
                "opentelemetry.instrumentation.openai",
            ),
            Service::Search => (
                "demo-knowledge-search",
                ["1.8.3", "1.9.0"],
                "openinference.instrumentation.demo",
            ),
            Service::Agent => (
                "demo-order-desk",
                ["0.6.1", "0.7.0"],
                "opentelemetry.instrumentation.agents",
            ),
            Service::Indexer => (
                "demo-document-indexer",
                ["3.1.0", "3.1.1"],
                "opentelemetry.instrumentation.openai",
            ),
            Service::Fraud => ("demo-fraud-scoring", ["5.0.2", "5.1.0"], "pyflare.ml"),
        }
    }
}

/// A finished trace of one service.
pub struct Trace {
    service: Service,
    version: usize,
    spans: Vec<Span>,
}

impl Trace {
    pub fn spans(&self) -> usize {
        self.spans.len()
    }
}

/// Traces as one request, one resource for each service and version.
pub fn request(mut traces: Vec<Trace>) -> ExportTraceServiceRequest {
    traces.sort_by_key(|trace| (trace.service, trace.version));
    let mut resource_spans = Vec::new();
    for group in
        traces.chunk_by_mut(|left, right| (left.service, left.version) == (right.service, right.version))
    {
        let (name, versions, scope) = group[0].service.describe();
        let version = versions[group[0].version];
        let text = |key: &str, text: &str| attribute(key, Value::StringValue(text.to_owned()));
        let attributes = vec![
            text("service.name", name),
            text("service.version", version),
            text("service.namespace", "demo"),
            text(
                "deployment.environment.name",
                if version == versions[0] {
                    "production"
                } else {
                    "canary"
                },
            ),
            text("telemetry.sdk.name", "opentelemetry"),
            text("telemetry.sdk.language", "rust"),
            attribute("pyflare.demo", Value::BoolValue(true)),
        ];
        let spans = group
            .iter_mut()
            .flat_map(|trace| std::mem::take(&mut trace.spans))
            .collect();
        let scope = InstrumentationScope {
            name: scope.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        resource_spans.push(ResourceSpans {
            resource: Some(Resource {
                attributes,
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans,
                schema_url: String::new(),
            }],
            schema_url: "https://opentelemetry.io/schemas/1.37.0".to_owned(),
        });
    }
    ExportTraceServiceRequest { resource_spans }
}

pub struct Traffic {
    random: StdRng,
}

impl Traffic {
    pub fn new(seed: u64) -> Traffic {
        Traffic {
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// One trace whose root ends at that time.
    pub fn trace(&mut self, end: u64) -> Trace {
        let service = match self.random.random_range(0..100) {
            0..40 => Service::Chat,
            40..65 => Service::Search,
            65..82 => Service::Agent,
            82..88 => Service::Indexer,
            _ => Service::Fraud,
        };
        let version = usize::from(self.random.random_bool(0.15));
        let mut making = Making {
            random: &mut self.random,
            trace: [0; 16],
            spans: Vec::new(),
            failing: false,
        };
        making.random.fill(&mut making.trace);
        making.failing = making.random.random_bool(if version == 1 { 0.07 } else { 0.025 });
        // Times are counted from zero and moved once the length is known.
        match service {
            Service::Chat => making.chat_trace(),
            Service::Search => making.search_trace(),
            Service::Agent => making.agent_trace(),
            Service::Indexer => making.indexer_trace(),
            Service::Fraud => making.fraud_trace(),
        }
        let mut spans = making.spans;
        let length = spans
            .iter()
            .map(|span| span.end_time_unix_nano)
            .max()
            .unwrap_or_default();
        let origin = end.saturating_sub(length);
        for span in &mut spans {
            span.start_time_unix_nano += origin;
            span.end_time_unix_nano += origin;
            for event in &mut span.events {
                event.time_unix_nano += origin;
            }
        }
        Trace {
            service,
            version,
            spans,
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use pyflare_operators::decode::{BodyEncoding, OtlpSignal, check};

    use super::*;

    #[test]
    fn traces_are_whole_labelled_and_repeatable() {
        let end = 1_800_000_000_000_000_000;
        let make = |seed| {
            let mut traffic = Traffic::new(seed);
            request((0..200).map(|_| traffic.trace(end)).collect())
        };
        let made = make(3);
        assert_eq!(made, make(3));
        assert_ne!(made, make(4));
        let mut services = std::collections::BTreeSet::new();
        for group in &made.resource_spans {
            let resource = group.resource.as_ref().expect("a resource");
            assert!(
                resource
                    .attributes
                    .contains(&attribute("pyflare.demo", Value::BoolValue(true)))
            );
            services.extend(
                resource
                    .attributes
                    .iter()
                    .filter(|a| a.key == "service.name")
                    .map(|a| format!("{a:?}")),
            );
            let spans = &group.scope_spans[0].spans;
            for span in spans {
                assert!(
                    span.start_time_unix_nano <= span.end_time_unix_nano && span.end_time_unix_nano <= end
                );
                let parent = spans
                    .iter()
                    .find(|p| p.span_id == span.parent_span_id && p.trace_id == span.trace_id);
                match parent {
                    Some(parent) => assert!(
                        parent.start_time_unix_nano <= span.start_time_unix_nano
                            && span.end_time_unix_nano <= parent.end_time_unix_nano
                    ),
                    None => assert!(
                        span.parent_span_id.is_empty(),
                        "{} has lost its parent",
                        span.name
                    ),
                }
            }
        }
        assert_eq!(services.len(), 5);
        let spans: usize = made
            .resource_spans
            .iter()
            .map(|group| group.scope_spans[0].spans.len())
            .sum();
        let checked =
            check(OtlpSignal::Traces, BodyEncoding::Protobuf, &made.encode_to_vec()).expect("valid OTLP");
        assert_eq!((checked.rows as usize, checked.rejected), (spans, 0));
    }
}
