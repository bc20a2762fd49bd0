//! What is fed from a stream: a base, shared by all views that need it, and how one view reads it.
//!
//! A [`Base`] is everything up to the arranged accumulators: which rows, grouped by what, which cells, for how long.
//! A [`Leaf`] is one view's reading of a base: the order of its columns, its aggregates, and what it computes and
//! filters above them. Views that differ only in that, or that need fewer cells, have one base together.
//!
//! Everything here is a pure function of the definition and of the bases there are, so all workers build the same
//! dataflow, and it is checked completely before the install command is logged: a logged definition always renders.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use pyflare_operators::streams::{DEFAULT_TIME, FUTURE_LIMIT_US};
use serde::{Deserialize, Serialize};

use super::cells::{Cells, Outputs};
use super::chain::{is_chain, window_size, window_time};
use super::figures::Figures;
use super::pipeline::Pipeline;
use super::shared_batch::Condition;
use crate::plan::{
    Aggregate, DEFAULT_LATENESS_US, Declared, Expr, Literal, NamedExpr, Plan, PlanError, WINDOW_END,
    WINDOW_START, compile, source_schema,
};
use crate::time::{PaneRule, Recency, Tick};

/// How the arranged accumulators relate to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// No aggregate: a key is a row, its accumulator is the row's multiplicity.
    Rows,
    /// A key is a group of one pane, and the result shows the pane.
    Groups,
    /// The result does not show the pane: the panes still alive are summed by group.
    Merged,
}

/// How long a base keeps its panes, and since when it is fed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Times {
    pub retention_us: i64,
    /// `None`: what the stream says.
    pub lateness_us: Option<i64>,
    pub emit_final: bool,
    /// What is above it is final row by row, not pane by pane.
    #[serde(default)]
    pub by_watermark: bool,
    pub start: Tick,
}

/// What a base was compiled from: it is compiled from that again where its content comes from a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// Of the leaf for which it was made.
    pub plan: Plan,
    #[serde(flatten)]
    pub times: Times,
}

/// A compiled base, shared by all workers.
pub(crate) struct Base {
    pub origin: Origin,
    pub layout: Layout,
    pub rule: PaneRule,
    pub stream: String,
    /// If a user declared the stream.
    pub declared: Option<Declared>,
    /// Columns of the stream that are read.
    pub source_columns: Vec<String>,
    source_schema: SchemaRef,
    /// Keys, then what the cells read.
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    /// True when a window sets the pane; else it is the sliding pane of the event time, or the moment at which a
    /// condition on `now()` lets the row go.
    pub windowed: bool,
    pub recency: Option<Recency>,
    pub below: Pipeline,
    /// In the order of the key's bytes: that of their text, so that the order in GROUP BY does not matter.
    pub key_types: Vec<DataType>,
    pub cells: Cells,
    /// Every row admitted after this tick is in it.
    pub start: Tick,
    pub figures: Figures,
    keys: Vec<Expr>,
    below_plan: Plan,
    /// Where it can be fed from whole batches.
    pub direct: Option<Direct>,
}

/// How to feed a base from a whole batch, of which it takes some rows, instead of from a copy of those rows: its chain
/// is conditions on columns of the stream and at most one tumbling window, its keys and arguments are columns.
pub(crate) struct Direct {
    pub conditions: Vec<Condition>,
    /// What tells these conditions from others.
    pub text: String,
    /// The time column and size of the window.
    pub window: Option<(String, i64)>,
}

impl Direct {
    fn of(below: &Plan, source: &Schema) -> Option<Direct> {
        match below {
            Plan::Source { .. } => Some(Direct {
                conditions: Vec::new(),
                text: String::new(),
                window: None,
            }),
            Plan::Filter { input, predicate } => {
                let mut direct = Direct::of(input, source)?;
                let condition = Condition {
                    text: serde_json::to_string(predicate).ok()?,
                    // Above a window only if it does not ask for its bounds.
                    compiled: compile(predicate, source).ok()?,
                };
                direct.text.push_str(&condition.text);
                direct.conditions.push(condition);
                Some(direct)
            }
            Plan::Tumble {
                input,
                time,
                size_us,
                slide_us: None,
            } => {
                let mut direct = Direct::of(input, source)?;
                if direct.window.is_some() || source.index_of(time).is_err() {
                    return None;
                }
                direct.window = Some((time.clone(), *size_us));
                Some(direct)
            }
            _ => None,
        }
    }
}

/// Why sessions cannot be final.
pub(crate) const FINAL_SESSIONS: &str = "EMIT FINAL over SESSION needs the rows of a stream by their event time: the watermark says nothing of other \
     rows and times";

/// The column that holds the event time of a stream's rows.
fn declared_time(declared: Option<&Declared>) -> &str {
    declared.map_or(DEFAULT_TIME, |declared| declared.time.as_str())
}

impl Base {
    fn compile(
        origin: Origin,
        below_plan: &Plan,
        keys: &[Expr],
        layout: Layout,
        aggregates: &[Aggregate],
    ) -> Result<(Base, Outputs), PlanError> {
        let Times {
            retention_us,
            lateness_us,
            emit_final,
            by_watermark,
            start,
        } = origin.times;
        let (stream, declared) = below_plan.chain_source().ok_or_else(|| PlanError::Unsupported {
            detail: "a chain over something else than a stream".into(),
        })?;
        let lateness_us = lateness_us
            .or_else(|| declared?.lateness_us)
            .unwrap_or(DEFAULT_LATENESS_US);
        if emit_final && layout != Layout::Groups {
            return Err(PlanError::Unsupported {
                detail: "EMIT FINAL without a window in GROUP BY: nothing would ever be final".into(),
            });
        }
        let recency = below_plan.recency();
        let rule = match (window_size(below_plan), recency) {
            (None, Some(Recency { quantum_us, .. })) if quantum_us <= 0 => {
                return Err(PlanError::Unsupported {
                    detail: format!("now() in steps of {quantum_us} microseconds"),
                });
            }
            (Some(_), Some(_)) => {
                return Err(PlanError::Unsupported {
                    detail: "now() below a window: its retention says how long it stays".into(),
                });
            }
            (Some(pane_us), None) => PaneRule {
                pane_us,
                retention_us,
                lateness_us,
                emit_final,
                by_watermark,
                by_tick: false,
            },
            (
                None,
                Some(Recency {
                    after_us: Some(_),
                    quantum_us,
                    ..
                }),
            ) => PaneRule::leaving(quantum_us),
            (None, _) => PaneRule::sliding(retention_us, lateness_us),
        };
        let mut needed = BTreeSet::new();
        needed.extend(keys.iter().flat_map(Expr::columns));
        for aggregate in aggregates {
            needed.extend(aggregate.expressions().flat_map(Expr::columns));
        }
        let (below, source_columns) = Pipeline::from_source(below_plan, &needed)?;
        let mut expressions = Vec::with_capacity(keys.len());
        let mut key_types = Vec::with_capacity(keys.len());
        for key in keys {
            let expression = compile(key, below.schema())?;
            key_types.push(type_of(&expression, key, below.schema())?);
            expressions.push(expression);
        }
        let mut cells = Cells::default();
        let outputs = cells.add(aggregates, below.schema())?;
        expressions.extend(cells.expressions());
        let source_schema = kept(&source_schema(stream, declared)?, &source_columns);
        if by_watermark && window_time(below_plan) != Some(declared_time(declared)) {
            return Err(PlanError::Unsupported {
                detail: FINAL_SESSIONS.into(),
            });
        }
        let is_plain = |expr: &Expr| matches!(expr, Expr::Column(_) | Expr::Literal(_));
        let direct = (keys.iter().all(is_plain) && cells.arguments().all(is_plain))
            .then(|| Direct::of(below_plan, &source_schema));
        let base = Base {
            origin,
            layout,
            rule,
            direct: direct.flatten(),
            source_schema,
            stream: stream.to_string(),
            declared: declared.cloned(),
            source_columns,
            expressions,
            windowed: window_size(below_plan).is_some(),
            recency,
            below,
            key_types,
            cells,
            start,
            figures: Figures::default(),
            keys: keys.to_vec(),
            below_plan: below_plan.clone(),
        };
        Ok((base, outputs))
    }

    /// The schema that `below` starts from: the source columns.
    pub fn below_input(&self) -> &SchemaRef {
        &self.source_schema
    }

    /// Keys, then cell arguments and filters, evaluated together so that a bad row is left out of all.
    pub fn expressions(&self) -> &[Arc<dyn PhysicalExpr>] {
        &self.expressions
    }

    /// Whether it keeps exactly what `other` does, apart from since when.
    pub fn is_like(&self, other: &Base) -> bool {
        self.serves(other) && other.cells.contain(&self.cells) && self.cells.kinds == other.cells.kinds
    }

    /// No row that was admitted at or before this tick is in it at `tick`, given the stream's mark before that; `None`:
    /// there may be rows of any age.
    pub fn forgotten_until(&self, mark_us: Option<i64>, tick: Tick) -> Option<Tick> {
        // How far behind its event time a row's pane ends, or its moment to leave comes.
        let reach_us = match (self.recency, window_time(&self.below_plan)) {
            (Some(recency), _) if self.rule.by_tick => recency.after_us?.saturating_add(recency.quantum_us),
            (_, Some(time)) if time != self.time_column() => return None,
            // They leave a tick later, however far that goes.
            _ if self.rule.by_watermark => return None,
            _ => self.rule.pane_us,
        };
        let gone_us = self.rule.expired_until(mark_us, tick)?;
        let ahead_us = reach_us.saturating_add(FUTURE_LIMIT_US);
        Some(Tick::try_from(gone_us.saturating_sub(ahead_us) / 1_000).unwrap_or(0))
    }

    /// Whether its panes are of the event time.
    pub fn is_by_event_time(&self) -> bool {
        window_time(&self.below_plan).is_none_or(|time| time == self.time_column())
    }

    /// The column that holds the rows' event time.
    pub fn time_column(&self) -> &str {
        declared_time(self.declared.as_ref())
    }

    /// Whether what `other` keeps can be read from this. A row that only this base's cells refuse would be missing
    /// there, so expressions that can fail are not shared; nor is a base with other columns below its keys.
    fn serves(&self, other: &Base) -> bool {
        self.layout == other.layout
            && self.rule == other.rule
            && self.keys == other.keys
            && self.below_plan == other.below_plan
            && self.cells.contain(&other.cells)
            && (other.cells.contain(&self.cells) || self.cells.never_fail())
    }
}

/// One view's reading of a base.
pub(crate) struct Leaf {
    pub base: Arc<Base>,
    /// The plan it was compiled from.
    pub plan: Plan,
    /// For each group column its place in the key.
    key_order: Vec<usize>,
    pub outputs: Outputs,
    /// Group columns, then aggregates: what `above` starts from.
    pub finish_schema: SchemaRef,
    pub above: Pipeline,
    /// The columns of its rows.
    pub schema: SchemaRef,
    /// Which of them identify a row; empty if the whole row does.
    pub key_columns: Vec<usize>,
    /// For each of its columns the place in the key that it is, unchanged.
    pub key_places: Vec<Option<usize>>,
}

impl Leaf {
    /// Whether `plan` is read from one base: filters and projections over at most one aggregate over a chain from a
    /// stream.
    pub fn is_leaf(plan: &Plan) -> bool {
        match plan {
            Plan::Filter { input, .. } | Plan::Project { input, .. } => Leaf::is_leaf(input),
            Plan::Aggregate { input, keys, .. } => !keys.is_empty() && is_chain(input),
            _ => is_chain(plan),
        }
    }

    /// As [`Leaf::is_leaf`], for the aggregate without keys itself.
    pub fn is_total(plan: &Plan) -> bool {
        matches!(plan, Plan::Aggregate { input, keys, .. } if keys.is_empty() && is_chain(input))
    }

    /// Compiles `plan`, over one of the bases in `existing` if one of them serves.
    pub fn compile(plan: &Plan, times: Times, existing: &[Arc<Base>]) -> Result<Leaf, PlanError> {
        // Keys come out of row bytes and aggregates out of accumulators: every column may be NULL.
        let schema = nullable(&plan.schema()?);
        let (above, aggregate) = split(plan);
        let (below_plan, groups, aggregates): (&Plan, Vec<NamedExpr>, &[Aggregate]) = match aggregate {
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
        let mut keys: Vec<Expr> = groups.iter().map(|group| group.expr.clone()).collect();
        keys.sort_by_cached_key(ToString::to_string);
        keys.dedup();
        if keys.is_empty() {
            keys.push(Expr::Literal(Literal::Int64(0)));
        }
        let key_order: Vec<usize> = groups
            .iter()
            .map(|group| keys.iter().position(|key| *key == group.expr))
            .collect::<Option<_>>()
            .expect("invariant: the keys are those of the groups");
        let shows_pane = groups.iter().any(|key| is_window_column(below_plan, &key.expr));
        let layout = match (aggregate.is_some(), shows_pane) {
            (false, _) => Layout::Rows,
            (true, true) => Layout::Groups,
            (true, false) => Layout::Merged,
        };
        let origin = Origin {
            plan: plan.clone(),
            times,
        };
        let (own, own_outputs) = Base::compile(origin, below_plan, &keys, layout, aggregates)?;
        let (base, outputs) = match existing.iter().find(|base| base.serves(&own)) {
            Some(shared) => {
                // Adds none: it serves.
                let outputs = shared.cells.clone().add(aggregates, own.below.schema())?;
                (Arc::clone(shared), outputs)
            }
            None => (Arc::new(own), own_outputs),
        };
        let mut finish_fields: Vec<Field> = groups
            .iter()
            .zip(&key_order)
            .map(|(group, place)| Field::new(&group.name, base.key_types[*place].clone(), true))
            .collect();
        finish_fields.extend(outputs.fields().map(|field| field.with_nullable(true)));
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
            Layout::Groups | Layout::Merged => key_columns(&groups, &above, &schema),
        };
        let key_places = schema.fields().iter().map(|field| {
            let above = if aggregate.is_some() { &above[..] } else { &[] };
            let group = passed_through(field.name(), above)?;
            let place = groups.iter().position(|shown| shown.name == group)?;
            Some(key_order[place])
        });
        Ok(Leaf {
            key_places: key_places.collect(),
            base,
            plan: plan.clone(),
            key_order,
            outputs,
            finish_schema,
            above: above_pipeline,
            schema,
            key_columns,
        })
    }

    /// The group columns, from the columns of a key.
    pub fn group_columns<T: Clone>(&self, key: &[T]) -> Vec<T> {
        self.key_order.iter().map(|place| key[*place].clone()).collect()
    }
}

fn type_of(
    expression: &Arc<dyn PhysicalExpr>,
    written: &Expr,
    schema: &Schema,
) -> Result<DataType, PlanError> {
    expression
        .data_type(schema)
        .map_err(|error| PlanError::Expression {
            expression: written.to_string(),
            detail: error.to_string(),
        })
}

/// The nodes above the topmost aggregate (outermost first) and that aggregate, which may be one of sessions.
fn split(plan: &Plan) -> (Vec<&Plan>, Option<&Plan>) {
    let mut above = Vec::new();
    let mut node = plan;
    loop {
        match node {
            Plan::Aggregate { .. } | Plan::Sessions { .. } => return (above, Some(node)),
            Plan::Filter { input, .. } | Plan::Project { input, .. } | Plan::Tumble { input, .. } => {
                above.push(node);
                node = input;
            }
            _ => return (above, None),
        }
    }
}

pub(crate) fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn kept(schema: &SchemaRef, columns: &[String]) -> SchemaRef {
    let kept = schema
        .fields()
        .iter()
        .filter(|field| columns.contains(field.name()));
    Arc::new(Schema::new(
        kept.map(|field| field.as_ref().clone()).collect::<Vec<_>>(),
    ))
}

fn output_names(node: &Plan) -> Vec<String> {
    match node {
        Plan::Project { columns, .. } => columns.iter().map(|column| column.name.clone()).collect(),
        _ => Vec::new(),
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
        Plan::Unnest { input, column } => column != name && is_window_column(input, expression),
        Plan::Project { input, columns } => columns
            .iter()
            .find(|column| column.name == *name)
            .is_some_and(|column| is_window_column(input, &column.expr)),
        _ => false,
    }
}

/// The column below these nodes, outermost first, that is passed through as `name`.
fn passed_through<'a>(name: &'a str, above: &[&'a Plan]) -> Option<&'a str> {
    above.iter().try_fold(name, |name, node| match node {
        Plan::Filter { .. } => Some(name),
        Plan::Project { columns, .. } => {
            let column = columns.iter().find(|column| column.name == name)?;
            match &column.expr {
                Expr::Column(below) => Some(below.as_str()),
                _ => None,
            }
        }
        _ => None,
    })
}

/// The columns of a plan that identify its rows, if its topmost aggregate's keys are all shown.
pub(crate) fn shown_keys(plan: &Plan, schema: &SchemaRef) -> Vec<usize> {
    match split(plan) {
        (above, Some(Plan::Aggregate { keys, .. })) => key_columns(keys, &above, schema),
        (above, Some(Plan::Sessions { keys, .. })) => {
            let start = NamedExpr {
                name: WINDOW_START.to_string(),
                expr: Expr::column(WINDOW_START),
            };
            let keys: Vec<NamedExpr> = keys.iter().cloned().chain([start]).collect();
            key_columns(&keys, &above, schema)
        }
        _ => Vec::new(),
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
