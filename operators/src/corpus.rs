//! OTLP traffic for benchmarks and tests, the same for a seed.
//!
//! Two corpora, as the figures of the project name them:
//! * *small*: made-up spans of one model call with 13 attributes, 800 to 925 bytes each;
//! * *real*: spans recorded from instrumented clients with their prompts and answers, at least 4 kB a span on
//!   average, each made distinct (see [`recorded`]).

pub mod nexmark;
mod recorded;

use crate::decode::encode::{put_bytes, put_varint};

/// What the spans look like; of *real* ones only their times are made up.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Distinct services.
    pub services: u32,
    /// Distinct models.
    pub models: u32,
    /// Distinct users.
    pub users: u32,
    /// Start of the first span, in nanoseconds since 1970.
    pub start_unix_nano: u64,
    /// Time from one span's start to the next one's.
    pub spacing_ns: u64,
    /// Whether each span writes its attributes in an order of its own.
    pub shuffled: bool,
    /// Share of spans that fail, in a thousand.
    pub errors_per_mille: u32,
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic {
            services: 8,
            models: 6,
            users: 1000,
            start_unix_nano: 1_790_000_000_000_000_000,
            spacing_ns: 1_000_000,
            shuffled: false,
            errors_per_mille: 20,
        }
    }
}

/// A generator of requests; each call goes on where the last one stopped.
#[derive(Clone, Debug)]
pub struct Generator {
    traffic: Traffic,
    random: Random,
    /// Spans generated so far.
    spans: u64,
    cursor: recorded::Cursor,
    attribute: Vec<u8>,
    value: Vec<u8>,
    /// Attributes of the span being written.
    attributes: Vec<Vec<u8>>,
}

/// One request of the small corpus with default traffic.
pub fn small_request(seed: u64, spans: usize) -> Vec<u8> {
    Generator::new(seed, Traffic::default()).small_request(spans)
}

/// One request of the real corpus with default traffic.
pub fn real_request(seed: u64, spans: usize) -> Vec<u8> {
    Generator::new(seed, Traffic::default()).real_request(spans)
}

const MODELS: [&str; 6] = [
    "gpt-4.1-mini-2026-04-14",
    "gpt-4.1-2026-04-14",
    "claude-sonnet-4-5-20260929",
    "gemini-2.5-flash-002",
    "mistral-large-2512",
    "llama-3.3-70b-instruct",
];
const PROVIDERS: [&str; 6] = [
    "openai",
    "openai",
    "anthropic",
    "gcp.gemini",
    "mistral_ai",
    "groq",
];
const WORDS: [&str; 64] = [
    "the",
    "account",
    "balance",
    "shows",
    "a",
    "payment",
    "of",
    "last",
    "week",
    "that",
    "was",
    "not",
    "booked",
    "please",
    "explain",
    "which",
    "documents",
    "are",
    "needed",
    "for",
    "opening",
    "branch",
    "in",
    "Zürich",
    "and",
    "how",
    "long",
    "it",
    "takes",
    "customer",
    "asked",
    "whether",
    "delivery",
    "can",
    "be",
    "moved",
    "to",
    "Friday",
    "because",
    "warehouse",
    "closed",
    "summarise",
    "contract",
    "into",
    "three",
    "points",
    "quote",
    "paragraph",
    "numbers",
    "refund",
    "policy",
    "says",
    "within",
    "thirty",
    "days",
    "answer",
    "short",
    "polite",
    "naïve",
    "東京",
    "model",
    "prediction",
    "confidence",
    "threshold",
];

impl Generator {
    /// A generator whose requests depend on nothing but the seed and the traffic.
    pub fn new(seed: u64, traffic: Traffic) -> Generator {
        Generator {
            traffic,
            random: Random(seed),
            spans: 0,
            cursor: recorded::Cursor::default(),
            attribute: Vec::new(),
            value: Vec::new(),
            attributes: Vec::new(),
        }
    }

    /// An `ExportTraceServiceRequest` of the small corpus.
    pub fn small_request(&mut self, spans: usize) -> Vec<u8> {
        self.request(spans, 960, Generator::small_span)
    }

    /// An `ExportTraceServiceRequest` of the real corpus.
    pub fn real_request(&mut self, spans: usize) -> Vec<u8> {
        let ids = u128::from(self.random.next()) << 64 | u128::from(self.random.next());
        let (traffic, number) = (&self.traffic, &mut self.spans);
        recorded::request(&mut self.cursor, spans, |lap| {
            *number += 1;
            recorded::Patch {
                ids: ids ^ u128::from(lap),
                start_unix_nano: traffic.start_unix_nano + (*number - 1) * traffic.spacing_ns,
                number: *number,
            }
        })
    }

    fn request(&mut self, spans: usize, size: usize, write: fn(&mut Generator, &mut Vec<u8>)) -> Vec<u8> {
        let service = self.random.below(u64::from(self.traffic.services.max(1)));
        let mut resource = Vec::new();
        for (key, text) in [
            ("service.name", format!("shop-assistant-{service}")),
            ("service.version", format!("1.{}.{}", service % 4, service % 7)),
            ("deployment.environment.name", "production".to_owned()),
            (
                "service.instance.id",
                format!("{:016x}-{:08x}", self.random.next(), service),
            ),
            ("telemetry.sdk.language", "python".to_owned()),
            ("telemetry.sdk.name", "opentelemetry".to_owned()),
            ("telemetry.sdk.version", "1.45.2".to_owned()),
        ] {
            self.text(key, &text);
            put_bytes(&mut resource, 1, &self.attributes.pop().unwrap_or_default());
        }
        let mut scope = Vec::new();
        put_bytes(&mut scope, 1, b"opentelemetry.instrumentation.genai.openai");
        put_bytes(&mut scope, 2, b"1.3b0");
        let mut scope_spans = Vec::with_capacity(spans * size);
        put_bytes(&mut scope_spans, 1, &scope);
        let mut span = Vec::with_capacity(size);
        for _ in 0..spans {
            span.clear();
            write(self, &mut span);
            put_bytes(&mut scope_spans, 2, &span);
        }
        let mut resource_spans = Vec::with_capacity(scope_spans.len() + resource.len() + 16);
        put_bytes(&mut resource_spans, 1, &resource);
        put_bytes(&mut resource_spans, 2, &scope_spans);
        let mut request = Vec::with_capacity(resource_spans.len() + 16);
        put_bytes(&mut request, 1, &resource_spans);
        request
    }

    fn small_span(&mut self, span: &mut Vec<u8>) {
        let model = self.random.below(u64::from(self.traffic.models.max(1)));
        let (input, output) = (self.random.within(20, 4000), self.random.within(5, 900));
        self.model_call(model, input, output);
        let question = self.words(26);
        self.text("gen_ai.input.messages", &messages("user", &question));
        self.write_span(
            span,
            &format!("chat {}", model_name(model)),
            3,
            output * 12_000_000,
        );
    }

    fn model_call(&mut self, model: u64, input: u64, output: u64) {
        self.text("gen_ai.operation.name", "chat");
        self.text("gen_ai.provider.name", PROVIDERS[(model % 6) as usize]);
        self.text("gen_ai.request.model", &model_name(model));
        self.text("gen_ai.response.model", &model_name(model));
        self.int("gen_ai.usage.input_tokens", input);
        self.int("gen_ai.usage.output_tokens", output);
        self.double(
            "gen_ai.request.temperature",
            self.random.clone().below(10) as f64 / 10.0,
        );
        self.texts(
            "gen_ai.response.finish_reasons",
            &[if output > 850 { "length" } else { "stop" }],
        );
        let id = format!("chatcmpl-{:016x}", self.random.next());
        self.text("gen_ai.response.id", &id);
        let session = format!("session-{:012x}", self.random.below(1 << 20));
        self.text("gen_ai.conversation.id", &session);
        let user = format!(
            "user-{:06}",
            self.random.below(u64::from(self.traffic.users.max(1)))
        );
        self.text("user.id", &user);
        self.text("server.address", "api.models.example.com");
    }

    fn write_span(&mut self, span: &mut Vec<u8>, name: &str, kind: u64, duration: u64) {
        let start = self.traffic.start_unix_nano + self.spans * self.traffic.spacing_ns;
        self.spans += 1;
        let failed = self.random.below(1000) < u64::from(self.traffic.errors_per_mille);
        if failed {
            self.text("error.type", "timeout");
        }
        let mut trace = [0u8; 16];
        trace[..8].copy_from_slice(&self.random.next().to_be_bytes());
        trace[8..].copy_from_slice(&self.random.next().to_be_bytes());
        put_bytes(span, 1, &trace);
        put_bytes(span, 2, &(self.random.next() | 1).to_be_bytes());
        if self.random.below(4) != 0 {
            put_bytes(span, 4, &(self.random.next() | 1).to_be_bytes());
        }
        put_bytes(span, 5, name.as_bytes());
        put_varint(span, 6 << 3);
        put_varint(span, kind);
        for (number, time) in [(7, start), (8, start + duration + self.random.below(1_000_000))] {
            put_varint(span, number << 3 | 1);
            span.extend_from_slice(&time.to_le_bytes());
        }
        if self.traffic.shuffled {
            for left in (1..self.attributes.len()).rev() {
                self.attributes
                    .swap(left, self.random.below(left as u64 + 1) as usize);
            }
        }
        for attribute in self.attributes.drain(..) {
            put_bytes(span, 9, &attribute);
        }
        if failed {
            put_bytes(span, 15, b"\x12\x19the model did not answer\x2e\x18\x02");
        } else {
            put_bytes(span, 15, b"");
        }
        put_varint(span, 16 << 3 | 5);
        span.extend_from_slice(&0x100u32.to_le_bytes());
    }

    /// Adds an attribute whose value has been written.
    fn add(&mut self, key: &str) {
        self.attribute.clear();
        put_bytes(&mut self.attribute, 1, key.as_bytes());
        put_bytes(&mut self.attribute, 2, &self.value);
        self.attributes.push(self.attribute.clone());
    }

    fn text(&mut self, key: &str, text: &str) {
        self.value.clear();
        put_bytes(&mut self.value, 1, text.as_bytes());
        self.add(key);
    }

    fn int(&mut self, key: &str, number: u64) {
        self.value.clear();
        put_varint(&mut self.value, 3 << 3);
        put_varint(&mut self.value, number);
        self.add(key);
    }

    fn double(&mut self, key: &str, number: f64) {
        self.value.clear();
        put_varint(&mut self.value, 4 << 3 | 1);
        self.value.extend_from_slice(&number.to_le_bytes());
        self.add(key);
    }

    fn texts(&mut self, key: &str, items: &[&str]) {
        let mut list = Vec::new();
        for item in items {
            let mut value = Vec::new();
            put_bytes(&mut value, 1, item.as_bytes());
            put_bytes(&mut list, 1, &value);
        }
        self.value.clear();
        put_bytes(&mut self.value, 5, &list);
        self.add(key);
    }

    fn words(&mut self, count: u64) -> String {
        let mut text = String::with_capacity(count as usize * 7);
        for number in 0..count {
            if number > 0 {
                text.push(' ');
            }
            let word = self.random.next();
            text.push_str(WORDS[(word % 64) as usize]);
            if word >> 58 == 0 {
                text.push_str(&format!(" {}", word >> 40 & 0xfff));
            }
        }
        text
    }
}

fn model_name(model: u64) -> String {
    let name = MODELS[(model % 6) as usize];
    if model < 6 {
        name.to_owned()
    } else {
        format!("{name}-{}", model / 6)
    }
}

fn messages(role: &str, text: &str) -> String {
    format!("[{{\"role\":\"{role}\",\"parts\":[{{\"type\":\"text\",\"content\":\"{text}\"}}]}}]")
}

/// SplitMix64: small, fast, good enough for made-up traffic.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    fn within(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decode::{BodyEncoding, OtlpSignal, check};

    #[test]
    fn requests_are_what_the_corpora_promise() {
        let small = small_request(1, 500);
        let per_span = small.len() / 500;
        assert!((800..=925).contains(&per_span), "{per_span} bytes a span");
        let real = real_request(1, 500);
        assert!(real.len() / 500 >= 4000, "{} bytes a span", real.len() / 500);
        for request in [&small, &real] {
            let checked = check(OtlpSignal::Traces, BodyEncoding::Protobuf, request).unwrap();
            assert_eq!((checked.rows, checked.rejected), (500, 0));
        }
        assert_eq!(small, small_request(1, 500));
        assert_ne!(small, small_request(2, 500));
        assert_eq!(real, real_request(1, 500));
        assert_ne!(real, real_request(2, 500));
    }

    #[test]
    fn real_spans_are_distinct_and_their_parents_are_there() {
        use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
        use prost::Message;
        use std::collections::HashSet;

        let mut generator = Generator::new(1, Traffic::default());
        let (mut spans, mut texts, mut children, mut orphans) = (HashSet::new(), HashSet::new(), 0, 0);
        let mut referenced = 0;
        for _ in 0..6 {
            let request = ExportTraceServiceRequest::decode(&*generator.real_request(300)).unwrap();
            let all: Vec<_> = request
                .resource_spans
                .iter()
                .flat_map(|resource| &resource.scope_spans)
                .flat_map(|scope| &scope.spans)
                .collect();
            assert_eq!(all.len(), 300);
            let ids: HashSet<_> = all.iter().map(|span| (&span.trace_id, &span.span_id)).collect();
            for span in &all {
                assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
                assert!(spans.insert((span.trace_id.clone(), span.span_id.clone())));
                let text = format!("{:?}", span.attributes);
                if text.contains("ref#") {
                    referenced += 1;
                    assert!(texts.insert(text));
                }
                if !span.parent_span_id.is_empty() {
                    children += 1;
                    orphans += u32::from(!ids.contains(&(&span.trace_id, &span.parent_span_id)));
                }
            }
        }
        assert!(referenced > 900, "{referenced} spans carry a reference");
        // Some traces are cut where a request ends.
        assert!(
            children > 300 && orphans * 5 < children,
            "{orphans} of {children}"
        );
    }
}
