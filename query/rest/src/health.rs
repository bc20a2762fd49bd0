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
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        render(families),
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
