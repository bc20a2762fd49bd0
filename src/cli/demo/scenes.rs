//! How each kind of trace comes about, span by span. Times are counted from zero.

use opentelemetry_proto::tonic::trace::v1::Span;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::json;

use super::content::{FAILURES, MODELS, QUESTIONS, TALKS, TOOLS};
use super::spans::{Draft, Interval};

/// A trace in the making.
pub struct Making<'a> {
    pub random: &'a mut StdRng,
    pub trace: [u8; 16],
    pub spans: Vec<Span>,
    pub failing: bool,
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

    pub fn chat_trace(&mut self) {
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
    pub fn search_trace(&mut self) {
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
    pub fn agent_trace(&mut self) {
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

    pub fn indexer_trace(&mut self) {
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
    pub fn fraud_trace(&mut self) {
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
