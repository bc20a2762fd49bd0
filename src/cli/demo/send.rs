//! An OTLP exporter for traces over gRPC or HTTP, with retries as the OTLP specification asks for.
//!
//! Invariants: a request is repeated only after an answer that allows it or after no answer at all, byte for byte
//! the same (so that the server counts it once); the wait grows up to ten seconds and honours `Retry-After`.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

const LONGEST_WAIT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the first request waits for a server that is just starting.
const WAIT_FOR_SERVER: Duration = Duration::from_secs(5);
/// A request that was refused so often is given up; fresh traffic goes on.
const ATTEMPTS: u32 = 8;

/// Where to send.
pub enum Target {
    Http(String),
    Grpc(String),
}

/// What became of a request.
pub enum Outcome {
    /// The server has it, except for so many spans.
    Accepted { rejected: u64 },
    /// The server was asked often enough and would not take it.
    GivenUp,
}

/// One answer.
enum Answer {
    Accepted {
        rejected: u64,
    },
    /// Not now; perhaps the server said when.
    Later {
        after: Option<Duration>,
        reason: String,
    },
    /// Nobody listens there.
    Absent {
        reason: String,
    },
    Refused {
        reason: String,
    },
}

enum Wire {
    Http {
        client: Client<HttpConnector, Full<Bytes>>,
        url: String,
    },
    Grpc(TraceServiceClient<Channel>),
}

pub struct Exporter {
    wire: Wire,
    target: String,
    project: Option<MetadataValue<Ascii>>,
    authorization: Option<MetadataValue<Ascii>>,
}

impl Exporter {
    /// Connects when the first request is sent.
    pub fn new(target: Target, project: Option<&str>, key: Option<&str>) -> anyhow::Result<Exporter> {
        let (wire, target) = match target {
            Target::Http(endpoint) => {
                let base = endpoint.trim_end_matches('/');
                let url = if base.ends_with("/v1/traces") {
                    base.to_owned()
                } else {
                    format!("{base}/v1/traces")
                };
                let uri: hyper::Uri = url
                    .parse()
                    .with_context(|| format!("PF-6031: the endpoint {endpoint:?} is not a URL"))?;
                if uri.scheme_str() != Some("http") {
                    bail!(
                        "PF-6031: the endpoint {endpoint:?} is not an http:// URL, such as http://127.0.0.1:4318"
                    );
                }
                let wire = Wire::Http {
                    client: Client::builder(TokioExecutor::new()).build_http(),
                    url,
                };
                (wire, format!("{endpoint} (OTLP/HTTP)"))
            }
            Target::Grpc(endpoint) => {
                let channel = Endpoint::from_shared(endpoint.clone())
                    .with_context(|| format!("PF-6031: the endpoint {endpoint:?} is not a URL"))?
                    .connect_timeout(Duration::from_secs(3))
                    .connect_lazy();
                (
                    Wire::Grpc(TraceServiceClient::new(channel)),
                    format!("{endpoint} (OTLP/gRPC)"),
                )
            }
        };
        let header = |text: String| {
            MetadataValue::try_from(text)
                .context("PF-6032: the project or the key holds characters that no header may")
        };
        Ok(Exporter {
            wire,
            target,
            project: project.map(str::to_owned).map(header).transpose()?,
            authorization: key.map(|key| header(format!("Bearer {key}"))).transpose()?,
        })
    }

    pub fn target(&self) -> &str {
        &self.target
    }

    /// Sends a request until it is accepted, given up or can never be accepted. The `first` one fails if no server
    /// comes up within a few seconds: then there is none, rather than one that restarts.
    pub async fn send(&mut self, request: ExportTraceServiceRequest, first: bool) -> anyhow::Result<Outcome> {
        let mut wait = Duration::from_millis(250);
        let mut attempt = 0;
        let begin = std::time::Instant::now();
        loop {
            attempt += 1;
            let (after, reason) = match self.attempt(&request).await {
                Answer::Accepted { rejected } => return Ok(Outcome::Accepted { rejected }),
                Answer::Refused { reason } => bail!("PF-6033: {} refuses the traffic: {reason}", self.target),
                Answer::Later { after, reason } => (after, format!("{} asks to wait: {reason}", self.target)),
                Answer::Absent { reason } => {
                    let reason = format!(
                        "nobody answers at {} ({reason}); start the server with `pyflare serve`",
                        self.target
                    );
                    if first && begin.elapsed() >= WAIT_FOR_SERVER {
                        bail!("PF-6034: {reason}, or name another one with --endpoint");
                    }
                    (None, reason)
                }
            };
            if attempt >= ATTEMPTS {
                eprintln!("{reason}; giving this batch up");
                return Ok(Outcome::GivenUp);
            }
            let pause = after.unwrap_or(wait).min(LONGEST_WAIT);
            eprintln!("{reason}; next try in {:.1} s", pause.as_secs_f64());
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn attempt(&mut self, request: &ExportTraceServiceRequest) -> Answer {
        let answer = match &mut self.wire {
            Wire::Grpc(client) => {
                let mut message = tonic::Request::new(request.clone());
                for (name, value) in [
                    ("x-pyflare-project", &self.project),
                    ("authorization", &self.authorization),
                ] {
                    if let Some(value) = value {
                        message.metadata_mut().insert(name, value.clone());
                    }
                }
                tokio::time::timeout(REQUEST_TIMEOUT, client.export(message))
                    .await
                    .map(|answer| match answer {
                        Ok(response) => accepted(response.get_ref()),
                        Err(status) => of_status(&status),
                    })
            }
            Wire::Http { client, url } => {
                let mut message =
                    Request::post(url.as_str()).header("content-type", "application/x-protobuf");
                if let Some(project) = &self.project {
                    message = message.header("x-pyflare-project", project.as_bytes());
                }
                if let Some(authorization) = &self.authorization {
                    message = message.header("authorization", authorization.as_bytes());
                }
                let message = match message.body(Full::new(Bytes::from(request.encode_to_vec()))) {
                    Ok(message) => message,
                    Err(error) => {
                        return Answer::Refused {
                            reason: error.to_string(),
                        };
                    }
                };
                tokio::time::timeout(REQUEST_TIMEOUT, post(client, message)).await
            }
        };
        answer.unwrap_or_else(|_| Answer::Later {
            after: None,
            reason: format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()),
        })
    }
}

async fn post(client: &Client<HttpConnector, Full<Bytes>>, message: Request<Full<Bytes>>) -> Answer {
    let response = match client.request(message).await {
        Ok(response) => response,
        Err(error) => {
            return Answer::Absent {
                reason: innermost(&error),
            };
        }
    };
    let status = response.status();
    let after = response
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let body = match response.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return Answer::Later {
                after,
                reason: error.to_string(),
            };
        }
    };
    if status.is_success() {
        // A server that answers 200 with another body is taken at its word.
        return ExportTraceServiceResponse::decode(body)
            .map_or(Answer::Accepted { rejected: 0 }, |body| accepted(&body));
    }
    let text: String = String::from_utf8_lossy(&body)
        .chars()
        .filter(|character| !character.is_control())
        .take(300)
        .collect();
    let reason = format!("HTTP {} {text}", status.as_u16());
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Answer::Later { after, reason },
        _ => Answer::Refused { reason },
    }
}

fn accepted(response: &ExportTraceServiceResponse) -> Answer {
    let rejected = response
        .partial_success
        .as_ref()
        .map_or(0, |partial| partial.rejected_spans.max(0) as u64);
    Answer::Accepted { rejected }
}

fn of_status(status: &tonic::Status) -> Answer {
    use tonic::Code;
    let reason = format!("{:?}: {}", status.code(), status.message());
    let connect = std::error::Error::source(status).is_some();
    match status.code() {
        Code::Unavailable if connect => Answer::Absent {
            reason: innermost(status),
        },
        Code::Unavailable
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::OutOfRange
        | Code::DataLoss => Answer::Later { after: None, reason },
        _ => Answer::Refused { reason },
    }
}

/// The cause at the bottom, such as "Connection refused".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
