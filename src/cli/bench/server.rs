//! A server as a user starts it: this binary's `serve` in a process of its own, on free ports, in a directory that is
//! removed afterwards.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

const STARTING: Duration = Duration::from_secs(30);

pub struct Server {
    child: Child,
    client: Client<HttpConnector, Full<Bytes>>,
    pub api: String,
    pub otlp_http: String,
    /// Removed with everything in it when the server is dropped.
    _directory: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> anyhow::Result<Server> {
        let directory = tempfile::Builder::new().prefix("pyflare-bench-").tempdir()?;
        let data = directory.path().join("data");
        // Another build can be measured with the same clients.
        let binary = match std::env::var_os("PYFLARE_BENCH_BINARY") {
            Some(binary) => binary.into(),
            None => std::env::current_exe()?,
        };
        let child = Command::new(binary)
            .arg("serve")
            .arg("--data-dir")
            .arg(&data)
            .args(["--listen-otlp-grpc", "127.0.0.1:0"])
            .args(["--listen-otlp-http", "127.0.0.1:0"])
            .args(["--listen-api", "127.0.0.1:0"])
            .args(["--logging-level", "warn"])
            .stdout(Stdio::null())
            .spawn()
            .context("PF-6044: the server to measure does not start")?;
        let mut server = Server {
            child,
            client: Client::builder(TokioExecutor::new()).build_http(),
            api: String::new(),
            otlp_http: String::new(),
            _directory: directory,
        };
        let endpoints = server.endpoints(&data.join("endpoints.json")).await?;
        let address = |name: &str| endpoints[name].as_str().unwrap_or_default().to_owned();
        (server.api, server.otlp_http) = (address("api"), address("otlp_http"));
        Ok(server)
    }

    async fn endpoints(&mut self, file: &Path) -> anyhow::Result<Value> {
        let begin = Instant::now();
        loop {
            if let Ok(text) = std::fs::read(file) {
                return Ok(serde_json::from_slice(&text)?);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("PF-6044: the server to measure ended: {status}; what it said is above");
            }
            ensure!(
                begin.elapsed() < STARTING,
                "PF-6044: the server to measure was not ready within {} s",
                STARTING.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Exports one OTLP request.
    pub async fn export(&self, body: Bytes) -> anyhow::Result<()> {
        let url = format!("http://{}/v1/traces", self.otlp_http);
        self.post(url, "application/x-protobuf", body).await.map(|_| ())
    }

    /// Runs a statement.
    pub async fn sql(&self, statement: &str) -> anyhow::Result<Bytes> {
        let url = format!("http://{}/api/v1/sql", self.api);
        let body = json!({ "query": statement }).to_string();
        self.post(url, "application/json", body.into()).await
    }

    async fn post(&self, url: String, content_type: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let request = Request::post(url)
            .header("content-type", content_type)
            .body(Full::new(body))?;
        let response = self.client.request(request).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        ensure!(
            status.is_success(),
            "a request was refused: HTTP {status}: {}",
            String::from_utf8_lossy(&answer)
        );
        Ok(answer)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
