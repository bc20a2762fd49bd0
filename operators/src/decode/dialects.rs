//! The words of the dialects: classes, providers, operations and reasons to finish, brought to one form.
//!
//! A word that is not known is kept as it is (TELEMETRY: "unknown values kept verbatim"), so every function
//! answers `None` for it.

/// What a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Llm,
    Embedding,
    Retriever,
    Reranker,
    Tool,
    Agent,
    Chain,
    Guardrail,
    Evaluator,
    Http,
    Db,
    Other,
}

impl Class {
    pub(crate) const ALL: [Class; 12] = [
        Class::Llm,
        Class::Embedding,
        Class::Retriever,
        Class::Reranker,
        Class::Tool,
        Class::Agent,
        Class::Chain,
        Class::Guardrail,
        Class::Evaluator,
        Class::Http,
        Class::Db,
        Class::Other,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Class::Llm => "llm",
            Class::Embedding => "embedding",
            Class::Retriever => "retriever",
            Class::Reranker => "reranker",
            Class::Tool => "tool",
            Class::Agent => "agent",
            Class::Chain => "chain",
            Class::Guardrail => "guardrail",
            Class::Evaluator => "evaluator",
            Class::Http => "http",
            Class::Db => "db",
            Class::Other => "other",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.name() == name)
    }
}

/// Whose word for a class it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Our own names.
    PyFlare,
    /// `gen_ai.operation.name`.
    GenAi,
    OpenInference,
    Traceloop,
    Langfuse,
    Mlflow,
    /// The Vercel AI SDK's operation ids.
    Vercel,
    Laminar,
    Genkit,
}

impl Dialect {
    /// The dialect of an attribute that declares a class.
    pub(crate) fn of(key: &str) -> Dialect {
        match key {
            "openinference.span.kind" => Dialect::OpenInference,
            "traceloop.span.kind" => Dialect::Traceloop,
            "langfuse.observation.type" => Dialect::Langfuse,
            "mlflow.spanType" => Dialect::Mlflow,
            "ai.operationId" | "operation.name" => Dialect::Vercel,
            "lmnr.span.type" => Dialect::Laminar,
            "genkit:metadata:subtype" => Dialect::Genkit,
            "pyflare.span.class" => Dialect::PyFlare,
            _ => Dialect::GenAi,
        }
    }

    /// The class a word of this dialect means.
    pub(crate) fn class(self, word: &str) -> Option<Class> {
        let word = if self == Dialect::Mlflow {
            unquoted(word)
        } else {
            word
        };
        match self {
            Dialect::PyFlare => Class::named(word),
            Dialect::GenAi => match word {
                "chat" | "text_completion" | "generate_content" | "completion" | "fetch_response" => {
                    Some(Class::Llm)
                }
                "embeddings" | "embedding" => Some(Class::Embedding),
                "retrieval" | "search_memory" => Some(Class::Retriever),
                "rerank" => Some(Class::Reranker),
                "execute_tool" => Some(Class::Tool),
                "invoke_agent" | "create_agent" | "plan" => Some(Class::Agent),
                "invoke_workflow" | "agent_step" => Some(Class::Chain),
                _ => None,
            },
            Dialect::OpenInference | Dialect::Mlflow | Dialect::Laminar => upper_case_class(word),
            Dialect::Traceloop => match word {
                "workflow" | "task" => Some(Class::Chain),
                "agent" => Some(Class::Agent),
                "tool" => Some(Class::Tool),
                _ => None,
            },
            Dialect::Langfuse => match word {
                "generation" => Some(Class::Llm),
                "span" | "event" | "http" | "db" | "other" | "llm" => None,
                _ => Class::named(word),
            },
            Dialect::Vercel => vercel_class(word),
            Dialect::Genkit => match word {
                "model" => Some(Class::Llm),
                "embedder" => Some(Class::Embedding),
                "flow" | "prompt" => Some(Class::Chain),
                "retriever" | "reranker" | "tool" | "agent" | "evaluator" => Class::named(word),
                _ => None,
            },
        }
    }
}

/// Words of OpenInference, MLflow and Laminar, which agree where they meet.
fn upper_case_class(word: &str) -> Option<Class> {
    match word {
        "LLM" | "CHAT_MODEL" => Some(Class::Llm),
        "EMBEDDING" => Some(Class::Embedding),
        "RETRIEVER" => Some(Class::Retriever),
        "RERANKER" => Some(Class::Reranker),
        "TOOL" => Some(Class::Tool),
        "AGENT" => Some(Class::Agent),
        "CHAIN" | "PROMPT" | "PARSER" | "WORKFLOW" | "TASK" | "PIPELINE" => Some(Class::Chain),
        "GUARDRAIL" => Some(Class::Guardrail),
        "EVALUATOR" | "EVALUATION" => Some(Class::Evaluator),
        _ => None,
    }
}

/// Operation ids of the Vercel AI SDK: the inner `do…` call is the model's, the outer one restates it.
fn vercel_class(word: &str) -> Option<Class> {
    let id = word.split(' ').next().unwrap_or(word);
    let rest = id.strip_prefix("ai.")?;
    Some(match rest.rsplit('.').next().unwrap_or(rest) {
        "doGenerate" | "doStream" => Class::Llm,
        "doEmbed" => Class::Embedding,
        "doRerank" => Class::Reranker,
        "toolCall" => Class::Tool,
        _ => Class::Chain,
    })
}

/// The text inside a JSON string, if it is one without escapes; otherwise the text itself.
pub(crate) fn unquoted(text: &str) -> &str {
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(inner) if !inner.contains(['"', '\\']) => inner,
        _ => text,
    }
}

/// The GenAI name of a provider, where the sender used another word for it.
pub(crate) fn provider(word: &str) -> Option<&'static str> {
    let word = unquoted(word);
    if word.bytes().any(|byte| byte.is_ascii_uppercase()) {
        let lower = word.to_ascii_lowercase();
        return provider(&lower).or_else(|| PROVIDERS.iter().copied().find(|name| *name == lower));
    }
    match word {
        "azure" | "azure_openai" | "az.ai.openai" | "azureopenai" => Some("azure.ai.openai"),
        "az.ai.inference" | "azure_ai_inference" => Some("azure.ai.inference"),
        "bedrock" | "aws" | "aws_bedrock" | "amazon_bedrock" | "amazon-bedrock" => Some("aws.bedrock"),
        "gemini" | "google_genai" | "google" | "google.generative-ai" => Some("gcp.gemini"),
        "vertexai" | "vertex_ai" | "google_vertexai" | "google.vertex" | "vertex" => Some("gcp.vertex_ai"),
        "mistral" | "mistralai" => Some("mistral_ai"),
        "xai" => Some("x_ai"),
        "watsonx" | "watsonx_ai" => Some("ibm.watsonx.ai"),
        _ => {
            // The Vercel AI SDK adds the interface to the provider: `openai.chat`, `mistral.chat`.
            let (head, tail) = word.rsplit_once('.')?;
            if !matches!(
                tail,
                "chat" | "responses" | "completion" | "completions" | "messages" | "embedding" | "embeddings"
            ) {
                return None;
            }
            provider(head).or_else(|| PROVIDERS.iter().copied().find(|name| *name == head))
        }
    }
}

const PROVIDERS: [&str; 16] = [
    "openai",
    "anthropic",
    "aws.bedrock",
    "azure.ai.inference",
    "azure.ai.openai",
    "cohere",
    "deepseek",
    "gcp.gemini",
    "gcp.vertex_ai",
    "groq",
    "ibm.watsonx.ai",
    "mistral_ai",
    "moonshot_ai",
    "ollama",
    "perplexity",
    "x_ai",
];

/// The GenAI name of an operation, where the sender used another word for it.
pub(crate) fn operation(word: &str) -> Option<&'static str> {
    match word {
        "completion" => Some("text_completion"),
        "embedding" => Some("embeddings"),
        _ => {
            let rest = word.split(' ').next()?.strip_prefix("ai.")?;
            match rest.rsplit('.').next()? {
                "doGenerate" | "doStream" => Some("chat"),
                "doEmbed" => Some("embeddings"),
                "doRerank" => Some("rerank"),
                "toolCall" => Some("execute_tool"),
                _ => None,
            }
        }
    }
}

/// The GenAI name of a reason to finish, where the sender used another word for it.
pub(crate) fn finish_reason(word: &str) -> Option<&'static str> {
    match word {
        "end_turn" | "stop_sequence" | "STOP" | "eos" | "eos_token" | "COMPLETE" => Some("stop"),
        "max_tokens" | "MAX_TOKENS" | "max_output_tokens" | "max_completion_tokens" => Some("length"),
        "tool_calls" | "tool-calls" | "tool_use" | "function_call" | "TOOL_CALL" => Some("tool_call"),
        "content-filter" | "SAFETY" | "refusal" | "content_filtered" => Some("content_filter"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_every_dialect() {
        assert_eq!(Dialect::Mlflow.class("\"CHAT_MODEL\""), Some(Class::Llm));
        assert_eq!(
            Dialect::Vercel.class("ai.streamText.doStream my-function"),
            Some(Class::Llm)
        );
        assert_eq!(Dialect::Vercel.class("ai.streamText"), Some(Class::Chain));
        assert_eq!(Dialect::Vercel.class("checkout"), None);
        assert_eq!(Dialect::Langfuse.class("span"), None);
        assert_eq!(provider("OpenAI"), Some("openai"));
        assert_eq!(provider("openai"), None);
        assert_eq!(provider("openai.responses"), Some("openai"));
        assert_eq!(provider("mistral.chat"), Some("mistral_ai"));
        assert_eq!(provider("stub.chat"), None);
        assert_eq!(finish_reason("tool-calls"), Some("tool_call"));
        assert_eq!(finish_reason("compaction"), None);
    }

    #[test]
    fn names_brought_to_one_form_stay() {
        for name in PROVIDERS {
            assert_eq!(provider(name), None, "{name}");
        }
        for word in ["stop", "length", "tool_call", "content_filter", "error"] {
            assert_eq!(finish_reason(word), None);
        }
    }
}
