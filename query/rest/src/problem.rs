//! Refusals: RFC 9457 problem documents with a stable code.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pyflare_history::QueryError;
use pyflare_live::{Failure, FailureKind, Position};
use serde::Serialize;
use utoipa::ToSchema;

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Problem {
    /// Names the kind of problem: `urn:pyflare:problem:PF-5013`.
    #[serde(rename = "type")]
    pub problem_type: String,
    /// What kind of problem it is, in a few words.
    pub title: String,
    /// The HTTP status, repeated.
    pub status: u16,
    /// What is wrong with this request.
    pub detail: String,
    /// Stable: programs may match on it.
    #[schema(example = "PF-5013")]
    pub code: String,
    /// What would work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Where in the statement or body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<TextPosition>)]
    pub position: Option<Position>,
}

/// A place in a text; both numbers count from 1.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "describes Position in the OpenAPI document")]
pub(crate) struct TextPosition {
    line: u64,
    column: u64,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Problem {
        Problem {
            problem_type: format!("urn:pyflare:problem:{code}"),
            title: status.canonical_reason().unwrap_or("Refused").to_string(),
            status: status.as_u16(),
            detail: detail.into(),
            code: code.to_string(),
            hint: None,
            position: None,
        }
    }

    pub(crate) fn bad_request(code: &str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn at(mut self, position: Option<Position>) -> Problem {
        self.position = position;
        self
    }

    /// Something that cannot happen happened; the log has the detail.
    pub(crate) fn internal(detail: &dyn std::fmt::Display) -> Problem {
        tracing::error!(%detail, "a request failed inside the server");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "PF-5024",
            "the server failed on this request; its log says more, please report it",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let kind = HeaderValue::from_static("application/problem+json");
        let mut response = (status, [(header::CONTENT_TYPE, kind)], body).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Problem {
        let status = match failure.kind {
            FailureKind::Invalid => StatusCode::BAD_REQUEST,
            FailureKind::Unauthorized => StatusCode::UNAUTHORIZED,
            FailureKind::Forbidden => StatusCode::FORBIDDEN,
            FailureKind::NotFound => StatusCode::NOT_FOUND,
            FailureKind::Conflict => StatusCode::CONFLICT,
            FailureKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            FailureKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            FailureKind::Busy | FailureKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            FailureKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let problem = Problem::new(status, &failure.code, failure.message).at(failure.position);
        Problem {
            hint: failure.hint,
            ..problem
        }
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Problem {
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let position = error.position.map(|place| Position {
            line: place.line,
            column: place.column,
        });
        let problem = Problem::new(status, error.code(), error.message.clone()).at(position);
        Problem {
            hint: error.hint,
            ..problem
        }
    }
}
