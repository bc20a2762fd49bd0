//! What the API's address answers while the log is read again: the user interface, whose pages wait by themselves,
//! and to every question a refusal that says what is going on. Otherwise a caller would hang in an open port.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::problem::Problem;
use crate::{guard, ui};

/// The service for the time before [`crate::router`] can be built.
pub fn recovering_router() -> Router {
    Router::new().fallback(answer)
}

async fn answer(request: Request) -> Response {
    let path = request.uri().path();
    let under_api = path == "/api" || path.starts_with("/api/");
    let mut response = match path {
        "/healthz" => StatusCode::OK.into_response(),
        _ if under_api || matches!(path, "/readyz" | "/metrics") => refusal(),
        _ => ui::serve(request.method(), path, request.headers()),
    };
    guard::add_headers(response.headers_mut(), under_api);
    response
}

fn refusal() -> Response {
    let problem = Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "PF-5003",
        "the server is starting: it reads its log again",
    )
    .with_hint("nothing acknowledged is lost; it answers as soon as it has caught up");
    let mut response = problem.into_response();
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn ask(path: &str) -> Response {
        let request = Request::builder()
            .uri(path)
            .body(axum::body::Body::empty())
            .unwrap();
        answer(request).await
    }

    #[tokio::test]
    async fn questions_are_refused_with_a_reason_and_pages_are_served() {
        for path in ["/api/v1/sql", "/api/v1/live", "/readyz", "/metrics"] {
            let response = ask(path).await;
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
            assert_eq!(response.headers()["retry-after"], "2");
            assert!(response.headers().contains_key("content-security-policy"));
        }
        assert_eq!(ask("/healthz").await.status(), StatusCode::OK);
        assert_eq!(ask("/").await.status(), StatusCode::OK);
    }
}
