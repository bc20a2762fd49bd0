//! A monitor's plan, compiled: what runs below the aggregate, how it is kept, what runs above.
//!
//! Everything here is a pure function of the definition, so all workers build the same dataflow, and it is checked
//! completely before the install command is logged: a logged definition always renders.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use pyflare_operators::fields;

use super::cells::CellPlan;
use super::pipeline::Pipeline;
use crate::plan::{
    Aggregate, Expr, MonitorDefinition, NamedExpr, Plan, PlanError, WINDOW_END, WINDOW_START, compile,
};
use crate::time::PaneRule;

/// How the arranged accumulators relate to the view's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// No aggregate: a key is a row of the view, its accumulator is the row's multiplicity.
    Rows,
    /// A key is a group of one pane, and the result shows the pane.
    Groups,
    /// The result does not show the pane: the panes still alive are summed by group.
    Merged,
}

/// A compiled monitor, shared by all workers.
pub(crate) struct RenderedView {
    pub layout: Layout,
    pub rule: PaneRule,
    pub stream: String,
    /// Columns of the stream that are read.
    pub source_columns: Vec<String>,
    source_schema: SchemaRef,
    /// Keys, then what the cells read.
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    /// True when a window sets the pane; else it is the sliding pane of the event time.
    pub windowed: bool,
    pub below: Pipeline,
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    pub key_fields: Vec<Field>,
    pub cells: CellPlan,
    /// Group columns, then aggregates: what `above` starts from.
    pub finish_schema: SchemaRef,
    pub above: Pipeline,
    /// The view's columns.
    pub schema: SchemaRef,
    /// Which of them identify a row; empty if the whole row does.
    pub key_columns: Vec<usize>,
}

impl RenderedView {
    pub fn compile(definition: &MonitorDefinition) -> Result<RenderedView, PlanError> {
        let plan = &definition.plan;
        // Keys come out of row bytes and aggregates out of accumulators: every column may be NULL.
        let schema = nullable(&plan.schema()?);
        let (above, aggregate) = split(plan);
        let (below_plan, keys, aggregates): (&Plan, Vec<NamedExpr>, &[Aggregate]) = match aggregate {
            Some(Plan::Aggregate {
                input,
                keys,
                aggregates,
            }) => (input, keys.clone(), aggregates),
            _ => {
                let all = schema.fields().iter().map(|field| field.name().clone());
                (
                    plan,
                    all.map(|name| NamedExpr {
                        expr: Expr::Column(name.clone()),
                        name,
                    })
                    .collect(),
                    &[],
                )
            }
        };
        if keys.is_empty() {
            return Err(PlanError::Unsupported {
                detail: "an aggregate without GROUP BY".into(),
            });
        }
        let mut needed = BTreeSet::new();
        for key in &keys {
            needed.extend(key.expr.columns());
        }
        for aggregate in aggregates {
            needed.extend(aggregate.argument.iter().flat_map(Expr::columns));
            needed.extend(aggregate.filter.iter().flat_map(Expr::columns));
        }
        let (below, source_columns) = Pipeline::from_source(below_plan, &needed)?;
        let mut compiled_keys = Vec::with_capacity(keys.len());
        let mut key_fields = Vec::with_capacity(keys.len());
        for key in &keys {
            let expression = compile(&key.expr, below.schema())?;
            let data_type = expression
                .data_type(below.schema())
                .map_err(|error| PlanError::Expression {
                    expression: key.expr.to_string(),
                    detail: error.to_string(),
                })?;
            key_fields.push(Field::new(&key.name, data_type, true));
            compiled_keys.push(expression);
        }
        let cells = CellPlan::compile(aggregates, below.schema())?;
        let mut expressions = compiled_keys.clone();
        expressions.extend(cells.expressions());
        let source_schema = source_schema(plan.stream(), &source_columns)?;
        let window = window_size(below_plan);
        let shows_pane = keys.iter().any(|key| is_window_column(below_plan, &key.expr));
        let layout = match (aggregate.is_some(), shows_pane) {
            (false, _) => Layout::Rows,
            (true, true) => Layout::Groups,
            (true, false) => Layout::Merged,
        };
        let (retention_us, lateness_us) = (definition.retention_us(), definition.lateness_us());
        let rule = match window {
            Some(pane_us) => PaneRule {
                pane_us,
                retention_us,
                lateness_us,
            },
            None => PaneRule::sliding(retention_us, lateness_us),
        };
        let mut finish_fields = key_fields.clone();
        finish_fields.extend(cells.output_fields().map(|field| field.with_nullable(true)));
        let finish_schema = Arc::new(Schema::new(finish_fields));
        let mut above_pipeline = Pipeline::over(Arc::clone(&finish_schema));
        if aggregate.is_some() {
            let every: BTreeSet<String> = above.iter().flat_map(|node| output_names(node)).collect();
            for node in above.iter().rev() {
                above_pipeline.push(node, &every)?;
            }
        }
        let key_columns = match layout {
            Layout::Rows => Vec::new(),
            Layout::Groups | Layout::Merged => key_columns(&keys, &above, &schema),
        };
        Ok(RenderedView {
            layout,
            rule,
            stream: plan.stream().to_string(),
            source_columns,
            source_schema,
            expressions,
            windowed: window.is_some(),
            below,
            keys: compiled_keys,
            key_fields,
            cells,
            finish_schema,
            above: above_pipeline,
            schema,
            key_columns,
        })
    }
}

/// The nodes above the topmost aggregate (outermost first) and that aggregate.
fn split(plan: &Plan) -> (Vec<&Plan>, Option<&Plan>) {
    let mut above = Vec::new();
    let mut node = plan;
    loop {
        match node {
            Plan::Aggregate { .. } => return (above, Some(node)),
            Plan::Source { .. } => return (above, None),
            Plan::Filter { input, .. } | Plan::Project { input, .. } | Plan::Tumble { input, .. } => {
                above.push(node);
                node = input;
            }
        }
    }
}

fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn source_schema(stream: &str, columns: &[String]) -> Result<SchemaRef, PlanError> {
    let schema = fields::stream_schema(stream).ok_or_else(|| PlanError::UnknownStream {
        name: stream.to_string(),
    })?;
    let kept = schema
        .fields()
        .iter()
        .filter(|field| columns.contains(field.name()));
    Ok(Arc::new(Schema::new(
        kept.map(|field| field.as_ref().clone()).collect::<Vec<_>>(),
    )))
}

fn output_names(node: &Plan) -> Vec<String> {
    match node {
        Plan::Project { columns, .. } => columns.iter().map(|column| column.name.clone()).collect(),
        _ => Vec::new(),
    }
}

fn window_size(plan: &Plan) -> Option<i64> {
    match plan {
        Plan::Tumble { size_us, .. } => Some(*size_us),
        Plan::Source { .. } | Plan::Aggregate { .. } => None,
        Plan::Filter { input, .. } | Plan::Project { input, .. } => window_size(input),
    }
}

/// Whether `expression` over the output of `plan` is a window bound, passed through unchanged.
fn is_window_column(plan: &Plan, expression: &Expr) -> bool {
    let Expr::Column(name) = expression else {
        return false;
    };
    match plan {
        Plan::Tumble { input, .. } => {
            name == WINDOW_START || name == WINDOW_END || is_window_column(input, expression)
        }
        Plan::Filter { input, .. } => is_window_column(input, expression),
        Plan::Project { input, columns } => columns
            .iter()
            .find(|column| column.name == *name)
            .is_some_and(|column| is_window_column(input, &column.expr)),
        Plan::Source { .. } | Plan::Aggregate { .. } => false,
    }
}

/// The output columns that are the group's keys, if all of them are shown.
fn key_columns(keys: &[NamedExpr], above: &[&Plan], schema: &SchemaRef) -> Vec<usize> {
    let mut shown = Vec::new();
    for key in keys {
        let mut name = key.name.clone();
        for node in above.iter().rev() {
            if let Plan::Project { columns, .. } = node {
                let passed = columns
                    .iter()
                    .find(|column| column.expr == Expr::Column(name.clone()));
                match passed {
                    Some(column) => name = column.name.clone(),
                    None => return Vec::new(),
                }
            }
        }
        match schema.index_of(&name) {
            Ok(index) => shown.push(index),
            Err(_) => return Vec::new(),
        }
    }
    shown.sort_unstable();
    shown
}

impl RenderedView {
    /// The schema that `below` starts from: the source columns.
    pub fn below_input(&self) -> &SchemaRef {
        &self.source_schema
    }

    /// Keys, then cell arguments and filters, evaluated together so that a bad row is left out of all.
    pub fn expressions(&self) -> &[Arc<dyn PhysicalExpr>] {
        &self.expressions
    }
}
