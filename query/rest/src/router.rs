//! Every route once; the OpenAPI document is generated from the handlers.

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::problem::Problem;
use crate::state::Api;
use crate::{erasures, fields, guard, health, live, monitors, sql, streams, traces, ui, views};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "PyFlare",
        description = "Live, exact views over OpenTelemetry data: monitors, their views, ad-hoc SQL and traces. \
            Refusals are application/problem+json with a stable code.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(Problem)),
    tags(
        (name = "views", description = "Maintained views and the columns of the streams"),
        (name = "monitors", description = "Standing queries"),
        (name = "streams", description = "Streams that users declare, and their rows"),
        (name = "erasures", description = "Rows taken back from views and history"),
        (name = "sql", description = "Ad-hoc queries and statements"),
        (name = "traces", description = "Traces and their spans"),
        (name = "live", description = "Subscriptions over a WebSocket"),
        (name = "health", description = "Health, metrics, status"),
    ),
)]
struct Document;

/// Routes that need a caller, and those that anybody may ask.
fn routes() -> (OpenApiRouter<Api>, OpenApiRouter<Api>) {
    let guarded = OpenApiRouter::new()
        .routes(routes!(views::list))
        .routes(routes!(views::read))
        .routes(routes!(monitors::list, monitors::create))
        .routes(routes!(monitors::read, monitors::remove))
        .routes(routes!(monitors::explain))
        .routes(routes!(monitors::explain_one))
        .routes(routes!(streams::list))
        .routes(routes!(streams::read, streams::append, streams::remove))
        .routes(routes!(erasures::list, erasures::create))
        .routes(routes!(erasures::read))
        .routes(routes!(sql::run))
        .routes(routes!(traces::list))
        .routes(routes!(traces::read))
        .routes(routes!(fields::list))
        .routes(routes!(health::status))
        .routes(routes!(health::caller));
    let open = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        // Checks its caller itself, because browsers cannot set headers on a WebSocket.
        .routes(routes!(live::live));
    (guarded, open)
}

/// The OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (guarded, open) = routes();
    open.merge(guarded).into_openapi()
}

/// The service for the API's address. Serve it with the peers' addresses
/// (`into_make_service_with_connect_info::<SocketAddr>()`), which the access rule wants to know.
pub fn router(api: Api) -> Router {
    let document = openapi();
    let (guarded, open) = routes();
    let guarded = Router::from(guarded).route_layer(from_fn_with_state(api.clone(), guard::authorize));
    let limit = api.limits.body_bytes;
    Router::from(open)
        .merge(guarded)
        .route("/api/openapi.json", get(move || async move { Json(document) }))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(limit))
        .layer(from_fn_with_state(api.clone(), guard::bound_time))
        .layer(from_fn(bounded_address))
        .layer(from_fn_with_state(api.clone(), guard::observe))
        .with_state(api)
}

async fn wrong_method(request: Request) -> Response {
    let shown: String = request.method().as_str().chars().take(20).collect();
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "PF-5002",
        format!("this route does not answer to {shown}; the header Allow says what it answers to"),
    )
    .into_response()
}

/// What no route matched: a page of the UI, or nothing.
async fn unknown(request: Request) -> Response {
    let path = request.uri().path();
    if path == "/api" || path.starts_with("/api/") {
        return Problem::new(StatusCode::NOT_FOUND, "PF-5001", "there is no such route")
            .with_hint("GET /api/openapi.json lists them")
            .into_response();
    }
    ui::serve(request.method(), path, request.headers())
}

/// Nobody needs longer addresses, and error messages repeat parts of them.
async fn bounded_address(request: Request, next: axum::middleware::Next) -> Response {
    const LONGEST: usize = 16 * 1024;
    let length = request
        .uri()
        .path_and_query()
        .map_or(0, |text| text.as_str().len());
    if length > LONGEST {
        return Problem::new(
            StatusCode::URI_TOO_LONG,
            "PF-5029",
            format!("the address has more than {LONGEST} bytes"),
        )
        .into_response();
    }
    next.run(request).await
}
