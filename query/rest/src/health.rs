//! Is it alive, is it ready, how is it doing.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use crate::extract::Caller;
use crate::metrics::{live_families, render};
use crate::problem::Problem;
use crate::state::{Api, Status};

#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    #[schema(example = "ok")]
    status: &'static str,
    version: &'static str,
}

/// The process is alive.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = Health)))]
pub(crate) async fn healthz() -> Json<Health> {
    Json(Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// Recovered, not lagging, the store writable: requests may be sent here.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, body = Health),
    (status = 503, description = "Not ready; the detail says why", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn readyz(State(api): State<Api>) -> Result<Json<Health>, Problem> {
    let readiness = api.engine.readiness();
    if readiness.reasons.is_empty() {
        return Ok(Json(Health {
            status: "ready",
            version: env!("CARGO_PKG_VERSION"),
        }));
    }
    Err(Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "PF-5003",
        readiness.reasons.join("; "),
    ))
}

/// Prometheus text.
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, description = "Prometheus text format", body = String, content_type = "text/plain"),
))]
pub(crate) async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    let mut families = api.metrics.families();
    families.extend(api.http.families());
    families.extend(live_families(&api.live));
    let mut page = render(families);
    api.metrics.write_text(&mut page);
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        page,
    )
}

/// How the engine is doing.
#[utoipa::path(get, path = "/api/v1/status", tag = "health", responses(
    (status = 200, body = Status),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn status(State(api): State<Api>, _caller: Caller) -> Json<Status> {
    Json(api.engine.status())
}

/// Who the caller is to this server, and where telemetry goes.
#[derive(Serialize, ToSchema)]
pub(crate) struct Who {
    /// The project that the caller sees; null: every project.
    project: Option<String>,
    /// Whether this server asks for keys: then the project is the key's.
    keys: bool,
    /// Where OTLP is listened for, as `host:port`; null where the server does not say.
    otlp_http: Option<String>,
    otlp_grpc: Option<String>,
}

/// What the caller's key or header means here, and where to send telemetry. A user interface asks this first.
#[utoipa::path(get, path = "/api/v1/caller", tag = "health", responses(
    (status = 200, body = Who),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn caller(State(api): State<Api>, Caller(scope): Caller) -> Json<Who> {
    let receivers = api.receivers.as_deref();
    Json(Who {
        project: scope.project,
        keys: api.access.keys,
        otlp_http: receivers.map(|receivers| receivers.otlp_http.to_string()),
        otlp_grpc: receivers.map(|receivers| receivers.otlp_grpc.to_string()),
    })
}
