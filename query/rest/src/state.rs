//! What the handlers stand on: the engine behind a trait, the query service, the live service, limits.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use pyflare_history::QueryService;
use pyflare_live::{Access, Failure, Live, Scope, View, ViewName, Views};
use serde::Serialize;
use utoipa::ToSchema;

use crate::erasures::Erasures;
use crate::metrics::{HttpMetrics, MetricsSource};
use crate::streams::{RowDoor, Streams};

/// A statement, as far as the API must know before it acts on it.
#[derive(Clone, Debug)]
pub enum Statement {
    Create {
        name: String,
        or_replace: bool,
        if_not_exists: bool,
    },
    Alter {
        name: String,
        if_exists: bool,
    },
    Drop {
        name: String,
        if_exists: bool,
        /// Also the monitors that read it.
        cascade: bool,
    },
    Show,
    /// `EXPLAIN MONITOR` of a statement.
    Explain(Box<Explanation>),
    /// `EXPLAIN [ANALYZE] MONITOR name`.
    ExplainNamed {
        name: String,
        analyze: bool,
    },
    CreateStream {
        name: String,
        if_not_exists: bool,
    },
    DropStream {
        name: String,
        if_exists: bool,
    },
    ShowStreams,
    /// `DESCRIBE name`: the columns of a stream or a view.
    Describe {
        name: String,
    },
    /// Anything else, for the query service.
    Query,
}

/// A monitor in words.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The view's columns and, by position, those that identify a row.
    pub schema: SchemaRef,
    pub key: Vec<usize>,
    /// Our plan, one node a line.
    pub plan: String,
    /// The planner's logical plan.
    pub logical: String,
    /// What runs, from the stream to the view.
    pub operators: Vec<String>,
    /// How much is kept.
    pub state: String,
    /// Equal for monitors that compute the same.
    pub fingerprint: String,
    /// The plan's nodes, in the order of its lines.
    pub nodes: Vec<PlanNode>,
    /// What the operators of the running monitor have done, if that was asked.
    pub analyze: Option<Vec<NodeFigures>>,
    /// All of it as `(topic, text)` lines, the way a table shows it.
    pub lines: Vec<(String, String)>,
}

/// A node of a monitor's plan.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct PlanNode {
    /// The number of its line in `plan`, from 0.
    pub node: usize,
    /// The nodes that it reads.
    pub inputs: Vec<usize>,
    #[schema(example = "Aggregate")]
    pub title: String,
    pub detail: String,
    /// Other monitors that read the same arrangement of this node.
    pub shared_with: Vec<String>,
}

/// What the operator of a node has done, on all workers together. Nodes that run as part of the operator above them
/// are not listed.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct NodeFigures {
    pub node: usize,
    /// Rows that it has given, those taken back as well.
    pub rows_out: u64,
    /// Rows that it keeps now, and roughly their bytes.
    pub state_rows: u64,
    pub state_bytes: u64,
    /// Microseconds of processor time.
    pub busy_us: u64,
}

/// What a CREATE MONITOR did.
#[derive(Clone, Debug)]
pub enum Created {
    New(Arc<View>),
    /// `OR REPLACE` took the place of an older one.
    Replaced(Arc<View>),
    /// `IF NOT EXISTS`: it was there and is untouched.
    Existing(Arc<View>),
}

impl Created {
    pub fn view(&self) -> &Arc<View> {
        match self {
            Created::New(view) | Created::Replaced(view) | Created::Existing(view) => view,
        }
    }

    pub(crate) fn word(&self) -> &'static str {
        match self {
            Created::New(_) => "created",
            Created::Replaced(_) => "replaced",
            Created::Existing(_) => "exists",
        }
    }
}

/// How the engine is doing.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Status {
    pub version: String,
    /// The newest tick that was issued, and the newest that every worker has finished; milliseconds since 1970.
    pub tick: u64,
    pub complete_tick: u64,
    pub workers: u64,
    /// The log is being replayed after a start.
    pub replaying: bool,
    /// How far the complete tick is behind the clock.
    pub lag_ms: u64,
    /// By stream.
    pub rows_admitted: BTreeMap<String, u64>,
    /// Requests that were sent again and counted once.
    pub duplicates: u64,
    pub late_rows: u64,
    pub decode_errors: u64,
    pub rejected_rows: u64,
    /// Bytes in the log that are not in a view yet.
    pub log_backlog_bytes: u64,
    /// Everything up to this tick is in the store.
    pub flushed_cut: Option<u64>,
}

/// Whether requests should be sent here.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    /// Why not, one sentence each; empty: ready.
    pub reasons: Vec<String>,
}

/// The engine, as the REST API uses it: monitors and its state. Views are read through [`Views`].
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Reads a statement without acting on it. Plans, so it may take milliseconds: never called on an async thread.
    fn read(&self, scope: &Scope, sql: &str) -> Result<Statement, Failure>;

    /// Carries out a CREATE MONITOR for the scope's owner.
    async fn create(&self, scope: &Scope, sql: &str) -> Result<Created, Failure>;

    /// Gives a monitor other options by an ALTER MONITOR statement.
    async fn alter(&self, scope: &Scope, name: &ViewName, sql: &str) -> Result<(), Failure>;

    /// Drops a monitor: `PF-3002` unknown, `PF-3003` built in.
    async fn drop_monitor(&self, name: &ViewName) -> Result<(), Failure>;

    /// Drops a monitor and, before it, those that read it.
    async fn drop_with_readers(&self, name: &ViewName) -> Result<(), Failure> {
        self.drop_monitor(name).await
    }

    /// Explains an installed monitor, with `analyze` also what it has done. Plans: never called on an async thread.
    fn explain(&self, name: &ViewName, analyze: bool) -> Result<Explanation, Failure>;

    fn status(&self) -> Status;

    fn readiness(&self) -> Readiness;
}

/// Bounds of the API; those of queries are the query service's.
#[derive(Clone, Debug)]
pub struct ApiLimits {
    /// Largest request body.
    pub body_bytes: usize,
    /// How long a request may take from its head to its answer's head, its body's way included. The time limit of the
    /// query in it, which is the query service's, comes on top.
    pub request_timeout: Duration,
}

impl Default for ApiLimits {
    fn default() -> ApiLimits {
        ApiLimits {
            body_bytes: 1 << 20,
            request_timeout: Duration::from_secs(60),
        }
    }
}

/// Where the receivers of this server listen, for those who ask where to send.
#[derive(Clone, Copy, Debug)]
pub struct ReceiverAddresses {
    pub otlp_http: SocketAddr,
    pub otlp_grpc: SocketAddr,
}

/// Everything the handlers need; cheap to clone.
#[derive(Clone)]
pub struct Api {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) views: Arc<dyn Views>,
    pub(crate) queries: Arc<QueryService>,
    pub(crate) live: Live,
    pub(crate) access: Arc<Access>,
    pub(crate) metrics: Arc<dyn MetricsSource>,
    pub(crate) http: Arc<HttpMetrics>,
    pub(crate) limits: Arc<ApiLimits>,
    pub(crate) receivers: Option<Arc<ReceiverAddresses>>,
    pub(crate) rows: Option<RowDoor>,
    pub(crate) erasures: Option<Arc<dyn Erasures>>,
}

impl Api {
    pub fn new(
        engine: Arc<dyn Engine>,
        views: Arc<dyn Views>,
        queries: Arc<QueryService>,
        live: Live,
        access: Access,
        metrics: Arc<dyn MetricsSource>,
        limits: ApiLimits,
    ) -> Api {
        Api {
            engine,
            views,
            queries,
            live,
            access: Arc::new(access),
            metrics,
            http: Arc::default(),
            limits: Arc::new(limits),
            receivers: None,
            rows: None,
            erasures: None,
        }
    }

    /// Erases rows for those who ask.
    #[must_use]
    pub fn with_erasures(mut self, erasures: Arc<dyn Erasures>) -> Api {
        self.erasures = Some(erasures);
        self
    }

    /// Tells callers where telemetry goes.
    #[must_use]
    pub fn with_receivers(mut self, receivers: ReceiverAddresses) -> Api {
        self.receivers = Some(Arc::new(receivers));
        self
    }

    /// Takes rows of users' streams, in bodies of at most `most_bytes`; four such may be on their way at once.
    #[must_use]
    pub fn with_streams(mut self, streams: Arc<dyn Streams>, most_bytes: usize) -> Api {
        self.rows = Some(RowDoor::new(streams, most_bytes));
        self
    }

    /// The view of that name that the caller sees, or a refusal that names what there is.
    pub(crate) fn view(&self, scope: &Scope, name: &str) -> Result<Arc<View>, Failure> {
        let project = scope.project.as_deref();
        let found = self
            .views
            .view(project, name)
            .filter(|view| view.visible_to(project) && !view.temporary);
        found.ok_or_else(|| {
            let all = self.visible(scope);
            let same = all.iter().filter(|view| view.name.name == name).count();
            let unknown = Failure::unknown_view(name, all.iter().map(|view| view.name.name.as_str()));
            if same > 1 {
                return unknown
                    .with_hint("several projects have one: say which in the header x-pyflare-project");
            }
            unknown
        })
    }

    /// All views that the caller sees, by name and project.
    pub(crate) fn visible(&self, scope: &Scope) -> Vec<Arc<View>> {
        let mut views = self.views.views();
        views.retain(|view| view.visible_to(scope.project.as_deref()) && !view.temporary);
        views.sort_by(|left, right| {
            (&left.name.name, &left.name.project).cmp(&(&right.name.name, &right.name.project))
        });
        views
    }
}
