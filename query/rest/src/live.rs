//! `/api/v1/live`: the way into a WebSocket. What is said on it is `pyflare-live`'s.

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::extract::Parameters;
use crate::guard::peer;
use crate::problem::Problem;
use crate::state::Api;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LiveParameters {
    /// Stands for the header `x-pyflare-project`, which browsers cannot set on a WebSocket.
    project: Option<String>,
}

/// Subscriptions to views over a WebSocket, JSON both ways.
#[utoipa::path(get, path = "/api/v1/live", tag = "live", params(LiveParameters), responses(
    (status = 101, description = "The connection is a WebSocket now"),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn live(
    State(api): State<Api>,
    Parameters(asked): Parameters<LiveParameters>,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, _body) = request.into_parts();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &api).await {
        Ok(upgrade) => upgrade,
        Err(_) => {
            let mut response = Problem::new(
                StatusCode::UPGRADE_REQUIRED,
                "PF-5025",
                "this address speaks WebSocket; connect to it with ws:// instead of http://",
            )
            .into_response();
            response
                .headers_mut()
                .insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            return Ok(response);
        }
    };
    let peer = peer(&parts.extensions);
    pyflare_live::upgrade(
        &api.live,
        &api.access,
        &parts.headers,
        peer,
        asked.project.as_deref(),
        upgrade,
    )
    .map_err(|error| Problem::from(error.0))
}
