//! The monitor language: what a person types becomes a [`MonitorDefinition`].
//!
//! - `statement`: the wrapper (`CREATE MONITOR … WITH (…) AS … EMIT CHANGES`), names, options, limits;
//! - [`alter`]: other options for a monitor that is there;
//! - `stream`: the statements about streams;
//! - `clauses`: clauses that cannot be maintained, refused at their place;
//! - `hidden`, `catalog`, [`window`], [`aggregates`], `now`: what the planner knows that SQL does not;
//! - `depth`, `budget`, `planning`, `first_of_each`, `named_members`: DataFusion with a pinned list of rules, bounded in size;
//! - `lower`: the logical plan becomes a [`Plan`](pyflare_dataflows::Plan);
//! - [`explain`]: the same, in words;
//! - [`functions`]: every function, described, for the reference and for completion;
//! - `oracle`: the SELECT as a batch, to compare the engine with; for tests.
//!
//! Invariants: the same text gives the same plan; whatever the text says, the answer is a plan or a coded
//! [`SqlError`], never a panic and never a plan that does not end; a definition survives its way through JSON.

pub mod aggregates;
pub mod alter;
pub mod error;
pub mod explain;
pub mod functions;
pub mod window;

mod budget;
mod catalog;
mod clauses;
mod depth;
mod first_of_each;
mod hidden;
mod lower;
mod named_members;
mod now;
mod options;
// Always compiled: a feature only for tests would make them build half of the workspace a second time.
#[doc(hidden)]
pub mod oracle;
mod planning;
mod statement;
mod stream;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast::{Ident, Query, SelectItem, SetExpr};
use pyflare_dataflows::{Expr, MonitorDefinition, Plan};
use pyflare_operators::streams::StreamDefinition;

pub use alter::OptionChanges;
pub use error::{Position, SqlError, SqlErrorKind};
pub use explain::{Explained, ExplainedNode};
pub use options::OPTIONS;
pub use statement::{DEEPEST_NESTING, LONGEST_LITERAL, LONGEST_NAME, LONGEST_STATEMENT, MOST_TOKENS};

use crate::statement::{Create, Parsed};

/// For whom a statement is planned.
#[derive(Debug, Clone, Default)]
pub struct PlanScope {
    /// The project whose rows the monitor sees; `None` plans a built-in view over all projects.
    pub project: Option<String>,
    /// The views that it may read: the project's own and the built-in ones.
    pub views: Vec<ViewColumns>,
    /// The streams that the project has declared.
    pub streams: Vec<Arc<StreamDefinition>>,
}

/// A view as the planner knows it.
#[derive(Debug, Clone)]
pub struct ViewColumns {
    pub name: String,
    /// Whether it is built in: then it has the rows of all projects, told apart by its column `project`.
    pub builtin: bool,
    pub schema: SchemaRef,
}

/// A statement of the monitor language, or something else.
#[derive(Debug, Clone)]
pub enum Statement {
    CreateMonitor(Box<CreateMonitor>),
    DropMonitor {
        name: String,
        if_exists: bool,
        /// Also the monitors that read it.
        cascade: bool,
    },
    /// Make [`OptionChanges::statement`] of the monitor's definition, and create by that.
    AlterMonitor {
        name: String,
        if_exists: bool,
        changes: OptionChanges,
    },
    ShowMonitors,
    /// `EXPLAIN MONITOR CREATE MONITOR …` or `EXPLAIN MONITOR SELECT …`.
    ExplainMonitor(Box<Explained>),
    /// `EXPLAIN [ANALYZE] MONITOR name`: look the monitor up and call [`explain`](explain()); with `analyze` add what
    /// its operators have done.
    ExplainNamedMonitor {
        name: String,
        analyze: bool,
    },
    CreateStream {
        definition: Box<StreamDefinition>,
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
    /// Anything else: a query for the ad-hoc engine, unread.
    Query(String),
}

#[derive(Debug, Clone)]
pub struct CreateMonitor {
    pub name: String,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub definition: MonitorDefinition,
}

/// Reads a statement and plans it if it is about a monitor.
pub fn parse(sql: &str, scope: &PlanScope) -> Result<Statement, SqlError> {
    on_own_stack(|| match statement::parse(sql)? {
        Parsed::Create(create) => {
            let (name, or_replace, if_not_exists) =
                (create.name.clone(), create.or_replace, create.if_not_exists);
            let (definition, _) = define(create, sql, scope)?;
            Ok(Statement::CreateMonitor(Box::new(CreateMonitor {
                name,
                or_replace,
                if_not_exists,
                definition,
            })))
        }
        Parsed::Drop {
            name,
            if_exists,
            cascade,
        } => Ok(Statement::DropMonitor {
            name,
            if_exists,
            cascade,
        }),
        Parsed::Alter {
            name,
            if_exists,
            changes,
        } => Ok(Statement::AlterMonitor {
            name,
            if_exists,
            changes,
        }),
        Parsed::Show => Ok(Statement::ShowMonitors),
        Parsed::Explain(create) => {
            let (definition, logical) = define(*create, sql, scope)?;
            Ok(Statement::ExplainMonitor(Box::new(Explained::of(
                definition, logical,
            )?)))
        }
        Parsed::ExplainNamed { name, analyze } => Ok(Statement::ExplainNamedMonitor { name, analyze }),
        Parsed::CreateStream {
            mut definition,
            if_not_exists,
        } => {
            definition.project = scope.project.clone().unwrap_or_else(|| "default".to_string());
            definition.sql = sql.trim().to_string();
            Ok(Statement::CreateStream {
                definition,
                if_not_exists,
            })
        }
        Parsed::DropStream { name, if_exists } => Ok(Statement::DropStream { name, if_exists }),
        Parsed::ShowStreams => Ok(Statement::ShowStreams),
        Parsed::Describe { name } => Ok(Statement::Describe { name }),
        Parsed::Other => Ok(Statement::Query(sql.to_string())),
    })
}

/// Explains an installed monitor; `scope` has what it may read.
pub fn explain(definition: &MonitorDefinition, scope: &PlanScope) -> Result<Explained, SqlError> {
    let scope = PlanScope {
        project: definition.project.clone(),
        ..scope.clone()
    };
    on_own_stack(|| match statement::parse(&definition.sql)? {
        Parsed::Create(create) => {
            let (_, logical) = define(create, &definition.sql, &scope)?;
            Explained::of(definition.clone(), logical)
        }
        _ => Explained::of(definition.clone(), String::new()),
    })
}

/// Plans a built-in view from its file: a `CREATE MONITOR` like a user's, over all projects.
///
/// Its name is the file's name without extension, and its leading column is `project`, one of the keys of its
/// groups, so that no row mixes projects.
pub fn builtin_view(file_name: &str, sql: &str) -> Result<MonitorDefinition, SqlError> {
    on_own_stack(|| {
        let refused =
            |message: String| SqlError::new(SqlErrorKind::BuiltIn, format!("{file_name}: {message}"));
        let Parsed::Create(create) = statement::parse(sql)? else {
            return Err(refused(
                "the file does not contain a CREATE MONITOR statement".into(),
            ));
        };
        let stem = file_name.rsplit('/').next().unwrap_or(file_name);
        let stem = stem.strip_suffix(".sql").unwrap_or(stem);
        if create.name != stem {
            return Err(refused(format!("the file creates the monitor {}", create.name))
                .hint("name the file after its monitor"));
        }
        let (definition, _) = define(create, sql, &PlanScope::default())?;
        let schema = definition.plan.schema().map_err(lower::not_planned)?;
        let leading = schema.fields().first().map(|field| field.name().as_str());
        let is_key = explain::key_columns(&definition.plan)
            .iter()
            .any(|key| key == "project");
        if leading != Some("project") || !is_key || !groups_by_project(&definition.plan) {
            return Err(refused("the leading column is not project, grouped by".into())
                .hint("write SELECT project, … GROUP BY project, …"));
        }
        Ok(definition)
    })
}

fn groups_by_project(plan: &Plan) -> bool {
    match plan {
        Plan::Filter { input, .. } | Plan::Project { input, .. } | Plan::Tumble { input, .. } => {
            groups_by_project(input)
        }
        Plan::Aggregate { keys, .. } => keys
            .iter()
            .any(|key| key.name == "project" && key.expr == Expr::column("project")),
        _ => false,
    }
}

/// Plans and lowers a monitor; gives the logical plan's text along.
fn define(create: Create, sql: &str, scope: &PlanScope) -> Result<(MonitorDefinition, String), SqlError> {
    let project = scope.project.as_deref();
    let Create {
        name,
        options,
        mut query,
        ..
    } = create;
    depth::check(&query)?;
    clauses::check(&query)?;
    let aliases = given_names(&query);
    let users: Vec<&str> = scope.streams.iter().map(|stream| stream.name.as_str()).collect();
    hidden::hide(&mut query, &users);
    let logical = planning::plan(*query, scope)?;
    let plan = lower::lower(&logical, project, &aliases)?;
    let text = logical.display_indent().to_string();
    let definition = MonitorDefinition {
        project: project.map(str::to_string),
        name,
        sql: sql.trim().to_string(),
        plan,
        options,
    };
    pyflare_dataflows::check(&definition).map_err(lower::not_planned)?;
    check_round_trip(&definition)?;
    Ok((definition, text))
}

/// A definition is kept as JSON: one that does not come back as it was is refused here, not at the next start.
fn check_round_trip(definition: &MonitorDefinition) -> Result<(), SqlError> {
    let again =
        serde_json::to_string(definition).and_then(|text| serde_json::from_str::<MonitorDefinition>(&text));
    match again {
        Ok(again) if again == *definition => Ok(()),
        Ok(_) => Err(SqlError::new(
            SqlErrorKind::Internal,
            "the plan does not survive being stored",
        )),
        Err(_) => Err(statement::too_deep()),
    }
}

/// The names that the outermost SELECT list gives with AS.
fn given_names(query: &Query) -> BTreeSet<String> {
    let mut body = query.body.as_ref();
    while let SetExpr::Query(inner) = body {
        body = inner.body.as_ref();
    }
    let SetExpr::Select(select) = body else {
        return BTreeSet::new();
    };
    let name = |alias: &Ident| match alias.quote_style {
        Some(_) => alias.value.clone(),
        None => alias.value.to_ascii_lowercase(),
    };
    let named = select.projection.iter().filter_map(|item| match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(name(alias)),
        _ => None,
    });
    named.collect()
}

/// Plans on a thread of its own: deep expressions find the stack they need, and a panic in a planner that is not
/// ours becomes an error of this statement.
fn on_own_stack<T: Send>(plan: impl FnOnce() -> Result<T, SqlError> + Send) -> Result<T, SqlError> {
    const STACK: usize = 64 * 1024 * 1024;
    let internal = |message: &str| SqlError::new(SqlErrorKind::Internal, message);
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new()
            .name("planner".into())
            .stack_size(STACK);
        let thread = builder
            .spawn_scoped(scope, plan)
            .map_err(|_| internal("no thread to plan on"))?;
        thread.join().unwrap_or_else(|_| {
            Err(internal("the planner gave up on this statement")
                .hint("write it in simpler parts, and report it"))
        })
    })
}
