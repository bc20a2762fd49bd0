//! Nodes of a plan, each in a line.

use std::fmt::Write;

use pyflare_dataflows::plan::{Interval, JoinKind, OrderKey};
use pyflare_dataflows::{Aggregate, AggregateFunction, Expr, NamedExpr, Plan};
use pyflare_operators::aggregate::Reading;

use super::recent;
use crate::options::spoken;

/// One node in a line.
pub(super) fn node_text(plan: &Plan) -> String {
    match plan {
        Plan::Source { stream, .. } => format!("Source: {stream}"),
        Plan::View { name, .. } => format!("View: {name}"),
        Plan::Recent { .. } => recent::text(plan),
        Plan::Filter { predicate, .. } => format!("Filter: {predicate}"),
        Plan::Project { columns, .. } => format!("Project: {}", named(columns)),
        Plan::Tumble {
            time,
            size_us,
            slide_us,
            ..
        } => match slide_us {
            None => format!("Tumble: {time} every {}", spoken(*size_us)),
            Some(slide) => format!("Hop: {time} of {} every {}", spoken(*size_us), spoken(*slide)),
        },
        Plan::Unnest { column, .. } => format!("Unnest: {column}"),
        Plan::Values { rows, columns } => format!("Values: {} rows of {} columns", rows.len(), columns.len()),
        Plan::Aggregate { keys, aggregates, .. } => {
            let made: Vec<String> = aggregates.iter().map(aggregate_text).collect();
            match keys.is_empty() {
                true => format!("Aggregate: over everything; {}", made.join(", ")),
                false => format!("Aggregate: by {}; {}", named(keys), made.join(", ")),
            }
        }
        Plan::Sessions {
            keys,
            time,
            gap_us,
            aggregates,
            ..
        } => {
            let made: Vec<String> = aggregates.iter().map(aggregate_text).collect();
            let by = match keys.is_empty() {
                true => "of all rows".to_string(),
                false => format!("by {}", named(keys)),
            };
            let gap = spoken(*gap_us);
            format!(
                "Sessions: {by}; {time} less than {gap} apart, cut at midnight; {}",
                made.join(", ")
            )
        }
        Plan::Join {
            kind,
            left,
            on,
            residual,
            interval,
            ..
        } => {
            let word = match kind {
                JoinKind::Inner => "Join",
                JoinKind::Left => "Left join",
                JoinKind::Right => "Right join",
                JoinKind::Full => "Full join",
                JoinKind::Semi => "Semi join",
                JoinKind::Anti => "Anti join",
                JoinKind::Mark => "Mark join",
                JoinKind::NullAwareAnti => "Anti join (NOT IN)",
            };
            let keys: Vec<String> = on
                .iter()
                .map(|key| format!("{} = {}", key.left, key.right))
                .collect();
            let mut line = format!("{word}: {}", keys.join(" AND "));
            if let Some(interval) = interval {
                let separator = if keys.is_empty() { "" } else { "; " };
                let _ = write!(
                    line,
                    "{separator}interval join, buckets of {}",
                    bucket(left, interval)
                );
            }
            if let Some(residual) = residual {
                let _ = write!(line, " where {residual}");
            }
            line
        }
        Plan::Union { .. } => "Union".to_string(),
        Plan::Top {
            partition,
            order,
            skip,
            fetch,
            ..
        } => {
            let mut line = format!("Top: by {}", order_text(order));
            if !partition.is_empty() {
                let partition: Vec<String> = partition.iter().map(ToString::to_string).collect();
                let _ = write!(line, "; of each {}", partition.join(", "));
            }
            if let Some(fetch) = fetch {
                let _ = write!(line, "; {fetch} rows");
            }
            if *skip > 0 {
                let _ = write!(line, " after {skip}");
            }
            line
        }
        Plan::Window {
            partition,
            order,
            functions,
            aggregates,
            ..
        } => {
            let partition: Vec<String> = partition.iter().map(ToString::to_string).collect();
            let mut functions: Vec<String> = functions
                .iter()
                .map(|column| {
                    let arguments: Vec<String> = column.arguments.iter().map(ToString::to_string).collect();
                    format!("{}({}) AS {}", column.function, arguments.join(", "), column.name)
                })
                .collect();
            functions.extend(aggregates.iter().map(|column| aggregate_text(&column.aggregate)));
            format!(
                "Window: {}; partition by {}; order by {}",
                functions.join(", "),
                partition.join(", "),
                order_text(order)
            )
        }
    }
}

/// How wide the buckets of an interval join are.
pub(super) fn bucket(left: &Plan, interval: &Interval) -> String {
    let is_number = left.schema().is_ok_and(|schema| {
        schema
            .field_with_name(&interval.left)
            .is_ok_and(|field| field.data_type().is_integer())
    });
    match is_number {
        true => interval.width().to_string(),
        false => spoken(interval.width()),
    }
}

fn order_text(order: &[OrderKey]) -> String {
    let keys: Vec<String> = order
        .iter()
        .map(|key| format!("{}{}", key.expr, if key.descending { " DESC" } else { "" }))
        .collect();
    keys.join(", ")
}

fn named(columns: &[NamedExpr]) -> String {
    let texts: Vec<String> = columns
        .iter()
        .map(|column| match &column.expr {
            Expr::Column(name) if *name == column.name => name.clone(),
            expr => format!("{expr} AS {}", column.name),
        })
        .collect();
    texts.join(", ")
}

fn aggregate_text(aggregate: &Aggregate) -> String {
    let argument = aggregate
        .argument
        .as_ref()
        .map_or("*".to_string(), ToString::to_string);
    let call = match aggregate.function {
        AggregateFunction::Count => format!("count({argument})"),
        AggregateFunction::CountDistinct => format!("count(DISTINCT {argument})"),
        AggregateFunction::Sum => format!("sum({argument})"),
        AggregateFunction::Avg => format!("avg({argument})"),
        AggregateFunction::Min => format!("min({argument})"),
        AggregateFunction::Max => format!("max({argument})"),
        AggregateFunction::Quantile { q } => format!("quantile({argument}, {q})"),
        AggregateFunction::Spread(spread) => format!("{}({argument})", Reading::Spread(spread).name()),
        AggregateFunction::Relationship(relationship) => {
            let second = aggregate
                .second
                .as_ref()
                .map_or(String::new(), ToString::to_string);
            format!("{}({argument}, {second})", relationship.name())
        }
        AggregateFunction::StringAgg { distinct } => {
            let separator = aggregate
                .second
                .as_ref()
                .map_or(String::new(), ToString::to_string);
            format!(
                "string_agg({}, {separator}{})",
                listed(&argument, distinct),
                inner_order(aggregate)
            )
        }
        AggregateFunction::ArrayAgg { distinct } => {
            format!(
                "array_agg({}{})",
                listed(&argument, distinct),
                inner_order(aggregate)
            )
        }
        AggregateFunction::First => format!("first_value({argument}{})", inner_order(aggregate)),
        AggregateFunction::Last => format!("last_value({argument}{})", inner_order(aggregate)),
    };
    let filter = aggregate
        .filter
        .as_ref()
        .map_or(String::new(), |filter| format!(" FILTER (WHERE {filter})"));
    format!("{call}{filter} AS {}", aggregate.name)
}

fn listed(argument: &str, distinct: bool) -> String {
    match distinct {
        true => format!("DISTINCT {argument}"),
        false => argument.to_string(),
    }
}

fn inner_order(aggregate: &Aggregate) -> String {
    match aggregate.order.is_empty() {
        true => String::new(),
        false => format!(" ORDER BY {}", order_text(&aggregate.order)),
    }
}
