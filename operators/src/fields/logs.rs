//! The stream `logs`: one row per log record or event.
use super::{Field, FieldType, MARK, OFFSET, PARTITION, ROW, TICK};

/// The declared fields of the stream `logs`.
pub const LOGS: &[Field] = &[
    Field::text("project", "Project").required().says("The tenant the row belongs to."),
    Field::text("trace_id", "Trace").says("Trace id, 32 lowercase hexadecimal digits; null without a trace."),
    Field::text("span_id", "Span").says("Span id, 16 lowercase hexadecimal digits; null without a span."),
    Field::text("event_name", "Event").says("Name of the event, if the record is one.").from(&["event.name"]),
    Field::text("severity", "Severity").required().says(
        "`trace`, `debug`, `info`, `warn`, `error` or `fatal`, from the number; `unspecified` where it says nothing.",
    ),
    Field::new("severity_number", FieldType::Int32, "Severity number")
        .required()
        .says("Severity as a number, as sent."),
    Field::text("severity_text", "Severity text").says("Severity in the sender's words."),
    Field::text("service_name", "Service").says("The service that sent the record.").from(&["resource:service.name"]),
    Field::text("service_version", "Service version")
        .says("Version or release of the service.")
        .from(&["resource:service.version", "resource:langfuse.release"]),
    Field::text("environment", "Environment").says("Deployment environment.").from(&[
        "deployment.environment.name",
        "deployment.environment",
        "resource:deployment.environment.name",
        "resource:deployment.environment",
        "resource:langfuse.environment",
    ]),
    Field::text("scope_name", "Scope").says("Name of the instrumentation scope."),
    Field::time("event_time", "Time").required().says(
        "The record's own time, else the time it was observed, else the time received; never beyond the tick.",
    ),
    Field::time("time", "Record time").says("The record's own time; null where it is zero."),
    Field::time("observed_time", "Observed").says("When it was observed; null where it is zero."),
    Field::int("time_unix_nano", "Time (ns)")
        .required()
        .unit("ns")
        .says("The record's own time in nanoseconds since 1970, as sent; times after 2262-04-11 saturate."),
    Field::text("body", "Body").says("The body: text as it is, anything else as JSON text."),
    Field::text("operation", "Operation").says("The GenAI operation.").from(&["gen_ai.operation.name"]),
    Field::text("provider", "Provider").says("Provider of the model.").from(&["gen_ai.provider.name", "gen_ai.system"]),
    Field::text("model", "Model").says("The model.").from(&[
        "gen_ai.response.model",
        "gen_ai.request.model",
        "pyflare.ml.model.name",
    ]),
    Field::text("user_id", "User").says("The end user.").from(&["user.id", "enduser.id"]),
    Field::text("session_id", "Session").says("The conversation or session.").from(&[
        "gen_ai.conversation.id",
        "session.id",
    ]),
    Field::text("error_type", "Error type").says("Class of the error.").from(&["error.type", "exception.type"]),
    Field::map("attributes", "Attributes")
        .says("Every attribute that no column above holds exactly as sent, values as JSON text."),
    Field::map("resource", "Resource").says(
        "Attributes of the resource, and under `otel.scope.…` what the scope says beyond its name; values as \
         JSON text.",
    ),
    Field::int("dropped_attributes", "Dropped attributes")
        .required()
        .says("How many attributes the sender dropped."),
    TICK,
    MARK,
    PARTITION,
    OFFSET,
    ROW,
];
