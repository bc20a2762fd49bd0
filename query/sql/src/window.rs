//! `TUMBLE(relation, time, INTERVAL '…')` in FROM.
//!
//! The planner meets it as a table with arguments and puts a [`Tumble`] node above the relation: all its columns,
//! then `window_start` and `window_end`. Predicates may be pushed below it unless they speak of the window.

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
use pyflare_dataflows::plan::{WINDOW_END, WINDOW_START};

use crate::error::{Position, SqlError, SqlErrorKind};
use crate::options::spoken;

const SHORTEST_US: i64 = 1_000_000;
const LONGEST_US: i64 = 366 * 86_400 * 1_000_000;
const USAGE: &str = "write TUMBLE(spans, event_time, INTERVAL '1 minute')";

/// The tumbling window as a node of a logical plan.
#[derive(Debug, Clone)]
pub struct Tumble {
    pub input: Arc<LogicalPlan>,
    /// A timestamp column of the input.
    pub time: Column,
    pub size_us: i64,
    schema: DFSchemaRef,
}

impl Tumble {
    pub fn new(input: Arc<LogicalPlan>, time: Column, size_us: i64) -> DataFusionResult<Self> {
        let schema = with_window(input.schema())?;
        Ok(Tumble {
            input,
            time,
            size_us,
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

impl PartialEq for Tumble {
    fn eq(&self, other: &Self) -> bool {
        self.input == other.input && self.time == other.time && self.size_us == other.size_us
    }
}

impl Eq for Tumble {}

impl Hash for Tumble {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.time.hash(state);
        self.size_us.hash(state);
    }
}

impl PartialOrd for Tumble {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.input.partial_cmp(&other.input) {
            Some(Ordering::Equal) => (&self.time, self.size_us).partial_cmp(&(&other.time, other.size_us)),
            other => other,
        }
    }
}

impl UserDefinedLogicalNodeCore for Tumble {
    fn name(&self) -> &str {
        "Tumble"
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
        write!(out, "Tumble: {} every {}", self.time, spoken(self.size_us))
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
        Tumble::new(Arc::new(input), time, self.size_us)
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

/// Turns `TUMBLE(…)` in FROM into a [`Tumble`] node.
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
        if function_name(name).as_deref() != Some("tumble") {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        }
        let position = Position::start(name.span());
        let refused = |message: String| {
            SqlError::new(SqlErrorKind::Window, message)
                .at(position)
                .hint(USAGE)
        };
        let [relation_argument, time_argument, size_argument] = arguments.args.as_slice() else {
            let found = arguments.args.len();
            return Err(refused(format!(
                "TUMBLE takes a relation, a time column and a size, not {found} arguments"
            ))
            .into());
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
            _ => return Err(refused("the first argument of TUMBLE is the name of a relation".into()).into()),
        };
        let input = context.plan(input)?;
        if [WINDOW_START, WINDOW_END]
            .iter()
            .any(|name| input.schema().has_column_with_unqualified_name(name))
        {
            return Err(refused("the relation under TUMBLE already has a window".into()).into());
        }
        let time = expression(time_argument)
            .ok_or_else(|| refused("the second argument of TUMBLE is a column".into()))?;
        let time = match context.sql_to_expr(time.clone(), input.schema())? {
            Expr::Column(column) => column,
            _ => {
                return Err(
                    refused("the second argument of TUMBLE is a column, not an expression".into())
                        .hint_instead("compute it in a subquery under TUMBLE")
                        .into(),
                );
            }
        };
        let (_, field) = input
            .schema()
            .qualified_field_from_column(&time)
            .map(|(q, f)| (q.cloned(), Arc::clone(f)))?;
        if *field.data_type() != timestamp() {
            let found = pyflare_operators::fields::type_name(field.data_type());
            return Err(refused(format!(
                "{} is {found}, TUMBLE needs a Timestamp(µs, UTC)",
                time.name
            ))
            .into());
        }
        let size = expression(size_argument)
            .ok_or_else(|| refused("the third argument of TUMBLE is an INTERVAL".into()))?;
        let size = context.sql_to_expr(size.clone(), &DFSchema::empty())?;
        let size_us = size_in_us(&size).map_err(refused)?;
        let node = Tumble::new(Arc::new(input), time, size_us)?;
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
