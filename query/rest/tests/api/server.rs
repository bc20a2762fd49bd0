//! The API over the small engine in memory and the real query service.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, MapBuilder, RecordBatch,
    StringBuilder, StringViewArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use async_trait::async_trait;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::{Router, http};
use datafusion::catalog::TableProvider;
use http_body_util::BodyExt;
use pyflare_history::{
    Hold, LiveSource, PeekRequest, QueryOptions, QueryService, Relation, Scope as QueryScope, SourceError,
    StoredTables, Tail, ViewDescription,
};
use pyflare_live::memory::{Cell, MemoryEngine};
use pyflare_live::{Access, Failure, FailureKind, Live, LiveLimits, Position, Scope, ViewName, Views};
use pyflare_rest::{
    Api, ApiLimits, Created, Engine, Explanation, Family, MetricKind, MetricsSource, NodeFigures, PlanNode,
    Readiness, Statement, Status, router,
};
use serde_json::Value;
use tower::ServiceExt;

pub struct Server {
    pub engine: MemoryEngine,
    pub router: Router,
    pub requests: ViewName,
    pub live: Live,
}

/// Views over the memory engine, spans in memory, nothing stored.
struct Source {
    engine: MemoryEngine,
    spans: RecordBatch,
}

struct At(u64);

impl Hold for At {
    fn tick(&self) -> u64 {
        self.0
    }
}

#[async_trait]
impl LiveSource for Source {
    fn hold(&self) -> Arc<dyn Hold> {
        Arc::new(At(self.engine.upper()))
    }

    fn views(&self, scope: &QueryScope) -> Vec<ViewDescription> {
        let views = self.engine.views();
        let visible = views
            .iter()
            .filter(|view| scope.sees(view.name.project.as_deref()) && !view.temporary);
        visible
            .map(|view| ViewDescription {
                name: view.name.name.clone(),
                project: view.name.project.clone(),
                schema: Arc::clone(&view.schema),
                stored: false,
            })
            .collect()
    }

    async fn peek(
        &self,
        view: &ViewDescription,
        _hold: &Arc<dyn Hold>,
        request: PeekRequest,
        _scope: &QueryScope,
    ) -> Result<Vec<RecordBatch>, SourceError> {
        let name = ViewName {
            project: view.project.clone(),
            name: view.name.clone(),
        };
        let batch = self
            .engine
            .batch(&name)
            .ok_or(SourceError("the view is gone".into()))?;
        let batch = match request.projection {
            Some(columns) => batch.project(&columns).unwrap(),
            None => batch,
        };
        Ok(vec![batch])
    }

    async fn tail(
        &self,
        relation: &Relation,
        _: &Arc<dyn Hold>,
        _: &QueryScope,
    ) -> Result<Tail, SourceError> {
        match relation {
            Relation::Stream(stream) if stream.name == "spans" => Ok(Tail {
                flushed: None,
                batches: vec![self.spans.clone()],
            }),
            _ => Ok(Tail::default()),
        }
    }
}

#[async_trait]
impl StoredTables for Source {
    async fn provider(&self, _table: &str) -> Result<Option<Arc<dyn TableProvider>>, SourceError> {
        Ok(None)
    }
}

/// A planner that knows `SELECT count(*) AS n FROM …`, and reads the statements about monitors word by word.
struct FakeEngine(MemoryEngine);

fn words(sql: &str) -> Vec<String> {
    sql.lines()
        .filter(|line| !line.starts_with("--"))
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_matches(['"', ';']).to_string())
        .collect()
}

impl FakeEngine {
    fn select(sql: &str) -> Option<&str> {
        let at = sql.to_ascii_lowercase().find("select")?;
        Some(&sql[at..])
    }

    fn explained(sql: &str) -> Explanation {
        Explanation {
            schema: Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)])),
            key: vec![],
            plan: "Aggregate".into(),
            logical: sql.into(),
            operators: vec!["read".into(), "count".into()],
            state: "one row".into(),
            fingerprint: "00ff".into(),
            nodes: vec![PlanNode {
                title: "Aggregate".into(),
                ..PlanNode::default()
            }],
            analyze: None,
            lines: vec![
                ("plan".into(), "Aggregate".into()),
                ("state".into(), "one row".into()),
            ],
        }
    }
}

#[async_trait]
impl Engine for FakeEngine {
    fn read(&self, _scope: &Scope, sql: &str) -> Result<Statement, Failure> {
        let words = words(sql);
        let lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
        let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
        let wrong = |column| {
            Failure::new(FailureKind::Invalid, "PF-4001", "the statement is not complete")
                .with_hint("write CREATE MONITOR name AS SELECT …")
                .at(Some(Position { line: 1, column }))
        };
        Ok(match lower[..] {
            ["create", "or", "replace", "monitor", _, ..] => Statement::Create {
                name: words[4].clone(),
                or_replace: true,
                if_not_exists: false,
            },
            ["create", "monitor", "if", "not", "exists", _, ..] => Statement::Create {
                name: words[5].clone(),
                or_replace: false,
                if_not_exists: true,
            },
            ["create", "monitor", _, ..] if Self::select(sql).is_some() => Statement::Create {
                name: words[2].clone(),
                or_replace: false,
                if_not_exists: false,
            },
            ["create", ..] => return Err(wrong(8)),
            ["drop", "monitor", "if", "exists", _] => Statement::Drop {
                name: words[4].clone(),
                if_exists: true,
                cascade: false,
            },
            ["drop", "monitor", _] => Statement::Drop {
                name: words[2].clone(),
                if_exists: false,
                cascade: false,
            },
            ["alter", "monitor", _, "set" | "reset", ..] => Statement::Alter {
                name: words[2].clone(),
                if_exists: false,
            },
            ["show", "monitors"] => Statement::Show,
            ["explain", "monitor", "select" | "create", ..] => {
                Statement::Explain(Box::new(Self::explained(sql)))
            }
            ["explain", "monitor", _] => Statement::ExplainNamed {
                name: words[2].clone(),
                analyze: false,
            },
            ["explain", "monitor", ..] => return Err(wrong(20)),
            _ => Statement::Query,
        })
    }

    async fn create(&self, scope: &Scope, sql: &str) -> Result<Created, Failure> {
        let Statement::Create {
            name,
            or_replace,
            if_not_exists,
        } = self.read(scope, sql)?
        else {
            return Err(Failure::new(
                FailureKind::Invalid,
                "PF-4001",
                "not a CREATE MONITOR",
            ));
        };
        let target = ViewName {
            project: Some(scope.owner().to_string()),
            name: name.clone(),
        };
        let known = self.0.views().into_iter().find(|view| view.name == target);
        if let (Some(view), true) = (&known, if_not_exists) {
            return Ok(Created::Existing(Arc::clone(view)));
        }
        if known.is_some() && or_replace {
            self.0.drop_view(&target)?;
        }
        let query = Self::select(sql).unwrap_or("");
        let view = self.0.install(scope.owner(), &name, query, false)?;
        Ok(if known.is_some() {
            Created::Replaced(view)
        } else {
            Created::New(view)
        })
    }

    async fn alter(&self, scope: &Scope, name: &ViewName, _sql: &str) -> Result<(), Failure> {
        let query = "SELECT altered";
        self.0.drop_view(name)?;
        self.0.install(scope.owner(), &name.name, query, false).map(drop)
    }

    async fn drop_monitor(&self, name: &ViewName) -> Result<(), Failure> {
        self.0.drop_view(name)
    }

    fn explain(&self, name: &ViewName, analyze: bool) -> Result<Explanation, Failure> {
        let figures = NodeFigures {
            rows_out: 7,
            ..NodeFigures::default()
        };
        Ok(Explanation {
            analyze: analyze.then(|| vec![figures]),
            ..Self::explained(&name.name)
        })
    }

    fn status(&self) -> Status {
        Status {
            complete_tick: self.0.upper(),
            workers: 2,
            version: "test".into(),
            ..Status::default()
        }
    }

    fn readiness(&self) -> Readiness {
        let reasons = if self.0.upper() > 100_000 {
            vec!["the dataflow is behind".to_string()]
        } else {
            vec![]
        };
        Readiness { reasons }
    }
}

/// One answer, read whole.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that this is a well-formed problem and gives (status, code).
    pub fn problem(&self) -> (u16, String) {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{}",
            self.text()
        );
        let value = self.json();
        assert_eq!(value["status"], self.status.as_u16());
        for field in ["type", "title", "detail", "code"] {
            assert!(
                value[field].as_str().is_some_and(|text| !text.is_empty()),
                "{field} in {value}"
            );
        }
        (self.status.as_u16(), value["code"].as_str().unwrap().to_string())
    }
}

/// Families of the binary, and one that its own room has written already.
struct Measured;

impl MetricsSource for Measured {
    fn families(&self) -> Vec<Family> {
        vec![
            Family::counter("pyflare_rows_admitted_total", "Rows admitted.", 12),
            Family::new(MetricKind::Gauge, "pyflare_view_rows", "Rows in a view.")
                .with(&[("view", "a\"b\n")], 3.0),
        ]
    }

    fn write_text(&self, out: &mut String) {
        out.push_str("# HELP pyflare_otlp_rows_total Rows.\n# TYPE pyflare_otlp_rows_total counter\n");
        out.push_str("pyflare_otlp_rows_total 5\n");
    }
}

impl Server {
    pub fn new() -> Server {
        Server::with(QueryOptions::default(), ApiLimits::default())
    }

    pub fn with(queries: QueryOptions, limits: ApiLimits) -> Server {
        let engine = MemoryEngine::default();
        let columns = vec![
            Field::new("project", DataType::Utf8View, false),
            Field::new(
                "window_start",
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                false,
            ),
            Field::new("requests", DataType::Int64, false),
            Field::new("rate", DataType::Float64, true),
        ];
        let view = engine.create(
            None,
            "requests",
            "CREATE MONITOR requests AS …",
            columns,
            vec![0, 1],
        );
        let requests = view.name.clone();
        let rows = [("blue", i64::MAX, 1.5), ("red", 7, f64::INFINITY)];
        let rows = rows.map(|(project, count, rate)| {
            (
                vec![
                    Cell::Text(project.into()),
                    Cell::Time(0),
                    Cell::Int(count),
                    Cell::Float(rate.to_bits()),
                ],
                1,
            )
        });
        engine.tick(&[(&requests, rows.to_vec())]);
        let source = || Source {
            engine: engine.clone(),
            spans: spans(),
        };
        let queries = QueryService::new(queries, Arc::new(source()), Arc::new(source())).unwrap();
        let views: Arc<dyn Views> = Arc::new(engine.clone());
        let live = Live::new(Arc::clone(&views), LiveLimits::default());
        let api = Api::new(
            Arc::new(FakeEngine(engine.clone())),
            views,
            queries,
            live.clone(),
            Access::open(),
            Arc::new(Measured),
            limits,
        );
        Server {
            engine,
            router: router(api),
            requests,
            live,
        }
    }

    pub async fn send(&self, request: http::request::Builder, body: impl Into<Body>) -> Answer {
        let response = self
            .router
            .clone()
            .oneshot(request.body(body.into()).unwrap())
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path), Body::empty()).await
    }

    /// As a caller of one project.
    pub async fn get_as(&self, project: &str, path: &str) -> Answer {
        self.send(
            Request::get(path).header("x-pyflare-project", project),
            Body::empty(),
        )
        .await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(
            Request::post(path).header("content-type", "application/json"),
            body.to_string(),
        )
        .await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path), Body::empty()).await
    }
}

/// Queries that end within so many milliseconds.
pub fn queries_of(milliseconds: u64) -> QueryOptions {
    QueryOptions {
        default_timeout: Duration::from_millis(milliseconds),
        longest_timeout: Duration::from_millis(milliseconds),
        ..QueryOptions::default()
    }
}

/// Requests that end within so many milliseconds, their queries not counted.
pub fn limits_of(milliseconds: u64) -> ApiLimits {
    ApiLimits {
        request_timeout: Duration::from_millis(milliseconds),
        ..ApiLimits::default()
    }
}

pub const TRACE: &str = "00000000000000000000000000000abc";
pub const OTHER_TRACE: &str = "00000000000000000000000000000def";

/// Three spans: a root with a child in project blue, one alone in red.
fn spans() -> RecordBatch {
    let schema = pyflare_operators::fields::stream_schema("spans").unwrap();
    let texts = |values: [Option<&str>; 3]| -> ArrayRef { Arc::new(StringViewArray::from_iter(values)) };
    let all = |value: &'static str| texts([Some(value); 3]);
    let numbers = |values: [i64; 3]| -> ArrayRef { Arc::new(Int64Array::from_iter_values(values)) };
    let times = |values: [i64; 3]| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
    };
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "project" => texts([Some("blue"), Some("blue"), Some("red")]),
            "trace_id" => texts([Some(TRACE), Some(TRACE), Some(OTHER_TRACE)]),
            "span_id" => texts([Some("1"), Some("2"), Some("3")]),
            "parent_span_id" => texts([None, Some("1"), None]),
            "name" => texts([Some("answer <b>\"'; DROP"), Some("chat"), Some("lonely")]),
            "status" => texts([Some("ok"), Some("error"), Some("unset")]),
            "service_name" => all("shop"),
            "model" => texts([None, Some("gpt"), None]),
            "user_id" => texts([Some("ada"), None, None]),
            "events" => texts([None, Some("[{\"name\":\"exception\"}]"), Some("not json")]),
            "event_time" | "end_time" => times([500_000, 450_000, 400_000]),
            "start_time" => times([100_000, 200_000, 300_000]),
            "start_unix_nano" => numbers([100_000_000, 200_000_000, 300_000_000]),
            "duration_ns" => numbers([400_000_000, 250_000_000, 100_000_000]),
            "input_tokens" => Arc::new(Int64Array::from(vec![None, Some(12), None])),
            "_tick" => numbers([600, 600, 600]),
            "attributes" => {
                let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
                for _ in 0..3 {
                    map.keys().append_value("server.port");
                    map.values().append_value("443");
                    map.append(true).unwrap();
                }
                arrow::compute::cast(&(Arc::new(map.finish()) as ArrayRef), field.data_type()).unwrap()
            }
            _ if field.is_nullable() => new_null_array(field.data_type(), 3),
            _ => match field.data_type() {
                DataType::Utf8View => all(""),
                DataType::Int64 => numbers([0; 3]),
                DataType::Int32 => Arc::new(Int32Array::from_iter_values([0; 3])),
                DataType::Float64 => Arc::new(Float64Array::from_iter_values([0.0; 3])),
                DataType::Boolean => Arc::new(BooleanArray::from(vec![false; 3])),
                DataType::Timestamp(_, _) => times([0; 3]),
                DataType::Decimal128(precision, scale) => Arc::new(
                    Decimal128Array::from_iter_values([0; 3])
                        .with_precision_and_scale(*precision, *scale)
                        .unwrap(),
                ),
                DataType::Map(_, _) => {
                    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
                    for _ in 0..3 {
                        map.append(true).unwrap();
                    }
                    arrow::compute::cast(&(Arc::new(map.finish()) as ArrayRef), field.data_type()).unwrap()
                }
                other => panic!("{}: {other}", field.name()),
            },
        })
        .collect();
    RecordBatch::try_new(schema, columns).unwrap()
}
