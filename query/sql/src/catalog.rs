//! What the planner knows: the streams, the functions, and nothing that changes.
//!
//! DataFusion asks synchronously while it plans, also for the relation inside `TUMBLE(…)`. Streams have no
//! statistics, no constraints, and take no filters, so filters stay visible nodes of the plan.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::TableReference;
use datafusion::common::config::ConfigOptions;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner};
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};
use pyflare_dataflows::plan::{Declared, scalar_function, scalar_functions, window_functions};
use pyflare_operators::fields;
use pyflare_operators::streams::StreamDefinition;

use crate::aggregates::aggregate_functions;
use crate::error::{SqlError, SqlErrorKind};
use crate::now;
use crate::window::WindowPlanner;
use crate::{PlanScope, ViewColumns};

/// A stream as a table of the planner.
#[derive(Debug)]
pub(crate) struct StreamSource {
    pub stream: String,
    /// If a user declared it.
    pub declared: Option<Declared>,
    schema: SchemaRef,
}

impl TableSource for StreamSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// A view as a table of the planner.
#[derive(Debug)]
pub(crate) struct ViewSource {
    pub view: ViewColumns,
}

impl TableSource for ViewSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.view.schema)
    }
}

/// What every statement is planned with: the streams, the functions, and the views there are.
#[derive(Debug)]
pub(crate) struct Catalog<'a> {
    shared: &'static Shared,
    views: &'a [ViewColumns],
    streams: &'a [Arc<StreamDefinition>],
}

/// What is the same for all statements.
#[derive(Debug)]
struct Shared {
    options: ConfigOptions,
    expression_planners: Vec<Arc<dyn ExprPlanner>>,
    relation_planners: Vec<Arc<dyn RelationPlanner>>,
    aggregates: Vec<Arc<AggregateUDF>>,
    windows: Vec<Arc<WindowUDF>>,
}

impl<'a> Catalog<'a> {
    pub fn of(scope: &'a PlanScope) -> Catalog<'a> {
        static SHARED: LazyLock<Shared> = LazyLock::new(|| {
            let mut options = ConfigOptions::default();
            options.sql_parser.collect_spans = true;
            // All subqueries become joins: there is no physical plan that could run one by itself.
            options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
            Shared {
                options,
                expression_planners: SessionStateDefaults::default_expr_planners(),
                relation_planners: vec![Arc::new(WindowPlanner)],
                aggregates: aggregate_functions(),
                windows: window_functions(),
            }
        });
        Catalog {
            shared: &SHARED,
            views: &scope.views,
            streams: &scope.streams,
        }
    }

    fn stream(&self, name: &str) -> Option<StreamSource> {
        if let Some(schema) = fields::stream_schema(name) {
            return Some(StreamSource {
                stream: name.to_string(),
                declared: None,
                schema,
            });
        }
        let definition = self.streams.iter().find(|stream| stream.name == name)?;
        Some(StreamSource {
            stream: name.to_string(),
            declared: Some(Declared::of(definition)),
            schema: definition.schema(),
        })
    }

    fn view(&self, name: &str) -> Option<&ViewColumns> {
        let named = |builtin: bool| {
            self.views
                .iter()
                .find(move |view| view.name == name && view.builtin == builtin)
        };
        named(false).or_else(|| named(true))
    }

    fn aggregate(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        let named = |function: &&Arc<AggregateUDF>| {
            function.name() == name || function.aliases().iter().any(|alias| alias == name)
        };
        self.shared.aggregates.iter().find(named).cloned()
    }
}

/// The stream that a name in FROM means; `stream.name` is not one.
pub(crate) fn stream_named(name: &str) -> Option<&'static str> {
    fields::STREAMS.into_iter().find(|stream| *stream == name)
}

impl ContextProvider for Catalog<'_> {
    fn get_table_source(&self, name: TableReference) -> DataFusionResult<Arc<dyn TableSource>> {
        if let (None, Some(source)) = (name.schema(), self.stream(name.table())) {
            return Ok(Arc::new(source));
        }
        let view = match name.schema() {
            None | Some("live") => self.view(name.table()),
            Some(_) => None,
        };
        match view {
            Some(view) => Ok(Arc::new(ViewSource { view: view.clone() })),
            None => Err(self.unknown_relation(&name).into()),
        }
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.shared.expression_planners
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &self.shared.relation_planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        scalar_function(name).or_else(|| now::function(name))
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.aggregate(name)
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        let named = |function: &&Arc<WindowUDF>| {
            function.name() == name || function.aliases().iter().any(|alias| alias == name)
        };
        self.shared.windows.iter().find(named).cloned()
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.shared.options
    }

    fn udf_names(&self) -> Vec<String> {
        scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.shared
            .aggregates
            .iter()
            .map(|function| function.name().to_string())
            .collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        let windows = self.shared.windows.iter();
        windows.map(|function| function.name().to_string()).collect()
    }
}

impl Catalog<'_> {
    /// Why a name in FROM is no relation.
    fn unknown_relation(&self, name: &TableReference) -> SqlError {
        let declared = self.streams.iter().map(|stream| stream.name.as_str());
        let streams: Vec<&str> = fields::STREAMS.into_iter().chain(declared.take(20)).collect();
        let streams = streams.join(", ");
        if name.schema() == Some("history") {
            return SqlError::new(
                SqlErrorKind::Clause,
                format!("{name} is stored history, which is not maintained"),
            )
            .hint(format!("read the stream itself: {streams}"));
        }
        let mut views: Vec<&str> = self.views.iter().map(|view| view.name.as_str()).collect();
        views.sort_unstable();
        views.dedup();
        views.truncate(20);
        let hint = match views.is_empty() {
            true => format!("a monitor reads streams: {streams}"),
            false => format!(
                "there are the streams {streams} and the views {}",
                views.join(", ")
            ),
        };
        SqlError::new(
            SqlErrorKind::Meaning,
            format!("there is no stream or view {name}"),
        )
        .hint(hint)
    }
}
