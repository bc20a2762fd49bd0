//! What happens around every request: access, counting, the headers of every answer.

use std::net::SocketAddr;
use std::time::Instant;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::problem::Problem;
use crate::state::Api;

/// Lets a request through with its scope, or refuses it.
pub(crate) async fn authorize(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    match api.access.check(request.headers(), peer(request.extensions())) {
        Ok(scope) => {
            request.extensions_mut().insert(scope);
            next.run(request).await
        }
        Err(failure) => Problem::from(failure).into_response(),
    }
}

/// The caller's address, where the server was told to keep it.
pub(crate) fn peer(extensions: &axum::http::Extensions) -> Option<SocketAddr> {
    extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(peer)| *peer)
}

/// Ends requests that take too long, such as a body that never arrives whole. A WebSocket outlives its request, so it
/// is bounded by its own rules only.
pub(crate) async fn bound_time(State(api): State<Api>, request: Request, next: Next) -> Response {
    let queries = api.queries.options();
    let asks_freely = request
        .extensions()
        .get::<MatchedPath>()
        .is_some_and(|route| route.as_str() == "/api/v1/sql");
    // Only a free query may name a time limit of its own.
    let query = match asks_freely {
        true => queries.longest_timeout,
        false => queries.default_timeout,
    };
    let longest = api.limits.request_timeout.saturating_add(query);
    match tokio::time::timeout(longest, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "PF-5031",
            format!("the request took longer than {longest:?}"),
        )
        .with_hint(
            "send its whole body at once; a statement may have taken effect: look before you send it again",
        )
        .into_response(),
    }
}

/// Counts, and adds the headers that every answer carries.
pub(crate) async fn observe(State(api): State<Api>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = match request.extensions().get::<MatchedPath>() {
        Some(path) => path.as_str().to_string(),
        None if request.uri().path().starts_with("/api") => "unknown".to_string(),
        None => "ui".to_string(),
    };
    let method = known_method(request.method());
    let under_api = request.uri().path().starts_with("/api");
    let mut response = next.run(request).await;
    api.http
        .record(&route, method, response.status().as_u16(), started.elapsed());
    add_headers(response.headers_mut(), under_api);
    response
}

/// Methods are text that a client chooses: the metrics know only these.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// What every answer carries, refusals included.
pub(crate) fn add_headers(headers: &mut HeaderMap, under_api: bool) {
    let mut add = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    add(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    add(header::REFERRER_POLICY, "no-referrer");
    add(
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    );
    add(header::X_FRAME_OPTIONS, "DENY");
    // Text out of traces is shown by browsers too: nothing in an answer of the API may run.
    add(
        header::CONTENT_SECURITY_POLICY,
        if under_api {
            "default-src 'none'; frame-ancestors 'none'"
        } else {
            crate::ui::CONTENT_POLICY
        },
    );
    if under_api {
        add(header::CACHE_CONTROL, "no-store");
    }
}
