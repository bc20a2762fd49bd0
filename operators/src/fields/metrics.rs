//! The stream `metrics`: one row per data point.
//!
//! A number point fills `value` (and `value_int` where it was sent as an integer); a histogram fills
//! `count`, `sum`, `min`, `max` and `buckets`; a summary `count`, `sum` and `quantiles`.
use super::{Field, FieldType, MARK, OFFSET, PARTITION, ROW, TICK};

/// The declared fields of the stream `metrics`.
pub const METRICS: &[Field] = &[
    Field::text("project", "Project")
        .required()
        .says("The tenant the row belongs to."),
    Field::text("metric_name", "Metric")
        .required()
        .says("Name of the metric."),
    Field::text("metric_type", "Type")
        .required()
        .says("`gauge`, `sum`, `histogram`, `exponential_histogram` or `summary`."),
    Field::text("unit", "Unit").says("Unit of the metric."),
    Field::text("description", "Description").says("What the sender says about the metric."),
    Field::text("temporality", "Temporality")
        .says("`delta` or `cumulative`; null where the type has none or says nothing."),
    Field::new("is_monotonic", FieldType::Bool, "Monotonic")
        .says("Whether a sum only grows; null for other types."),
    Field::text("service_name", "Service")
        .says("The service that sent the point.")
        .from(&["resource:service.name"]),
    Field::text("service_version", "Service version")
        .says("Version or release of the service.")
        .from(&["resource:service.version", "resource:langfuse.release"]),
    Field::text("environment", "Environment")
        .says("Deployment environment.")
        .from(&[
            "deployment.environment.name",
            "deployment.environment",
            "resource:deployment.environment.name",
            "resource:deployment.environment",
            "resource:langfuse.environment",
        ]),
    Field::text("scope_name", "Scope").says("Name of the instrumentation scope."),
    Field::time("event_time", "Time")
        .required()
        .says("The point's own time, else the time received; never beyond the tick."),
    Field::time("time", "Point time").says("The point's own time; null where it is zero."),
    Field::time("start_time", "Start").says("Since when the point counts; null where it is zero."),
    Field::int("time_unix_nano", "Time (ns)")
        .required()
        .unit("ns")
        .says("The point's own time in nanoseconds since 1970, as sent; times after 2262-04-11 saturate."),
    Field::float("value", "Value").says("Value of a gauge or sum."),
    Field::int("value_int", "Integer value").says("The same, exactly, where it was sent as an integer."),
    Field::int("count", "Count").says("How many measurements a histogram or summary holds."),
    Field::float("sum", "Sum").says("Sum of the measurements of a histogram or summary."),
    Field::float("min", "Minimum").says("Least measurement of a histogram."),
    Field::float("max", "Maximum").says("Greatest measurement of a histogram."),
    Field::text("buckets", "Buckets").says(
        "Buckets of a histogram as JSON text: `{\"bounds\": […], \"counts\": […]}`, or `{\"scale\", \
         \"zero_count\", \"zero_threshold\", \"positive\": {\"offset\", \"counts\"}, \"negative\": …}`.",
    ),
    Field::text("quantiles", "Quantiles")
        .says("Quantiles of a summary as JSON text: `[{\"quantile\", \"value\"}, …]`."),
    Field::text("operation", "Operation")
        .says("The GenAI operation.")
        .from(&["gen_ai.operation.name"]),
    Field::text("provider", "Provider")
        .says("Provider of the model.")
        .from(&["gen_ai.provider.name", "gen_ai.system"]),
    Field::text("model", "Model").says("The model.").from(&[
        "gen_ai.response.model",
        "gen_ai.request.model",
        "pyflare.ml.model.name",
    ]),
    Field::text("token_type", "Token type")
        .says("Which tokens a token metric counts.")
        .from(&["gen_ai.token.type"]),
    Field::text("error_type", "Error type")
        .says("Class of the error.")
        .from(&["error.type"]),
    Field::map("attributes", "Attributes")
        .says("Every attribute that no column above holds exactly as sent, values as JSON text."),
    Field::map("resource", "Resource").says(
        "Attributes of the resource, and under `otel.scope.…` what the scope says beyond its name; values as \
         JSON text.",
    ),
    Field::text("exemplars", "Exemplars").says("Exemplars, a JSON array; null where there are none."),
    Field::int("flags", "Flags")
        .required()
        .says("Flags of the point; bit 0 says that no value was recorded."),
    TICK,
    MARK,
    PARTITION,
    OFFSET,
    ROW,
];
