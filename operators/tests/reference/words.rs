//! The words of the dialects that the generator writes, brought to one form.

/// The words the generator writes; all others are kept.
pub fn normal(column: &str, word: &str) -> String {
    let normal = match (column, word) {
        ("provider", "OpenAI" | "openai.chat" | "\"openai\"") => "openai",
        ("provider", "azure_openai") => "azure.ai.openai",
        ("operation", "completion") => "text_completion",
        ("operation", "ai.streamText.doStream") => "chat",
        ("finish_reason", "end_turn") => "stop",
        ("finish_reason", "tool_calls" | "tool-calls") => "tool_call",
        ("finish_reason", "max_tokens") => "length",
        _ if column != "operation" && word.len() > 2 && word.starts_with('"') && word.ends_with('"') => {
            let inner = &word[1..word.len() - 1];
            if inner.contains(['"', '\\']) { word } else { inner }
        }
        _ if column == "operation" && word.len() > 2 && word.starts_with('"') && word.ends_with('"') => {
            let inner = &word[1..word.len() - 1];
            if inner.contains(['"', '\\']) { word } else { inner }
        }
        _ => word,
    };
    normal.to_owned()
}

pub fn class(key: &str, word: &str) -> Option<&'static str> {
    let word = word
        .strip_prefix('"')
        .and_then(|word| word.strip_suffix('"'))
        .filter(|_| key == "mlflow.spanType")
        .unwrap_or(word);
    match (key, word) {
        ("pyflare.span.class", word) => [
            "llm",
            "embedding",
            "retriever",
            "reranker",
            "tool",
            "agent",
            "chain",
            "guardrail",
            "evaluator",
            "http",
            "db",
            "other",
        ]
        .into_iter()
        .find(|class| *class == word),
        ("gen_ai.operation.name" | "llm.request.type", "chat" | "completion") => Some("llm"),
        ("gen_ai.operation.name" | "llm.request.type", "execute_tool") => Some("tool"),
        ("openinference.span.kind" | "mlflow.spanType" | "lmnr.span.type", "LLM" | "CHAT_MODEL") => {
            Some("llm")
        }
        ("openinference.span.kind" | "mlflow.spanType" | "lmnr.span.type", "RETRIEVER") => Some("retriever"),
        ("traceloop.span.kind", "agent") => Some("agent"),
        ("traceloop.span.kind", "tool") => Some("tool"),
        ("traceloop.span.kind", "workflow") => Some("chain"),
        ("langfuse.observation.type", "generation") => Some("llm"),
        ("langfuse.observation.type", "guardrail") => Some("guardrail"),
        ("langfuse.observation.type", "agent") => Some("agent"),
        ("langfuse.observation.type", "tool") => Some("tool"),
        ("ai.operationId" | "operation.name", "ai.streamText.doStream") => Some("llm"),
        ("genkit:metadata:subtype", "tool") => Some("tool"),
        ("genkit:metadata:subtype", "agent") => Some("agent"),
        _ => None,
    }
}
