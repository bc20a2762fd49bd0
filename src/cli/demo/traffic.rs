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
use serde_json::json;

use super::spans::{Draft, Interval, attribute};

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

/// A model and what it is like.
struct Model {
    provider: &'static str,
    requested: &'static str,
    answers_as: &'static str,
    server: &'static str,
    first_token_ms: f64,
    tokens_per_second: f64,
}

const MODELS: [Model; 4] = [
    Model {
        provider: "openai",
        requested: "gpt-4.1-mini",
        answers_as: "gpt-4.1-mini-2025-04-14",
        server: "api.openai.com",
        first_token_ms: 320.0,
        tokens_per_second: 110.0,
    },
    Model {
        provider: "openai",
        requested: "gpt-4.1",
        answers_as: "gpt-4.1-2025-04-14",
        server: "api.openai.com",
        first_token_ms: 540.0,
        tokens_per_second: 65.0,
    },
    Model {
        provider: "anthropic",
        requested: "claude-sonnet-4-5",
        answers_as: "claude-sonnet-4-5-20250929",
        server: "api.anthropic.com",
        first_token_ms: 700.0,
        tokens_per_second: 75.0,
    },
    Model {
        provider: "gcp.gemini",
        requested: "gemini-2.5-flash",
        answers_as: "gemini-2.5-flash",
        server: "generativelanguage.googleapis.com",
        first_token_ms: 280.0,
        tokens_per_second: 180.0,
    },
];

const TALKS: [(&str, &str); 8] = [
    (
        "Where is my order 48213? It should have arrived on Friday.",
        "Order 48213 left our warehouse in Basel on Thursday and is due tomorrow between 9 and 12.",
    ),
    (
        "Can I send back shoes that I wore once?",
        "You can return them within 30 days as long as the soles show no wear. I have sent you a label.",
    ),
    (
        "Which of your tents is best for winter?",
        "For snow I would take the Nordkap 3: four poles, a snow skirt, and tested at −25 °C.",
    ),
    (
        "Why was I charged twice?",
        "The first charge was an authorisation that your bank releases within three days; only one was booked.",
    ),
    (
        "¿Tienen esta chaqueta en azul, talla M?",
        "Sí, la chaqueta Rigi está disponible en azul, talla M, y llega en dos días.",
    ),
    (
        "Summarise my last three invoices.",
        "March 84.20, April 112.00, May 61.75: 257.95 in all, everything paid.",
    ),
    (
        "Do you ship to Norway and how long does it take?",
        "Yes, four to six working days; customs are included in the price.",
    ),
    (
        "配送先の住所を変更できますか。",
        "はい。発送前であれば、注文の詳細から変更できます。",
    ),
];
const QUESTIONS: [(&str, &str, &str); 4] = [
    (
        "How many days of parental leave do we get in Austria?",
        "hr/leave-at.md",
        "Parents in Austria may take leave until the child is 22 months old; the company tops up the first 16 weeks.",
    ),
    (
        "What is the limit for approving travel without a manager?",
        "finance/travel.md",
        "Travel below 400 EUR needs no approval; above, the line manager approves in the portal.",
    ),
    (
        "How do I rotate the signing key of the payment service?",
        "runbooks/payment-keys.md",
        "Create the new key with role signer, deploy, wait one hour for caches, then revoke the old one.",
    ),
    (
        "Which customers are in scope of the new data residency rule?",
        "legal/residency.md",
        "All customers with a billing address in Switzerland or the EU, from the first of July on.",
    ),
];
const TOOLS: [(&str, &str, &str); 4] = [
    (
        "lookup_order",
        r#"{"order_id":"48213"}"#,
        r#"{"status":"in transit","carrier":"Post","eta":"tomorrow"}"#,
    ),
    (
        "check_stock",
        r#"{"sku":"RIGI-BLUE-M","store":"Zürich"}"#,
        r#"{"available":14}"#,
    ),
    (
        "create_refund",
        r#"{"order_id":"47001","amount":"39.90","currency":"CHF"}"#,
        r#"{"refund_id":"rf_8812","state":"pending"}"#,
    ),
    (
        "search_policies",
        r#"{"query":"return of worn goods"}"#,
        r#"{"hits":["returns.md#worn","returns.md#label"]}"#,
    ),
];
const FAILURES: [(&str, &str); 4] = [
    ("timeout", "the model did not answer within 30 s"),
    (
        "rate_limit_exceeded",
        "429: tokens per minute exceeded, try again in 6.2 s",
    ),
    ("content_filter", "the answer was withheld by the content filter"),
    ("server_error", "503: the model is overloaded"),
];

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

/// A trace in the making.
struct Making<'a> {
    random: &'a mut StdRng,
    trace: [u8; 16],
    spans: Vec<Span>,
    failing: bool,
}

impl Making<'_> {
    fn id(&mut self) -> [u8; 8] {
        self.random.random_range(1..u64::MAX).to_be_bytes()
    }

    /// A log-normal number.
    fn about(&mut self, median: f64, spread: f64) -> f64 {
        let (radius, angle): (f64, f64) = (self.random.random_range(f64::EPSILON..1.0), self.random.random());
        let normal = (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos();
        median * (spread * normal.clamp(-4.0, 4.0)).exp()
    }

    fn nanos(&mut self, median_ms: f64, spread: f64) -> u64 {
        (self.about(median_ms, spread) * 1e6) as u64
    }

    fn pick<'b, T>(&mut self, items: &'b [T]) -> &'b T {
        &items[self.random.random_range(0..items.len())]
    }

    fn draft(&mut self, parent: Option<[u8; 8]>, name: impl Into<String>, time: Interval) -> Draft {
        let id = self.id();
        Draft::new(&self.trace, id, parent, name, time)
    }

    fn user(&mut self, draft: Draft) -> Draft {
        // Few users ask often, most of them seldom.
        let user = (self.random.random::<f64>().powi(3) * 400.0) as u32;
        draft
            .text("user.id", format!("user-{user:04}"))
            .text("session.id", format!("session-{:06x}", user * 7 + 3))
    }

    /// A call of a model, `at` its earliest; returns when it ended. Only the last call of a trace fails.
    fn model_call(
        &mut self,
        parent: Option<[u8; 8]>,
        at: Interval,
        question: &str,
        answer: &str,
        last: bool,
    ) -> Interval {
        let model = match self.random.random_range(0..10) {
            0..5 => &MODELS[0],
            5 | 6 => &MODELS[1],
            7 | 8 => &MODELS[2],
            _ => &MODELS[3],
        };
        let input = self.about(650.0, 0.9) as i64 + question.len() as i64 / 4;
        let output = self.about(140.0, 0.7) as i64 + 1;
        let cached = if self.random.random_bool(0.4) {
            input * 7 / 10
        } else {
            0
        };
        let first = self.about(model.first_token_ms, 0.35);
        let time = at.then(((first + output as f64 / model.tokens_per_second * 1e3) * 1e6) as u64);
        let id = format!("chatcmpl-{:016x}", self.random.random::<u64>());
        let temperature = *self.pick(&[0.0, 0.2, 0.7]);
        let draft = self
            .draft(parent, format!("chat {}", model.requested), time)
            .client()
            .text("gen_ai.operation.name", "chat")
            .text("gen_ai.provider.name", model.provider)
            .text("gen_ai.request.model", model.requested)
            .double("gen_ai.request.temperature", temperature)
            .int("gen_ai.request.max_tokens", 1024)
            .text("server.address", model.server)
            .int("server.port", 443)
            .text("gen_ai.system_instructions", json!([{"type": "text", "content": "You are a friendly, brief assistant of an outdoor shop."}]).to_string())
            .text("gen_ai.input.messages", json!([{"role": "user", "parts": [{"type": "text", "content": question}]}]).to_string());
        let mut draft = self.user(draft);
        if self.failing && last {
            let (error, message) = *self.pick(&FAILURES);
            self.spans.push(draft.failed(error, message).finish());
            return time;
        }
        if model.provider == "gcp.gemini" || model.provider == "anthropic" {
            draft = draft.int("gen_ai.usage.reasoning.output_tokens", output / 3);
        }
        let draft = draft
            .text("gen_ai.response.model", model.answers_as)
            .text("gen_ai.response.id", id)
            .texts("gen_ai.response.finish_reasons", &[if output > 900 { "length" } else { "stop" }])
            .int("gen_ai.usage.input_tokens", input)
            .int("gen_ai.usage.output_tokens", output)
            .int("gen_ai.usage.cache_read.input_tokens", cached)
            .double("gen_ai.response.time_to_first_chunk", first / 1e3)
            .text("gen_ai.output.messages", json!([{"role": "assistant", "parts": [{"type": "text", "content": answer}], "finish_reason": "stop"}]).to_string());
        self.spans.push(draft.finish());
        time
    }

    /// A root span around everything made so far; its id was given out before.
    fn root(&mut self, id: [u8; 8], name: &str, end: u64, dress: impl FnOnce(Draft) -> Draft) {
        let root = Draft::new(
            &self.trace,
            id,
            None,
            name,
            Interval {
                start: 0,
                end: end + 2_000_000,
            },
        );
        let mut root = dress(root);
        if self.failing {
            root = root.failed("upstream_failed", "a step of the request failed");
        }
        self.spans.push(root.finish());
    }

    fn chat_trace(&mut self) {
        let root = self.id();
        let (question, answer) = *self.pick(&TALKS);
        let end = self
            .model_call(
                Some(root),
                Interval {
                    start: 0,
                    end: 3_000_000,
                },
                question,
                answer,
                true,
            )
            .end;
        let status = if self.failing { 502 } else { 200 };
        self.root(root, "POST /chat", end, |root| {
            root.server()
                .text("http.request.method", "POST")
                .text("http.route", "/chat")
                .text("url.path", "/chat")
                .int("http.response.status_code", status)
        });
    }

    /// Query → embedding → retrieval → reranking → answer.
    fn search_trace(&mut self) {
        let root = self.id();
        let (question, document, passage) = *self.pick(&QUESTIONS);
        let embedding = Interval {
            start: 0,
            end: 1_000_000,
        }
        .then(self.nanos(45.0, 0.4));
        self.embedding(Some(root), embedding, question, 1);
        let retrieval = embedding.then(self.nanos(28.0, 0.6));
        let mut draft = self
            .draft(Some(root), "retrieve knowledge-base", retrieval)
            .client()
            .text("openinference.span.kind", "RETRIEVER")
            .text("gen_ai.operation.name", "retrieval")
            .text("gen_ai.data_source.id", "knowledge-base")
            .text("db.system.name", "qdrant")
            .text("input.value", question);
        for number in 0..4 {
            let key = |name: &str| format!("retrieval.documents.{number}.document.{name}");
            let score = 0.93 - 0.11 * f64::from(number) - self.random.random_range(0.0..0.05);
            draft = draft
                .text(
                    &key("id"),
                    if number == 0 {
                        document.to_owned()
                    } else {
                        format!("wiki/page-{}", number * 37)
                    },
                )
                .text(
                    &key("content"),
                    if number == 0 {
                        passage
                    } else {
                        "A passage that matched only in part."
                    },
                )
                .double(&key("score"), score);
        }
        self.spans.push(draft.finish());
        let reranking = retrieval.then(self.nanos(90.0, 0.4));
        let draft = self
            .draft(Some(root), "rerank rerank-v3.5", reranking)
            .client()
            .text("openinference.span.kind", "RERANKER")
            .text("reranker.model_name", "rerank-v3.5")
            .text("reranker.query", question)
            .int("reranker.top_k", 2);
        self.spans.push(draft.finish());
        let prompt =
            format!("Answer from the sources only.\n\n[{document}] {passage}\n\nQuestion: {question}");
        let end = self.model_call(Some(root), reranking, &prompt, passage, true).end;
        let answer = if self.failing { "" } else { passage };
        self.root(root, "answer_question", end, |root| {
            root.text("openinference.span.kind", "CHAIN")
                .text("input.value", question)
                .text("output.value", answer)
        });
    }

    fn embedding(&mut self, parent: Option<[u8; 8]>, time: Interval, input: &str, texts: i64) {
        let tokens = texts * (input.len() as i64 / 4 + 2);
        let draft = self
            .draft(parent, "embeddings text-embedding-3-large", time)
            .client()
            .text("gen_ai.operation.name", "embeddings")
            .text("gen_ai.provider.name", "openai")
            .text("gen_ai.request.model", "text-embedding-3-large")
            .text("gen_ai.response.model", "text-embedding-3-large")
            .int("gen_ai.embeddings.dimension.count", 3072)
            .int("gen_ai.usage.input_tokens", tokens)
            .text("server.address", "api.openai.com");
        self.spans.push(draft.finish());
    }

    /// An agent that thinks, uses tools and answers, in two to five rounds.
    fn agent_trace(&mut self) {
        let root = self.id();
        let (question, answer) = *self.pick(&TALKS);
        let mut at = Interval {
            start: 0,
            end: 2_000_000,
        };
        let rounds = self.random.random_range(2..=5);
        for round in 0..rounds {
            let last = round + 1 == rounds;
            let thought = if last { answer } else { "I need a tool for this." };
            at = self.model_call(Some(root), at, question, thought, last);
            if last {
                break;
            }
            let (tool, arguments, result) = *self.pick(&TOOLS);
            let time = at.then(self.nanos(120.0, 0.8));
            let draft = self
                .draft(Some(root), format!("execute_tool {tool}"), time)
                .text("gen_ai.operation.name", "execute_tool")
                .text("gen_ai.tool.name", tool)
                .text("gen_ai.tool.type", "function")
                .text("gen_ai.tool.call.id", format!("call_{:08x}", round * 7919 + 17))
                .text("gen_ai.tool.call.arguments", arguments);
            // A tool that fails is tried again by the agent; the trace may still end well.
            let draft = match self.random.random_bool(0.05) {
                true => draft.failed("ToolError", "the order system answered 500"),
                false => draft.text("gen_ai.tool.call.result", result),
            };
            self.spans.push(draft.finish());
            at = time;
        }
        let user = format!("user-{:04}", self.random.random_range(0..400));
        self.root(root, "invoke_agent order-desk", at.end, |root| {
            root.text("gen_ai.operation.name", "invoke_agent")
                .text("gen_ai.agent.name", "order-desk")
                .text("gen_ai.agent.id", "agent_order_desk")
                .text("user.id", user)
                .text(
                    "gen_ai.input.messages",
                    json!([{"role": "user", "parts": [{"type": "text", "content": question}]}]).to_string(),
                )
        });
    }

    fn indexer_trace(&mut self) {
        let root = self.id();
        let mut at = Interval {
            start: 0,
            end: 1_000_000,
        };
        for _ in 0..self.random.random_range(2..=6) {
            at = at.then(self.nanos(180.0, 0.5));
            let texts = self.random.random_range(8..=64);
            self.embedding(
                Some(root),
                at,
                "A paragraph of a manual, about as long as this one and half again.",
                texts,
            );
        }
        self.root(root, "index documents", at.end, |root| {
            root.text("openinference.span.kind", "CHAIN")
        });
    }

    /// A gradient-boosted model that scores payments.
    fn fraud_trace(&mut self) {
        let root = self.id();
        let time = Interval {
            start: 0,
            end: 500_000,
        }
        .then(self.nanos(6.0, 0.5));
        let amount = self.about(60.0, 1.1);
        let foreign = self.random.random_bool(0.15);
        let score = 1.0 / (1.0 + (-(amount.ln() - 6.5 + if foreign { 1.4 } else { 0.0 })).exp());
        let prediction = format!("pred-{:016x}", self.random.random::<u64>());
        let country = *self.pick(&["CH", "DE", "FR", "IT", "AT", "NO"]);
        let draft = self
            .draft(Some(root), "predict fraud-gbdt", time)
            .text("pyflare.ml.model.name", "fraud-gbdt")
            .text("pyflare.ml.model.version", "2026.05")
            .text("pyflare.ml.task", "classification")
            .text("pyflare.ml.prediction.id", prediction)
            .text(
                "pyflare.ml.prediction.label",
                if score > 0.5 { "fraud" } else { "legitimate" },
            )
            .double("pyflare.ml.prediction.score", score)
            .double("pyflare.ml.features.amount", (amount * 100.0).round() / 100.0)
            .text("pyflare.ml.features.country", country)
            .flag("pyflare.ml.features.foreign_card", foreign)
            .text(
                "pyflare.ml.segment.channel",
                if foreign { "web" } else { "store" },
            );
        let draft = match self.failing {
            true => draft.failed("FeatureMissing", "the feature store has no row for this card"),
            false => draft,
        };
        self.spans.push(draft.finish());
        self.root(root, "POST /score", time.end, |root| {
            root.server()
                .text("http.request.method", "POST")
                .text("http.route", "/score")
        });
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
