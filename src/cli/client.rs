//! Commands that talk to a running server: `tail`, `sql`, `monitor`.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// Which server to talk to.
#[derive(Debug, Clone, Args)]
pub struct Server {
    /// The server's API
    #[arg(
        long,
        env = "PYFLARE_API",
        default_value = "http://127.0.0.1:4319",
        hide_env_values = true
    )]
    api: String,
    /// A key, if the server wants one
    #[arg(long, env = "PYFLARE_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Only this project
    #[arg(long)]
    project: Option<String>,
}

#[derive(Debug, Args)]
pub struct TailArgs {
    /// The view, such as requests
    view: String,
    #[command(flatten)]
    server: Server,
    /// Only what changes from now on, without what is there already
    #[arg(long)]
    no_snapshot: bool,
    /// Stop after so many frames
    #[arg(long)]
    frames: Option<usize>,
}

#[derive(Debug, Args)]
pub struct SqlArgs {
    /// The statement, such as "SELECT * FROM live.requests"
    query: String,
    #[command(flatten)]
    server: Server,
    /// table, json or csv
    #[arg(long, default_value = "table", value_parser = ["table", "json", "csv"])]
    format: String,
    /// Most rows
    #[arg(long)]
    limit: Option<usize>,
}

#[derive(Debug, Args)]
pub struct MonitorArgs {
    #[command(subcommand)]
    action: MonitorAction,
}

#[derive(Debug, Subcommand)]
enum MonitorAction {
    /// List all monitors
    List {
        #[command(flatten)]
        server: Server,
    },
    /// Create one from a statement: CREATE MONITOR name AS SELECT …
    Create {
        sql: String,
        #[command(flatten)]
        server: Server,
    },
    /// Say how a monitor is (or would be) computed and what it keeps
    Explain {
        /// A name or a CREATE MONITOR statement
        monitor: String,
        #[command(flatten)]
        server: Server,
    },
    /// Drop one
    Drop {
        name: String,
        #[command(flatten)]
        server: Server,
    },
}

pub async fn sql(args: SqlArgs) -> anyhow::Result<()> {
    let format = if args.format == "csv" { "csv" } else { "json" };
    let mut body = json!({ "query": args.query, "format": format });
    if let Some(limit) = args.limit {
        body["limit"] = json!(limit);
    }
    let text = args
        .server
        .request(Method::POST, "/api/v1/sql", Some(&body))
        .await?;
    match args.format.as_str() {
        "table" => print_table(&serde_json::from_str(&text)?),
        _ => emit(text.trim_end().to_string()),
    }
    Ok(())
}

pub async fn monitor(args: MonitorArgs) -> anyhow::Result<()> {
    let (server, statement) = match args.action {
        MonitorAction::List { server } => (server, "SHOW MONITORS".to_string()),
        MonitorAction::Create { sql, server } => (server, sql),
        MonitorAction::Explain { monitor, server } => (server, format!("EXPLAIN MONITOR {monitor}")),
        MonitorAction::Drop { name, server } => (server, format!("DROP MONITOR {name}")),
    };
    let text = server
        .request(Method::POST, "/api/v1/sql", Some(&json!({ "query": statement })))
        .await?;
    print_table(&serde_json::from_str(&text)?);
    Ok(())
}

pub async fn tail(args: TailArgs) -> anyhow::Result<()> {
    let address = args.server.api.replacen("http", "ws", 1);
    let mut url = format!("{}/api/v1/live", address.trim_end_matches('/'));
    if let Some(project) = &args.server.project {
        url.push_str(&format!("?project={project}"));
    }
    let mut request = url
        .as_str()
        .into_client_request()
        .context("PF-6030: --api is not an address")?;
    if let Some(key) = &args.server.key {
        request
            .headers_mut()
            .insert("authorization", format!("Bearer {key}").parse()?);
    }
    let connected = tokio_tungstenite::connect_async(request).await;
    let (mut socket, _) =
        connected.with_context(|| format!("PF-6031: no live connection to {url}; is the server running?"))?;
    let subscribe =
        json!({ "type": "subscribe", "id": "tail", "view": args.view, "snapshot": !args.no_snapshot });
    socket.send(Message::text(subscribe.to_string())).await?;
    let mut columns: Vec<String> = Vec::new();
    let mut frames = 0;
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(message) = message else { return Ok(()) };
        let Message::Text(text) = message? else { continue };
        let message: Value = serde_json::from_str(&text)?;
        match message["type"].as_str() {
            Some("schema") => {
                let named = message["columns"].as_array().into_iter().flatten();
                columns = named
                    .filter_map(|column| column["name"].as_str().map(String::from))
                    .collect();
                emit(format!("diff\t{}", columns.join("\t")));
            }
            Some("frame") => {
                print_frame(&message, columns.len());
                frames += 1;
                if args.frames.is_some_and(|most| frames >= most) {
                    return Ok(());
                }
            }
            Some("error") => bail!("{}: {}", shown(&message["code"]), shown(&message["message"])),
            Some("end") => {
                emit(format!("-- ended: {}", shown(&message["reason"])));
                return Ok(());
            }
            _ => {}
        }
    }
}

fn print_frame(frame: &Value, columns: usize) {
    if frame["reset"] == json!(true) {
        emit(format!("-- everything up to tick {}", frame["upper"]));
    }
    for row in frame["rows"].as_array().into_iter().flatten() {
        let cells: Vec<String> = row
            .as_array()
            .into_iter()
            .flatten()
            .take(columns + 1)
            .map(shown)
            .collect();
        let sign = if cells.first().is_some_and(|diff| diff.starts_with('-')) {
            ""
        } else {
            "+"
        };
        emit(format!("{sign}{}", cells.join("\t")));
    }
}

impl Server {
    async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<String> {
        let url = format!("{}{path}", self.api.trim_end_matches('/'));
        let mut request = Request::builder()
            .method(method)
            .uri(&url)
            .header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if let Some(project) = &self.project {
            request = request.header("x-pyflare-project", project);
        }
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = request
            .body(Full::new(bytes))
            .context("PF-6030: --api is not an address")?;
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.request(request).await.map_err(|_| {
            anyhow!(
                "PF-6031: nothing answers at {}; start it with `pyflare serve` or set --api",
                self.api
            )
        })?;
        let status = answer.status();
        let text = String::from_utf8_lossy(&answer.into_body().collect().await?.to_bytes()).into_owned();
        if status.is_success() {
            return Ok(text);
        }
        let problem: Value = serde_json::from_str(&text).unwrap_or_default();
        let mut message = format!("{}: {}", shown(&problem["code"]), shown(&problem["detail"]));
        if let Some(position) = problem["position"].as_object() {
            message.push_str(&format!(
                " (line {}, column {})",
                position["line"], position["column"]
            ));
        }
        if let Some(hint) = problem["hint"].as_str() {
            message.push_str(&format!("\n  hint: {hint}"));
        }
        bail!("{message}")
    }
}

/// A result as an aligned table; a cell is shortened at 60 characters.
fn print_table(result: &Value) {
    let columns: Vec<String> = result["columns"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|column| shown(&column["name"]))
        .collect();
    let rows: Vec<Vec<String>> = result["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| {
            row.as_array()
                .into_iter()
                .flatten()
                .map(|cell| shortened(&shown(cell)))
                .collect()
        })
        .collect();
    let mut widths: BTreeMap<usize, usize> = BTreeMap::new();
    for row in std::iter::once(&columns).chain(&rows) {
        for (index, cell) in row.iter().enumerate() {
            let width = widths.entry(index).or_default();
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String]| {
        let padded = row
            .iter()
            .enumerate()
            .map(|(index, cell)| format!("{cell:<width$}", width = widths[&index]));
        emit(padded.collect::<Vec<_>>().join("  ").trim_end().to_string());
    };
    line(&columns);
    line(
        &widths
            .values()
            .map(|width| "-".repeat(*width))
            .collect::<Vec<_>>(),
    );
    rows.iter().for_each(|row| line(row));
    let more = if result["truncated"] == json!(true) {
        ", and there are more"
    } else {
        ""
    };
    emit(format!("({} rows{more})", rows.len()));
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.replace(['\n', '\r', '\t', '\u{1b}'], " "),
        other => other.to_string(),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

/// Prints a line; a reader that has seen enough (`| head`) ends the command.
fn emit(line: String) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}
