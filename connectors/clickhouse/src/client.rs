//! ClickHouse over HTTP: statements, blocks in, rows out, both as Arrow streams.
//!
//! A statement has succeeded only when the server says so after it is done (`wait_end_of_query`), and rows are complete
//! only when the stream says that it ends: a server that dies or fails halfway is an error, never a short answer. The
//! password goes into a header and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::ipc::reader::StreamDecoder;
use base64::Engine;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use pyflare_connectors::StoreError;

use crate::address::Address;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A block of a flush takes a second; a statement that takes this long hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// Shorter than the time after which ClickHouse closes a connection itself, perhaps while a request is on its way.
const IDLE: Duration = Duration::from_secs(3);
const LONGEST_DETAIL: usize = 600;

/// Codes of ClickHouse's `ErrorCodes`.
mod code {
    pub const UNKNOWN_TABLE: &str = "60";
    pub const UNKNOWN_USER: &str = "192";
    pub const WRONG_PASSWORD: &str = "193";
    pub const REQUIRED_PASSWORD: &str = "194";
    pub const IP_NOT_ALLOWED: &str = "195";
    pub const DATABASE_ACCESS_DENIED: &str = "291";
    pub const ACCESS_DENIED: &str = "497";
    pub const AUTHENTICATION_FAILED: &str = "516";
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Settings of one statement.
pub type Settings<'a> = &'a [(&'a str, &'a str)];

/// A server and the connections to it.
pub struct Client {
    pub address: Address,
    authorization: HeaderValue,
    http: HttpClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(formatter)
    }
}

impl Client {
    /// Over TLS it trusts the authorities that this machine trusts, or those in `SSL_CERT_FILE`.
    pub fn new(address: Address) -> Result<Client, StoreError> {
        let mut plain = HttpConnector::new();
        plain.set_connect_timeout(Some(CONNECT_WITHIN));
        plain.set_nodelay(true);
        plain.enforce_http(false);
        let connector = match address.is_secure {
            // No list of authorities is read that nobody asks.
            false => {
                let nobody = rustls::ClientConfig::builder_with_provider(provider())
                    .with_safe_default_protocol_versions()
                    .expect("invariant: the provider has the default versions")
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth();
                HttpsConnectorBuilder::new().with_tls_config(nobody)
            }
            true => HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(provider())
                .map_err(|error| StoreError::Unreachable {
                    address: address.server(),
                    detail: format!(
                        "there is no list of trusted authorities on this machine ({error}); set SSL_CERT_FILE"
                    ),
                })?,
        };
        let connector = connector.https_or_http().enable_http1().wrap_connector(plain);
        let credentials = format!("{}:{}", address.user, address.password());
        let credentials = base64::engine::general_purpose::STANDARD.encode(credentials);
        let mut authorization = HeaderValue::from_str(&format!("Basic {credentials}"))
            .expect("invariant: base64 is made of characters that a header may have");
        authorization.set_sensitive(true);
        Ok(Client {
            address,
            authorization,
            http: HttpClient::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .build(connector),
        })
    }

    /// Runs a statement that returns nothing.
    pub async fn execute(&self, table: &str, sql: &str) -> Result<(), StoreError> {
        self.text(table, sql).await.map(|_| ())
    }

    /// Runs a statement; its rows as text, a line each, columns separated by tabs and escaped.
    pub async fn text(&self, table: &str, sql: &str) -> Result<String, StoreError> {
        let body = Bytes::copy_from_slice(sql.as_bytes());
        let answer = self.send(table, None, body, &[("wait_end_of_query", "1")]);
        let answer = tokio::time::timeout(ANSWER_WITHIN, async {
            let answer = answer.await?;
            let body = answer.into_body().collect().await;
            body.map_err(|error| self.unreachable(error))
        });
        let body = answer.await.map_err(|_| self.silent())??.to_bytes();
        String::from_utf8(body.into()).map_err(|error| failure(table, error))
    }

    /// The first column of the first row as a number; `None` for NULL or no row.
    pub async fn number(&self, table: &str, sql: &str) -> Result<Option<u64>, StoreError> {
        let text = self.text(table, sql).await?;
        match text.trim() {
            "" | "\\N" => Ok(None),
            number => number
                .parse()
                .map(Some)
                .map_err(|_| failure(table, format!("{number:?} is no number"))),
        }
    }

    /// Inserts an Arrow stream; returns once the server has committed it.
    pub async fn insert(
        &self,
        table: &str,
        statement: &str,
        stream: Vec<u8>,
        settings: Settings<'_>,
    ) -> Result<(), StoreError> {
        let mut settings = settings.to_vec();
        settings.push(("wait_end_of_query", "1"));
        let inserted = tokio::time::timeout(ANSWER_WITHIN, async {
            let answer = self
                .send(table, Some(statement), Bytes::from(stream), &settings)
                .await?;
            let body = answer.into_body().collect().await;
            body.map_err(|error| self.unreachable(error)).map(|_| ())
        });
        inserted.await.map_err(|_| self.silent())?
    }

    /// Rows of a query, as they come.
    pub async fn select(&self, table: &str, sql: &str, settings: Settings<'_>) -> Result<Rows, StoreError> {
        let mut all = vec![
            ("default_format", "ArrowStream"),
            // Between two programs that talk over a socket, compressing batches costs more than it saves.
            ("output_format_arrow_compression_method", "none"),
            // A limit in the user's profile must be an error, never a short answer.
            ("result_overflow_mode", "throw"),
            ("read_overflow_mode", "throw"),
            ("group_by_overflow_mode", "throw"),
            ("sort_overflow_mode", "throw"),
            ("timeout_overflow_mode", "throw"),
            ("cancel_http_readonly_queries_on_client_close", "1"),
        ];
        all.extend_from_slice(settings);
        let body = Bytes::copy_from_slice(sql.as_bytes());
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.send(table, None, body, &all));
        let answer = answer.await.map_err(|_| self.silent())??;
        Ok(Rows {
            table: table.to_owned(),
            server: self.address.server(),
            body: answer.into_body(),
            decoder: StreamDecoder::new(),
            pending: Buffer::from(Vec::<u8>::new()),
            seen: Vec::new(),
            ended: false,
        })
    }

    async fn send(
        &self,
        table: &str,
        statement: Option<&str>,
        body: Bytes,
        settings: Settings<'_>,
    ) -> Result<Response<Incoming>, StoreError> {
        let query = {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(settings);
            query.extend_pairs(statement.map(|statement| ("query", statement)));
            query.finish()
        };
        let scheme = if self.address.is_secure { "https" } else { "http" };
        let uri = format!("{scheme}://{}/?{query}", self.address.server());
        let mut request = Request::post(uri).header(AUTHORIZATION, self.authorization.clone());
        let mut body = body;
        if statement.is_some() && !self.address.is_local() {
            body = zstd::bulk::compress(&body, 1)
                .map_err(|error| failure(table, error))?
                .into();
            request = request.header(CONTENT_ENCODING, "zstd");
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| failure(table, error))?;
        let answer = self.http.request(request).await;
        let answer = answer.map_err(|error| self.unreachable(error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let exception = answer.headers().get("x-clickhouse-exception-code");
        let exception = exception
            .and_then(|code| code.to_str().ok())
            .unwrap_or("")
            .to_owned();
        let detail = match answer.into_body().collect().await {
            Ok(body) => shortened(&String::from_utf8_lossy(&body.to_bytes())),
            Err(error) => error.to_string(),
        };
        Err(match exception.as_str() {
            code::UNKNOWN_TABLE => StoreError::Missing {
                table: table.to_owned(),
            },
            code::UNKNOWN_USER
            | code::WRONG_PASSWORD
            | code::REQUIRED_PASSWORD
            | code::IP_NOT_ALLOWED
            | code::DATABASE_ACCESS_DENIED
            | code::ACCESS_DENIED
            | code::AUTHENTICATION_FAILED => StoreError::Refused {
                address: self.address.server(),
                user: self.address.user.clone(),
                detail,
            },
            _ => failure(table, format!("ClickHouse answers {status}: {detail}")),
        })
    }

    fn unreachable(&self, error: impl std::error::Error) -> StoreError {
        // The cause says what happened ("connection refused"), the error itself only where.
        let mut detail = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            detail = error.to_string();
            cause = error.source();
        }
        StoreError::Unreachable {
            address: self.address.server(),
            detail,
        }
    }

    fn silent(&self) -> StoreError {
        StoreError::Unreachable {
            address: self.address.server(),
            detail: format!("no answer within {} s", ANSWER_WITHIN.as_secs()),
        }
    }
}

/// The rows of a query.
pub struct Rows {
    table: String,
    server: String,
    body: Incoming,
    decoder: StreamDecoder,
    pending: Buffer,
    /// The newest bytes: where a failing server writes why.
    seen: Vec<u8>,
    ended: bool,
}

impl Rows {
    /// The next batch; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, StoreError> {
        loop {
            while !self.pending.is_empty() {
                match self.decoder.decode(&mut self.pending) {
                    Ok(Some(batch)) if batch.num_rows() > 0 => return Ok(Some(batch)),
                    Ok(_) => {}
                    Err(error) => return Err(self.broken(error)),
                }
            }
            if self.ended {
                return match self.decoder.finish() {
                    Ok(()) => Ok(None),
                    Err(error) => Err(self.broken(error)),
                };
            }
            match tokio::time::timeout(ANSWER_WITHIN, self.body.frame()).await {
                Err(_) => {
                    return Err(StoreError::Unreachable {
                        address: self.server.clone(),
                        detail: format!("no answer within {} s", ANSWER_WITHIN.as_secs()),
                    });
                }
                Ok(None) => self.ended = true,
                Ok(Some(Err(error))) => return Err(self.broken(error)),
                Ok(Some(Ok(frame))) => {
                    let Ok(bytes) = frame.into_data() else { continue };
                    self.remember(&bytes);
                    self.pending = Buffer::from(bytes);
                }
            }
        }
    }

    fn remember(&mut self, bytes: &[u8]) {
        const REMEMBERED: usize = 4096;
        let start = bytes.len().saturating_sub(REMEMBERED);
        self.seen.extend_from_slice(&bytes[start..]);
        let excess = self.seen.len().saturating_sub(REMEMBERED);
        self.seen.drain(..excess);
    }

    fn broken(&self, error: impl std::fmt::Display) -> StoreError {
        let text = String::from_utf8_lossy(&self.seen);
        let detail = match text.rfind("Code: ") {
            Some(at) => shortened(&text[at..]),
            None => format!("the rows end too early: {error}"),
        };
        failure(&self.table, detail)
    }
}

fn shortened(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(LONGEST_DETAIL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

pub fn failure(table: &str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Io {
        table: table.to_owned(),
        detail: error.to_string(),
    }
}
