//! Requests, read strictly: what is not understood is refused with a code, never ignored.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use pyflare_live::{Position, Scope};
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// Who asks; put there by the guard.
pub(crate) struct Caller(pub Scope);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Caller, Problem> {
        match parts.extensions.get::<Scope>() {
            Some(scope) => Ok(Caller(scope.clone())),
            None => Err(Problem::internal(&"a route without a guard")),
        }
    }
}

/// A JSON body.
pub(crate) struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Problem> {
        // A page can make a browser send text/plain to us without asking; JSON it cannot.
        let kind = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("");
        let essence = kind.split(';').next().unwrap_or("").trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "PF-5006",
                "the body must be JSON; send the header Content-Type: application/json",
            ));
        }
        let body = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                return too_large();
            }
            Problem::bad_request("PF-5004", "the body broke off before its end; send it again")
        })?;
        let value = serde_json::from_slice(&body).map_err(|error| {
            let text = error.to_string();
            let place = (error.line() > 0).then(|| Position {
                line: error.line() as u64,
                column: error.column().max(1) as u64,
            });
            let plain = text
                .rsplit_once(" at line ")
                .map_or(text.as_str(), |(plain, _)| plain);
            let plain: String = plain.chars().take(300).collect();
            Problem::bad_request(
                "PF-5004",
                format!("the body is not what this route takes: {plain}"),
            )
            .at(place)
        })?;
        Ok(Body(value))
    }
}

pub(crate) fn too_large() -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "PF-5005",
        "the body is larger than the limit of this server",
    )
    .with_hint("send one statement or one monitor at a time; telemetry goes to the OTLP receivers")
}

/// The parameters after `?`; unknown ones are refused, because a misspelt filter that is ignored shows wrong rows.
pub(crate) struct Parameters<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Parameters<T>, Problem> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Parameters(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                let plain = text
                    .strip_prefix("Failed to deserialize query string: ")
                    .unwrap_or(&text);
                let plain: String = plain.chars().take(300).collect();
                Err(Problem::bad_request(
                    "PF-5008",
                    format!("a parameter is not understood: {plain}"),
                ))
            }
        }
    }
}

/// The last part of the path.
pub(crate) struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Name, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Name(name)),
            Err(_) => Err(Problem::bad_request(
                "PF-5008",
                "the name in the path is not UTF-8",
            )),
        }
    }
}
