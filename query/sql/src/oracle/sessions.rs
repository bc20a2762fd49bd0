//! `SELECT … FROM SESSION(relation, time, gap) WHERE … GROUP BY …` as gaps and islands.

use datafusion::error::Result;
use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Select, TableFactor};

use super::{failed, last_word};
use crate::window::{expression, function_name};

/// What stands for FROM and WHERE of a SELECT from SESSION; `None` for any other. WHERE must not speak of the window.
pub(super) fn rewritten(select: &Select) -> Result<Option<String>> {
    let [from] = select.from.as_slice() else {
        return Ok(None);
    };
    let TableFactor::Table {
        name,
        alias,
        args: Some(arguments),
        ..
    } = &from.relation
    else {
        return Ok(None);
    };
    if function_name(name).as_deref() != Some("session") {
        return Ok(None);
    }
    let arguments: Vec<&Expr> = arguments.args.iter().filter_map(expression).collect();
    let ([relation, time, gap], true) = (arguments.as_slice(), from.joins.is_empty()) else {
        return Err(failed("SESSION of this form has no batch"));
    };
    let GroupByExpr::Expressions(grouped, _) = &select.group_by else {
        return Err(failed("SESSION without GROUP BY has no batch"));
    };
    let alias = alias
        .as_ref()
        .map_or_else(|| last_word(relation), |alias| alias.name.value.clone());
    let source = format!("{relation} AS \"{alias}\"");
    let condition = select
        .selection
        .as_ref()
        .map_or("true".to_string(), ToString::to_string);
    let day = format!("date_bin(INTERVAL '1 day', {time}, TIMESTAMP '1970-01-01T00:00:00Z')");
    let mut partition: Vec<String> = grouped
        .iter()
        .map(ToString::to_string)
        .filter(|key| !key.contains("window_start") && !key.contains("window_end"))
        .collect();
    partition.push(day);
    let partition = partition.join(", ");
    // Equal times are peers: their order is not decided, and must not matter.
    let begins = format!(
        "CASE WHEN lag({time}) OVER (PARTITION BY {partition} ORDER BY {time}) + {gap} > {time} THEN 0 ELSE 1 END"
    );
    let island =
        format!("sum(begins) OVER (PARTITION BY {partition} ORDER BY {time} RANGE UNBOUNDED PRECEDING)");
    let whole = format!("OVER (PARTITION BY {partition}, island)");
    Ok(Some(format!(
        "SELECT * FROM (SELECT *, min({time}) {whole} AS window_start, max({time}) {whole} + {gap} AS window_end FROM \
         (SELECT *, {island} AS island FROM (SELECT *, {begins} AS begins FROM {source} \
         WHERE {time} IS NOT NULL AND ({condition})) AS \"{alias}\") AS \"{alias}\") AS \"{alias}\""
    )))
}
