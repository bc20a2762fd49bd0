//! `TUMBLE(relation, time, INTERVAL '…')`, `HOP(relation, time, slide, size)` and `SESSION(relation, time, gap)` in FROM.
//!
//! The planner meets it as a table with arguments and puts a [`Windowed`] node above the relation: all its columns,
//! then `window_start` and `window_end`. Predicates may be pushed below it unless they speak of the window. That is so of
//! sessions too: they are formed where they are grouped, of the rows that are left by then.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalMonthDayNano, TimeUnit};
use datafusion::common::{Column, DFSchema, DFSchemaRef, ScalarValue, TableReference};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArg, FunctionArgExpr, ObjectName, ObjectNamePart, Spanned, TableFactor,
};
use pyflare_dataflows::plan::{DAY_US, WINDOW_END, WINDOW_START};

use crate::error::{Position, SqlError, SqlErrorKind};
use crate::options::spoken;

const SHORTEST_US: i64 = 1_000_000;
const LONGEST_US: i64 = 366 * 86_400 * 1_000_000;
const USAGE: &str = "write TUMBLE(spans, event_time, INTERVAL '1 minute'), or HOP(spans, event_time, INTERVAL '1 minute', INTERVAL '5 minutes') for windows of 5 minutes every minute";
const SESSION_USAGE: &str = "write SELECT user_id, window_start, window_end, count(*) FROM SESSION(spans, event_time, INTERVAL '30 minutes') GROUP BY user_id, window_start, window_end";
/// Windows that may hold one row.
const MOST_WINDOWS: i64 = 1_000;

/// Which windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Hash)]
pub enum Windows {
    Tumble { size_us: i64 },
    Hop { size_us: i64, slide_us: i64 },
    Session { gap_us: i64 },
}

/// The windows as a node of a logical plan.
#[derive(Debug, Clone)]
pub struct Windowed {
    pub input: Arc<LogicalPlan>,
    /// A timestamp column of the input.
    pub time: Column,
    pub windows: Windows,
    schema: DFSchemaRef,
}

impl Windowed {
    pub fn new(input: Arc<LogicalPlan>, time: Column, windows: Windows) -> DataFusionResult<Self> {
        let schema = with_window(input.schema())?;
        Ok(Windowed {
            input,
            time,
            windows,
            schema,
        })
    }
}

fn with_window(input: &DFSchema) -> DataFusionResult<DFSchemaRef> {
    let bound = |name| Arc::new(Field::new(name, timestamp(), false));
    let mut fields: Vec<(Option<TableReference>, _)> = input
        .iter()
        .map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field)))
        .collect();
    fields.push((None, bound(WINDOW_START)));
    fields.push((None, bound(WINDOW_END)));
    Ok(Arc::new(DFSchema::new_with_metadata(
        fields,
        input.metadata().clone(),
    )?))
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

impl PartialEq for Windowed {
    fn eq(&self, other: &Self) -> bool {
        self.input == other.input && self.time == other.time && self.windows == other.windows
    }
}

impl Eq for Windowed {}

impl Hash for Windowed {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.time.hash(state);
        self.windows.hash(state);
    }
}

impl PartialOrd for Windowed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.input.partial_cmp(&other.input) {
            Some(Ordering::Equal) => (&self.time, self.windows).partial_cmp(&(&other.time, other.windows)),
            other => other,
        }
    }
}

impl UserDefinedLogicalNodeCore for Windowed {
    fn name(&self) -> &str {
        match self.windows {
            Windows::Tumble { .. } => "Tumble",
            Windows::Hop { .. } => "Hop",
            Windows::Session { .. } => "Session",
        }
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![Expr::Column(self.time.clone())]
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        HashSet::from([WINDOW_START.to_string(), WINDOW_END.to_string()])
    }

    fn fmt_for_explain(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let time = &self.time;
        match self.windows {
            Windows::Tumble { size_us } => write!(out, "Tumble: {time} every {}", spoken(size_us)),
            Windows::Hop { size_us, slide_us } => {
                write!(
                    out,
                    "Hop: {time} of {} every {}",
                    spoken(size_us),
                    spoken(slide_us)
                )
            }
            Windows::Session { gap_us } => {
                write!(out, "Session: {time} less than {} apart", spoken(gap_us))
            }
        }
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        let (Some(Expr::Column(time)), Some(input)) = (exprs.into_iter().next(), inputs.into_iter().next())
        else {
            return Err(SqlError::new(
                SqlErrorKind::Internal,
                "a window lost its time column while planning",
            )
            .into());
        };
        Windowed::new(Arc::new(input), time, self.windows)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.input.schema().fields().len();
        let mut needed: Vec<usize> = output_columns
            .iter()
            .copied()
            .filter(|column| *column < width)
            .collect();
        needed.push(self.input.schema().maybe_index_of_column(&self.time)?);
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// Turns `TUMBLE(…)` and its like in FROM into a [`Windowed`] node.
#[derive(Debug)]
pub struct WindowPlanner;

impl RelationPlanner for WindowPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> DataFusionResult<RelationPlanning> {
        let TableFactor::Table {
            name,
            alias,
            args: Some(arguments),
            ..
        } = &relation
        else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let function = match function_name(name).as_deref() {
            Some("tumble") => "TUMBLE",
            Some("hop") => "HOP",
            Some("session") => "SESSION",
            _ => return Ok(RelationPlanning::Original(Box::new(relation))),
        };
        let position = Position::start(name.span());
        let refused = |message: String| {
            SqlError::new(SqlErrorKind::Window, message)
                .at(position)
                .hint(match function {
                    "SESSION" => SESSION_USAGE,
                    _ => USAGE,
                })
        };
        let (relation_argument, time_argument, slide_argument, size_argument) =
            match arguments.args.as_slice() {
                [relation, time, size] if function != "HOP" => (relation, time, None, size),
                [relation, time, slide, size] if function == "HOP" => (relation, time, Some(slide), size),
                other => {
                    let takes = match function {
                        "HOP" => "HOP takes a relation, a time column, a slide and a size",
                        "SESSION" => "SESSION takes a relation, a time column and a gap",
                        _ => "TUMBLE takes a relation, a time column and a size",
                    };
                    return Err(refused(format!("{takes}, not {} arguments", other.len())).into());
                }
            };
        let input = match expression(relation_argument) {
            Some(SqlExpr::Identifier(identifier)) => table(vec![identifier.clone()]),
            Some(SqlExpr::CompoundIdentifier(parts)) => table(parts.clone()),
            Some(SqlExpr::Subquery(query)) => TableFactor::Derived {
                lateral: false,
                subquery: query.clone(),
                alias: None,
                sample: None,
            },
            _ => {
                return Err(refused(format!(
                    "the first argument of {function} is the name of a relation"
                ))
                .into());
            }
        };
        let input = context.plan(input)?;
        if [WINDOW_START, WINDOW_END]
            .iter()
            .any(|name| input.schema().has_column_with_unqualified_name(name))
        {
            return Err(refused(format!("the relation under {function} already has a window")).into());
        }
        let time = expression(time_argument)
            .ok_or_else(|| refused(format!("the second argument of {function} is a column")))?;
        let time = match context.sql_to_expr(time.clone(), input.schema())? {
            Expr::Column(column) => column,
            _ => {
                return Err(refused(format!(
                    "the second argument of {function} is a column, not an expression"
                ))
                .hint_instead("compute it in a subquery there")
                .into());
            }
        };
        let (_, field) = input
            .schema()
            .qualified_field_from_column(&time)
            .map(|(q, f)| (q.cloned(), Arc::clone(f)))?;
        if *field.data_type() != timestamp() {
            let found = pyflare_operators::fields::type_name(field.data_type());
            return Err(refused(format!(
                "{} is {found}, {function} needs a Timestamp(µs, UTC)",
                time.name
            ))
            .into());
        }
        let mut interval = |argument: &FunctionArg| -> DataFusionResult<i64> {
            let written = expression(argument)
                .ok_or_else(|| refused(format!("the lengths of {function} are INTERVALs")))?;
            let value = context.sql_to_expr(written.clone(), &DFSchema::empty())?;
            Ok(size_in_us(&value).map_err(refused)?)
        };
        let size_us = interval(size_argument)?;
        let slide_us = slide_argument.map(&mut interval).transpose()?;
        if let Some(slide_us) = slide_us {
            if slide_us > size_us {
                let message = "the slide of HOP is longer than its size: rows between windows would be lost";
                return Err(refused(message.into()).into());
            }
            if size_us / slide_us > MOST_WINDOWS {
                let message = format!(
                    "a row would be in {} windows, at most {MOST_WINDOWS} are maintained",
                    size_us / slide_us
                );
                return Err(refused(message).into());
            }
        }
        if function == "SESSION" && size_us > DAY_US {
            let message = "sessions end with the day (UTC), so no gap is longer than a day";
            return Err(refused(message.into()).into());
        }
        let windows = match (function, slide_us) {
            ("SESSION", _) => Windows::Session { gap_us: size_us },
            (_, Some(slide_us)) if slide_us != size_us => Windows::Hop { size_us, slide_us },
            _ => Windows::Tumble { size_us },
        };
        let node = Windowed::new(Arc::new(input), time, windows)?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(
            plan,
            alias.clone(),
        ))))
    }
}

impl SqlError {
    fn hint_instead(mut self, hint: &str) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

/// The name of a table function, in lower case.
pub(crate) fn function_name(name: &ObjectName) -> Option<String> {
    match name.0.as_slice() {
        [ObjectNamePart::Identifier(identifier)] => Some(identifier.value.to_ascii_lowercase()),
        _ => None,
    }
}

fn table(parts: Vec<datafusion::sql::sqlparser::ast::Ident>) -> TableFactor {
    TableFactor::Table {
        name: ObjectName(parts.into_iter().map(ObjectNamePart::Identifier).collect()),
        alias: None,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    }
}

pub(crate) fn expression(argument: &FunctionArg) -> Option<&SqlExpr> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    }
}

fn size_in_us(size: &Expr) -> Result<i64, String> {
    let Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) = size else {
        return Err("the size of a window is a constant INTERVAL".into());
    };
    let IntervalMonthDayNano {
        months,
        days,
        nanoseconds,
    } = *interval;
    if months != 0 {
        return Err("months and years differ in length and cannot be the size of a window".into());
    }
    if nanoseconds % 1_000 != 0 {
        return Err("the size of a window is a whole number of microseconds".into());
    }
    let size = i64::from(days) * 86_400_000_000 + nanoseconds / 1_000;
    if !(SHORTEST_US..=LONGEST_US).contains(&size) {
        let (least, most) = (spoken(SHORTEST_US), spoken(LONGEST_US));
        return Err(format!(
            "a window lasts from {least} to {most}, not {}",
            spoken(size)
        ));
    }
    Ok(size)
}
