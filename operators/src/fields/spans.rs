//! The stream `spans`: one row per span, the canonical inference record.
//!
//! The aliases cover the four generations of the OpenTelemetry GenAI conventions (from `gen_ai.prompt` and
//! `usage.prompt_tokens` through `gen_ai.system` and `gen_ai.provider.name` to `cache_write`), and the
//! dialects of OpenInference, Traceloop, Langfuse, MLflow and the Vercel AI SDK.
use super::{Field, FieldType, MARK, OFFSET, PARTITION, ROW, TICK};

/// The declared fields of the stream `spans`.
pub const SPANS: &[Field] = &[
    Field::text("project", "Project").required().says("The tenant the row belongs to."),
    Field::text("trace_id", "Trace").required().says("Trace id, 32 lowercase hexadecimal digits."),
    Field::text("span_id", "Span").required().says("Span id, 16 lowercase hexadecimal digits."),
    Field::text("parent_span_id", "Parent span").says("Span id of the parent; null for a root."),
    Field::text("name", "Name").required().says("Name of the span."),
    Field::text("kind", "Kind")
        .required()
        .says("`internal`, `server`, `client`, `producer`, `consumer` or `unspecified`; the number of any other kind."),
    Field::text("status", "Status")
        .required()
        .says("`unset`, `ok` or `error`; the number of any other status."),
    Field::text("status_message", "Status message").says("Message of the status, if it has one."),
    Field::text("service_name", "Service").says("The service that sent the span.").from(&["resource:service.name"]),
    Field::text("service_version", "Service version")
        .says("Version or release of the service.")
        .from(&["langfuse.release", "resource:service.version", "resource:langfuse.release"]),
    Field::text("environment", "Environment").says("Deployment environment.").from(&[
        "deployment.environment.name",
        "deployment.environment",
        "langfuse.environment",
        "resource:deployment.environment.name",
        "resource:deployment.environment",
        "resource:langfuse.environment",
    ]),
    Field::text("scope_name", "Scope").says("Name of the instrumentation scope."),
    Field::time("event_time", "Time")
        .required()
        .says("End of the span, or the time received where it has none; never beyond the tick."),
    Field::time("start_time", "Start").says("Start of the span; null where it is zero."),
    Field::time("end_time", "End").says("End of the span; null where it is zero."),
    Field::int("start_unix_nano", "Start (ns)")
        .required()
        .unit("ns")
        .says("Start of the span in nanoseconds since 1970, as sent; times after 2262-04-11 saturate."),
    Field::int("duration_ns", "Duration")
        .unit("ns")
        .says("End minus start; negative where the clock went back, null where either is zero."),
    Field::text("span_class", "Class")
        .required()
        .says(
            "What the span is: `llm`, `embedding`, `retriever`, `reranker`, `tool`, `agent`, `chain`, \
             `guardrail`, `evaluator`, `http`, `db` or `other`. Without a declared class, a span with a model \
             or token counts is `llm`, one with a tool's or an agent's name is `tool` or `agent`.",
        )
        .from(&[
            "pyflare.span.class",
            "gen_ai.operation.name",
            "openinference.span.kind",
            "traceloop.span.kind",
            "langfuse.observation.type",
            "mlflow.spanType",
            "ai.operationId",
            "operation.name",
            "lmnr.span.type",
            "genkit:metadata:subtype",
            "llm.request.type",
            "db.system.name=db",
            "db.system=db",
            "http.request.method=http",
            "http.method=http",
        ]),
    Field::text("operation", "Operation")
        .says("The operation, by its GenAI name where it has one (`chat`, `embeddings`, `execute_tool`).")
        .from(&["gen_ai.operation.name", "ai.operationId", "llm.request.type"]),
    Field::text("provider", "Provider")
        .says("Provider of the model, by its GenAI name where it has one (`openai`, `aws.bedrock`).")
        .from(&[
            "gen_ai.provider.name",
            "gen_ai.system",
            "llm.provider",
            "llm.system",
            "mlflow.llm.provider",
            "ai.model.provider",
        ]),
    Field::text("model_requested", "Model requested").says("The model that was asked for.").from(&[
        "gen_ai.request.model",
        "llm.request.model_name",
        "ai.model.id",
        "llm.invocation_parameters{model}",
    ]),
    Field::text("model", "Model")
        .says("The model that answered; where nothing says so, the one that was asked for.")
        .from(&[
            "gen_ai.response.model",
            "llm.response.model_name",
            "llm.model_name",
            "embedding.model_name",
            "reranker.model_name",
            "langfuse.observation.model.name",
            "mlflow.llm.model",
            "ai.response.model",
            "pyflare.ml.model.name",
            "model_name",
        ]),
    Field::text("model_version", "Model version").says("Version of a model that has one.").from(&[
        "pyflare.ml.model.version",
        "mlflow.model.version",
        "model_version",
    ]),
    Field::int("input_tokens", "Input tokens")
        .unit("tokens")
        .says(
            "All input tokens, those read from and written to a cache included. An emitter whose cache \
             tokens exceed its input counts them apart; they are then added.",
        )
        .from(&[
            "gen_ai.usage.input_tokens",
            "gen_ai.usage.prompt_tokens",
            "llm.token_count.prompt",
            "llm.usage.prompt_tokens",
            "langfuse.observation.usage_details{input*}",
            "mlflow.chat.tokenUsage{input_tokens}",
            "ai.usage.inputTokens",
            "ai.usage.promptTokens",
            "ai.usage.tokens",
        ]),
    Field::int("output_tokens", "Output tokens")
        .unit("tokens")
        .says("All output tokens, reasoning included; reasoning that exceeds the output is added to it.")
        .from(&[
            "gen_ai.usage.output_tokens",
            "gen_ai.usage.completion_tokens",
            "llm.token_count.completion",
            "llm.usage.completion_tokens",
            "langfuse.observation.usage_details{output*}",
            "mlflow.chat.tokenUsage{output_tokens}",
            "ai.usage.outputTokens",
            "ai.usage.completionTokens",
        ]),
    Field::int("cache_read_tokens", "Cache read tokens")
        .unit("tokens")
        .says("Input tokens read from a cache, a part of the input tokens.")
        .from(&[
            "gen_ai.usage.cache_read.input_tokens",
            "gen_ai.usage.cache_read_input_tokens",
            "gen_ai.usage.details.cache_read_tokens",
            "llm.token_count.prompt_details.cache_read",
            "langfuse.observation.usage_details{cache_read*}",
            "mlflow.chat.tokenUsage{cache_read_input_tokens}",
            "ai.usage.cachedInputTokens",
        ]),
    Field::int("cache_write_tokens", "Cache write tokens")
        .unit("tokens")
        .says("Input tokens written to a cache, a part of the input tokens.")
        .from(&[
            "gen_ai.usage.cache_write.input_tokens",
            "gen_ai.usage.cache_creation.input_tokens",
            "gen_ai.usage.cache_creation_input_tokens",
            "gen_ai.usage.details.cache_write_tokens",
            "llm.token_count.prompt_details.cache_write",
            "langfuse.observation.usage_details{cache_write*}",
            "mlflow.chat.tokenUsage{cache_creation_input_tokens}",
        ]),
    Field::int("reasoning_tokens", "Reasoning tokens")
        .unit("tokens")
        .says("Output tokens spent on reasoning, a part of the output tokens.")
        .from(&[
            "gen_ai.usage.reasoning.output_tokens",
            "gen_ai.usage.reasoning_tokens",
            "gen_ai.usage.details.reasoning_tokens",
            "llm.token_count.completion_details.reasoning",
            "langfuse.observation.usage_details{reasoning*}",
            "ai.usage.reasoningTokens",
        ]),
    Field::new("reported_cost", FieldType::Money, "Reported cost")
        .unit("USD")
        .says("The cost the sender reported.")
        .from(&[
            "gen_ai.usage.cost",
            "gen_ai.usage.total_cost",
            "llm.cost.total",
            "langfuse.observation.cost_details{total*}",
            "mlflow.llm.cost{total_cost}",
            "operation.cost",
        ]),
    Field::float("temperature", "Temperature").says("Sampling temperature asked for.").from(&[
        "gen_ai.request.temperature",
        "llm.invocation_parameters{temperature}",
        "langfuse.observation.model.parameters{temperature}",
        "ai.settings.temperature",
    ]),
    Field::int("max_tokens", "Max tokens")
        .unit("tokens")
        .says("The most output tokens asked for.")
        .from(&[
            "gen_ai.request.max_tokens",
            "llm.invocation_parameters{max_tokens}",
            "llm.invocation_parameters{max_completion_tokens}",
            "langfuse.observation.model.parameters{max_tokens}",
            "ai.settings.maxOutputTokens",
            "ai.settings.maxTokens",
        ]),
    Field::text("finish_reason", "Finish reason")
        .says(
            "Why the first answer ended: `stop`, `length`, `tool_call`, `content_filter`, `error`, or the \
             sender's word where it is none of these.",
        )
        .from(&[
            "gen_ai.response.finish_reasons",
            "llm.finish_reason",
            "ai.response.finishReason",
            "gen_ai.output.messages{finish_reason}",
        ]),
    Field::int("time_to_first_token_ns", "Time to first token")
        .unit("ns")
        .says("From the start of the span to the first piece of the answer.")
        .from(&[
            "gen_ai.response.time_to_first_chunk",
            "ai.response.msToFirstChunk[ms]",
            "langfuse.observation.completion_start_time",
            "event:First Token Stream Event",
            "event:gen_ai.content.completion.chunk",
        ]),
    Field::text("user_id", "User").says("The end user.").from(&[
        "user.id",
        "enduser.id",
        "traceloop.association.properties.user_id",
        "langfuse.user.id",
        "mlflow.trace.user",
        "ai.telemetry.metadata.userId",
    ]),
    Field::text("session_id", "Session").says("The conversation or session.").from(&[
        "gen_ai.conversation.id",
        "session.id",
        "traceloop.association.properties.session_id",
        "langfuse.session.id",
        "mlflow.trace.session",
        "ai.telemetry.metadata.sessionId",
    ]),
    Field::text("agent_name", "Agent").says("Name of the agent.").from(&[
        "gen_ai.agent.name",
        "agent.name",
        "traceloop.entity.name",
    ]),
    Field::text("tool_name", "Tool").says("Name of the tool.").from(&[
        "gen_ai.tool.name",
        "tool.name",
        "ai.toolCall.name",
        "traceloop.entity.name",
    ]),
    Field::text("prompt_name", "Prompt").says("Name of the prompt template.").from(&[
        "gen_ai.prompt.name",
        "langfuse.observation.prompt.name",
        "traceloop.prompt.key",
    ]),
    Field::text("prompt_version", "Prompt version").says("Version of the prompt template.").from(&[
        "gen_ai.prompt.version",
        "llm.prompt_template.version",
        "langfuse.observation.prompt.version",
        "traceloop.prompt.version",
    ]),
    Field::text("input", "Input")
        .says("What went in: messages as JSON text, or plain text, as the sender wrote it.")
        .from(&[
            "gen_ai.input.messages",
            "gen_ai.prompt",
            "gen_ai.prompt.*",
            "llm.input_messages.*",
            "llm.prompts",
            "langfuse.observation.input",
            "mlflow.spanInputs",
            "ai.prompt.messages",
            "ai.prompt",
            "traceloop.entity.input",
            "pydantic_ai.all_messages",
            "gen_ai.tool.call.arguments",
            "ai.toolCall.args",
            "gcp.vertex.agent.llm_request",
            "input.value",
            "event:gen_ai.content.prompt{gen_ai.prompt}",
        ]),
    Field::text("output", "Output")
        .says("What came out: messages as JSON text, or plain text, as the sender wrote it.")
        .from(&[
            "gen_ai.output.messages",
            "gen_ai.completion",
            "gen_ai.completion.*",
            "llm.output_messages.*",
            "llm.choices",
            "langfuse.observation.output",
            "mlflow.spanOutputs",
            "ai.response.text",
            "ai.response.object",
            "traceloop.entity.output",
            "gen_ai.tool.call.result",
            "ai.toolCall.result",
            "gcp.vertex.agent.llm_response",
            "output.value",
            "event:gen_ai.content.completion{gen_ai.completion}",
        ]),
    Field::text("error_type", "Error type").says("Class of the error.").from(&[
        "error.type",
        "exception.type",
        "event:exception{exception.type}",
    ]),
    Field::map("attributes", "Attributes").says(
        "Every attribute that no column above holds exactly as sent, values as JSON text: attributes without \
         a column, those that lost to a better alias, and those that were converted.",
    ),
    Field::map("resource", "Resource").says(
        "Attributes of the resource, and under `otel.scope.…` what the scope says beyond its name; values as \
         JSON text.",
    ),
    Field::text("events", "Events").says("The span's events, a JSON array; null where there are none."),
    Field::text("links", "Links").says("The span's links, a JSON array; null where there are none."),
    Field::int("dropped_attributes", "Dropped attributes")
        .required()
        .says("How many attributes the sender dropped."),
    TICK,
    MARK,
    PARTITION,
    OFFSET,
    ROW,
];
