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
use pyflare_dataflows::plan::{scalar_function, scalar_functions};
use pyflare_operators::fields;

use crate::aggregates::aggregate_functions;
use crate::error::{SqlError, SqlErrorKind};
use crate::window::WindowPlanner;

/// A stream as a table of the planner.
#[derive(Debug)]
pub(crate) struct StreamSource {
    pub stream: &'static str,
    schema: SchemaRef,
}

impl TableSource for StreamSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// The catalogue of monitors.
#[derive(Debug)]
pub(crate) struct Catalog {
    options: ConfigOptions,
    expression_planners: Vec<Arc<dyn ExprPlanner>>,
    relation_planners: Vec<Arc<dyn RelationPlanner>>,
    aggregates: Vec<Arc<AggregateUDF>>,
}

impl Catalog {
    pub fn shared() -> &'static Catalog {
        static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
            let mut options = ConfigOptions::default();
            options.sql_parser.collect_spans = true;
            Catalog {
                options,
                expression_planners: SessionStateDefaults::default_expr_planners(),
                relation_planners: vec![Arc::new(WindowPlanner)],
                aggregates: aggregate_functions(),
            }
        });
        &CATALOG
    }

    fn aggregate(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        let named = |function: &&Arc<AggregateUDF>| {
            function.name() == name || function.aliases().iter().any(|alias| alias == name)
        };
        self.aggregates.iter().find(named).cloned()
    }
}

/// The stream that a name in FROM means; `stream.name` is not one.
pub(crate) fn stream_named(name: &str) -> Option<&'static str> {
    fields::STREAMS.into_iter().find(|stream| *stream == name)
}

impl ContextProvider for Catalog {
    fn get_table_source(&self, name: TableReference) -> DataFusionResult<Arc<dyn TableSource>> {
        let stream = match name.schema() {
            None => stream_named(name.table()),
            Some(_) => None,
        };
        match stream.and_then(|stream| Some((stream, fields::stream_schema(stream)?))) {
            Some((stream, schema)) => Ok(Arc::new(StreamSource { stream, schema })),
            None => Err(unknown_relation(&name).into()),
        }
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.expression_planners
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &self.relation_planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        scalar_function(name)
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.aggregate(name)
    }

    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.aggregates
            .iter()
            .map(|function| function.name().to_string())
            .collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Why a name in FROM is no relation.
pub(crate) fn unknown_relation(name: &TableReference) -> SqlError {
    let streams = fields::STREAMS.join(", ");
    match name.schema() {
        Some("live") => SqlError::new(
            SqlErrorKind::Clause,
            format!("{name} is a view: monitors over monitors are not maintained yet"),
        )
        .hint(format!(
            "read the stream itself ({streams}) and repeat the view's SELECT as a WITH query"
        )),
        Some("history") => SqlError::new(
            SqlErrorKind::Clause,
            format!("{name} is stored history, which is not maintained"),
        )
        .hint(format!("read the stream itself: {streams}")),
        _ => SqlError::new(SqlErrorKind::Meaning, format!("there is no stream {name}"))
            .hint(format!("a monitor reads one of {streams}")),
    }
}
