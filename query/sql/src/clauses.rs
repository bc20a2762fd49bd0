//! Clauses that cannot be maintained, refused before planning, where their place in the text is still known.
//!
//! Everything the planner accepts and the engine cannot keep is named here by the word its author used; what slips
//! through is refused by the lowering, without a place.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Distinct, DuplicateTreatment, Expr, Function, FunctionArgumentClause, FunctionArguments, GroupByExpr,
    Join, JoinConstraint, JoinOperator, LimitClause, ObjectName, ObjectNamePart, Query, Select, SetExpr,
    SetOperator, SetQuantifier, Spanned, TableFactor, Visit, Visitor,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::aggregates::{FUNCTIONS, is_maintained};
use crate::error::{Position, SqlError, SqlErrorKind};
use crate::window::{expression, function_name};

const VOLATILE: [&str; 14] = [
    "current_date",
    "current_time",
    "localtime",
    "localtimestamp",
    "today",
    "getdate",
    "random",
    "rand",
    "uuid",
    "uuidv7",
    "gen_random_uuid",
    "input_file_name",
    "file_row_index",
    "version",
];

/// Refuses what cannot be maintained.
pub(crate) fn check(query: &Query) -> Result<(), SqlError> {
    let mut visitor = Clauses::default();
    match query.visit(&mut visitor) {
        ControlFlow::Break(error) => Err(*error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

#[derive(Default)]
struct Clauses {
    /// Where the subqueries begin that stand as relations in `TUMBLE(…)` and its like.
    relations: BTreeSet<(u64, u64)>,
}

type Flow = ControlFlow<Box<SqlError>>;

fn refuse(clause: impl Into<String>, span: Span, hint: impl Into<String>) -> Flow {
    refuse_as(SqlErrorKind::Clause, clause, span, hint)
}

fn refuse_as(kind: SqlErrorKind, message: impl Into<String>, span: Span, hint: impl Into<String>) -> Flow {
    ControlFlow::Break(Box::new(
        SqlError::new(kind, message).at(Position::start(span)).hint(hint),
    ))
}

impl Visitor for Clauses {
    type Break = Box<SqlError>;

    fn pre_visit_query(&mut self, query: &Query) -> Flow {
        let span = query.body.span();
        if let Some(with) = query.with.as_ref().filter(|with| with.recursive) {
            return refuse(
                "WITH RECURSIVE is not maintained",
                with.span(),
                "write the query without recursion",
            );
        }
        let limited = query.limit_clause.is_some() || query.fetch.is_some();
        let of_each = matches!(query.body.as_ref(), SetExpr::Select(select) if matches!(select.distinct, Some(Distinct::On(_))));
        if of_each && (query.order_by.is_none() || limited) {
            let (what, hint) = match limited {
                true => (
                    "DISTINCT ON with LIMIT",
                    "put DISTINCT ON into a subquery in FROM, and ORDER BY … LIMIT outside",
                ),
                false => (
                    "DISTINCT ON without ORDER BY",
                    "add ORDER BY, which says which row of each is the first",
                ),
            };
            return refuse(format!("{what} would keep whichever rows came first"), span, hint);
        }
        if let Some(order_by) = query.order_by.as_ref().filter(|_| !limited && !of_each) {
            let hint = "a view is a set of rows: add LIMIT to keep the first ones, or order what you read, for \
                        example with SELECT … FROM live.<monitor> ORDER BY …";
            return refuse("ORDER BY without LIMIT is not maintained", order_by.span(), hint);
        }
        if query.order_by.is_none() && limited {
            let hint = "add ORDER BY, or put the LIMIT into the query that reads the monitor";
            return refuse(
                "LIMIT without ORDER BY would keep whichever rows came first",
                span,
                hint,
            );
        }
        if query.fetch.is_some() {
            return refuse("FETCH FIRST is not supported", span, "write ORDER BY … LIMIT n");
        }
        let oddities = [
            (!query.locks.is_empty(), "FOR UPDATE and FOR SHARE"),
            (query.for_clause.is_some(), "FOR XML and FOR JSON"),
            (query.settings.is_some(), "SETTINGS"),
            (query.format_clause.is_some(), "FORMAT"),
            (!query.pipe_operators.is_empty(), "the pipe operator |>"),
        ];
        if let Some((_, what)) = oddities.iter().find(|(found, _)| *found) {
            return refuse(
                format!("{what} has no meaning in a monitor"),
                span,
                "leave it out",
            );
        }
        match query.body.as_ref() {
            SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => ControlFlow::Continue(()),
            SetExpr::SetOperation {
                op, set_quantifier, ..
            } => match (op, set_quantifier) {
                (SetOperator::Union, SetQuantifier::All | SetQuantifier::Distinct | SetQuantifier::None)
                | (_, SetQuantifier::Distinct | SetQuantifier::None) => ControlFlow::Continue(()),
                (SetOperator::Union, _) => refuse(
                    "UNION BY NAME is not maintained",
                    span,
                    "select the columns in one order and write UNION",
                ),
                _ => refuse(
                    "INTERSECT ALL and EXCEPT ALL are not maintained",
                    span,
                    "leave ALL out, or number equal rows with row_number()",
                ),
            },
            SetExpr::Table(_) => refuse("TABLE … is not a SELECT", span, "write SELECT * FROM …"),
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                refuse("a monitor reads and never writes", span, "write a SELECT")
            }
        }
    }

    fn pre_visit_select(&mut self, select: &Select) -> Flow {
        let span = select.select_token.0.span;
        let oddities = [
            (select.top.is_some(), "TOP"),
            (select.into.is_some(), "INTO"),
            (select.prewhere.is_some(), "PREWHERE"),
            (!select.lateral_views.is_empty(), "LATERAL VIEW"),
            (!select.connect_by.is_empty(), "CONNECT BY"),
            (!select.cluster_by.is_empty(), "CLUSTER BY"),
            (!select.distribute_by.is_empty(), "DISTRIBUTE BY"),
            (!select.sort_by.is_empty(), "SORT BY"),
            (select.value_table_mode.is_some(), "SELECT AS VALUE"),
            (select.exclude.is_some(), "EXCLUDE after the columns"),
        ];
        if let Some((_, what)) = oddities.iter().find(|(found, _)| *found) {
            return refuse(
                format!("{what} has no meaning in a monitor"),
                span,
                "leave it out",
            );
        }
        let modifiers = match &select.group_by {
            GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers) => modifiers,
        };
        if !modifiers.is_empty() {
            return refuse(
                "GROUP BY … WITH is not the standard's form",
                select.group_by.span(),
                "write GROUP BY ROLLUP (…), CUBE (…) or GROUPING SETS (…)",
            );
        }
        for join in select.from.iter().flat_map(|from| &from.joins) {
            shared_columns(join, span)?;
        }
        if select.from.is_empty() {
            return refuse(
                "a SELECT without FROM is constant",
                span,
                "write FROM spans, or FROM TUMBLE(spans, event_time, INTERVAL '1 minute')",
            );
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> Flow {
        let span = factor.span();
        match factor {
            TableFactor::Table {
                name,
                args: Some(arguments),
                ..
            } => {
                let function = function_name(name).unwrap_or_else(|| name.to_string());
                match function.as_str() {
                    "tumble" | "hop" | "session" => {
                        if let Some(Expr::Subquery(query)) = arguments.args.first().and_then(expression) {
                            self.relations.insert(place(query));
                        }
                        ControlFlow::Continue(())
                    }
                    "unnest" => refuse("UNNEST in FROM is not maintained yet", span, UNNEST_HINT),
                    other => refuse(format!("there is no table function {other}"), span, WINDOW_HINT),
                }
            }
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                refuse(
                    "TABLESAMPLE is random, so it cannot be maintained",
                    span,
                    "filter by a hash of trace_id instead",
                )
            }
            TableFactor::Derived { lateral: true, .. } => {
                refuse("LATERAL is not maintained yet", span, "write a plain subquery")
            }
            TableFactor::Table { .. } | TableFactor::Derived { .. } | TableFactor::NestedJoin { .. } => {
                ControlFlow::Continue(())
            }
            TableFactor::UNNEST { .. } => refuse("UNNEST in FROM is not maintained yet", span, UNNEST_HINT),
            _ => refuse("this form of FROM is not maintained", span, WINDOW_HINT),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> Flow {
        let span = expr.span();
        match expr {
            Expr::Subquery(query) if self.relations.contains(&place(query)) => ControlFlow::Continue(()),
            Expr::Subquery(query) if !has_one_row(query) => refuse(
                "a subquery that stands for a value must have one row",
                span,
                "write an aggregate without GROUP BY, such as (SELECT max(…) FROM …)",
            ),
            Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } if matches!(**right, Expr::Subquery(_)) => {
                refuse(
                    "ANY and ALL over a subquery are not maintained yet",
                    span,
                    SUBQUERY_HINT,
                )
            }
            Expr::SimilarTo { .. } => refuse(
                "SIMILAR TO is not supported",
                span,
                "use LIKE, or ~ with a regular expression",
            ),
            Expr::Function(function) if is_window_function(function) => ControlFlow::Continue(()),
            Expr::Function(function) => check_function(function),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// In a RIGHT or FULL JOIN the column of both sides is the one that is there; DataFusion takes the left one's NULL.
fn shared_columns(join: &Join, span: Span) -> Flow {
    let (what, constraint) = match &join.join_operator {
        JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => ("RIGHT JOIN", constraint),
        JoinOperator::FullOuter(constraint) => ("FULL JOIN", constraint),
        _ => return ControlFlow::Continue(()),
    };
    let how = match constraint {
        JoinConstraint::Using(_) => format!("{what} … USING"),
        JoinConstraint::Natural => format!("NATURAL {what}"),
        JoinConstraint::On(_) | JoinConstraint::None => return ControlFlow::Continue(()),
    };
    refuse(
        format!("{how} is not maintained: its columns of both sides have no name of their own"),
        span,
        "write ON a.x = b.x, and coalesce(a.x, b.x) AS x",
    )
}

const WINDOW_HINT: &str = "use TUMBLE(spans, event_time, INTERVAL '1 minute')";
const SUBQUERY_HINT: &str = "subqueries may stand in FROM; elsewhere write the condition itself";
const UNNEST_HINT: &str = "write it in the SELECT list: SELECT span_id, unnest(list) AS element FROM …";

fn place(query: &Query) -> (u64, u64) {
    let start = query.span().start;
    (start.line, start.column)
}

fn check_function(function: &Function) -> Flow {
    let span = function.name.span();
    let Some(name) = plain_name(&function.name) else {
        return refuse_as(
            SqlErrorKind::Meaning,
            format!("there is no function {}", function.name),
            span,
            "functions have one-word names",
        );
    };
    if VOLATILE.contains(&name.as_str()) {
        let hint = match name.as_str() {
            "random" | "rand" | "uuid" | "uuidv7" | "gen_random_uuid" => {
                "compute what you need from columns, for example from a hash of trace_id"
            }
            _ => "of the clock there is now() in WHERE: event_time > now() - INTERVAL '1 hour'",
        };
        return refuse_as(
            SqlErrorKind::Volatile,
            format!("{name}() gives another value every time, so its rows could not be taken back"),
            span,
            hint,
        );
    }
    if !is_maintained(&name) {
        if is_other_aggregate(&name) {
            let known: Vec<&str> = FUNCTIONS.iter().map(|(known, _)| *known).collect();
            let hint = match name.as_str() {
                "percentile_cont" | "quantile_cont" => {
                    "use quantile(x, 0.95), which is within 1 %".to_string()
                }
                _ => format!("there are {}", known.join(", ")),
            };
            return refuse_as(
                SqlErrorKind::Aggregate,
                format!("the aggregate {name} is not maintained yet"),
                span,
                hint,
            );
        }
        return ControlFlow::Continue(());
    }
    let FunctionArguments::List(arguments) = &function.args else {
        return ControlFlow::Continue(());
    };
    if arguments.duplicate_treatment == Some(DuplicateTreatment::Distinct)
        && !matches!(
            name.as_str(),
            "min" | "max" | "count" | "bool_and" | "bool_or" | "string_agg" | "array_agg"
        )
    {
        let hint = "select the distinct values in a subquery in FROM and aggregate those";
        return refuse_as(
            SqlErrorKind::Aggregate,
            format!("{name}(DISTINCT …) is not maintained yet"),
            span,
            hint,
        );
    }
    let ordered = arguments
        .clauses
        .iter()
        .any(|clause| matches!(clause, FunctionArgumentClause::OrderBy(_)));
    let has_order = matches!(
        name.as_str(),
        "string_agg" | "array_agg" | "first_value" | "last_value"
    );
    if ordered && !has_order {
        let message = format!("ORDER BY inside {name} has no meaning");
        return refuse_as(SqlErrorKind::Aggregate, message, span, "leave it out");
    }
    ControlFlow::Continue(())
}

/// Whether a subquery is an aggregate without GROUP BY, or the first row of an order.
fn has_one_row(query: &Query) -> bool {
    let one = |limit: &LimitClause| match limit {
        LimitClause::LimitOffset { limit, .. } => {
            matches!(limit, Some(Expr::Value(value)) if value.value.to_string() == "1")
        }
        LimitClause::OffsetCommaLimit { .. } => false,
    };
    if query.limit_clause.as_ref().is_some_and(one) {
        return true;
    }
    let SetExpr::Select(select) = query.body.as_ref() else {
        return false;
    };
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    let mut found = Aggregates(false);
    for item in &select.projection {
        let _: ControlFlow<()> = item.visit(&mut found);
    }
    !grouped && found.0
}

/// Whether an aggregate function was met.
struct Aggregates(bool);

impl Visitor for Aggregates {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && function.over.is_none()
            && let Some(name) = plain_name(&function.name)
        {
            self.0 |= is_maintained(&name);
        }
        ControlFlow::Continue(())
    }
}

fn plain_name(name: &ObjectName) -> Option<String> {
    match name.0.as_slice() {
        [ObjectNamePart::Identifier(identifier)] => Some(identifier.value.to_ascii_lowercase()),
        _ => None,
    }
}

/// Whether it is called as a window function: `first_value` and its relatives are aggregates as well.
fn is_window_function(function: &Function) -> bool {
    let is_called = |known: &str| plain_name(&function.name).is_some_and(|name| name == known);
    function.over.is_some()
        && pyflare_dataflows::plan::window_functions()
            .iter()
            .any(|known| is_called(known.name()) || known.aliases().iter().any(|alias| is_called(alias)))
}

/// Whether DataFusion has an aggregate of this name.
fn is_other_aggregate(name: &str) -> bool {
    datafusion::functions_aggregate::all_default_aggregate_functions()
        .iter()
        .any(|function| function.name() == name || function.aliases().iter().any(|alias| alias == name))
}
