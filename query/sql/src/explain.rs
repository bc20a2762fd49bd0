//! What a monitor is, said in words: for EXPLAIN MONITOR.

mod recent;

use std::fmt::Write;

use arrow::datatypes::SchemaRef;
use pyflare_dataflows::plan::{JoinKind, OrderKey, WINDOW_END, WINDOW_START};
use pyflare_dataflows::{Aggregate, AggregateFunction, Expr, MonitorDefinition, NamedExpr, Plan};
use pyflare_operators::aggregate::Reading;
use pyflare_operators::fields::type_name;

use crate::error::SqlError;
use crate::lower::not_planned;
use crate::options::spoken;

/// A monitor explained.
#[derive(Debug, Clone)]
pub struct Explained {
    /// DataFusion's optimized plan.
    pub logical: String,
    /// Our plan, one node a line.
    pub plan: String,
    /// The plan's nodes, in the order of its lines.
    pub nodes: Vec<ExplainedNode>,
    /// What runs, from the stream to the view.
    pub operators: Vec<String>,
    /// How much is kept.
    pub state_bound: String,
    /// The columns that identify a row; none: the whole row does.
    pub key: Vec<String>,
    /// The view's columns.
    pub schema: SchemaRef,
    /// Equal for monitors that compute the same.
    pub fingerprint: String,
    pub definition: MonitorDefinition,
}

impl Explained {
    pub(crate) fn of(definition: MonitorDefinition, logical: String) -> Result<Explained, SqlError> {
        let schema = definition.plan.schema().map_err(not_planned)?;
        Ok(Explained {
            logical,
            plan: plan_text(&definition.plan),
            nodes: nodes(&definition.plan),
            operators: operators(&definition),
            state_bound: state_bound(&definition),
            key: key_columns(&definition.plan),
            schema,
            fingerprint: definition.fingerprint(),
            definition,
        })
    }

    /// Everything as `(topic, text)` lines, the way a table shows it.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        lines.extend(self.plan.lines().map(|line| ("plan", line.to_string())));
        lines.extend(self.operators.iter().map(|line| ("operators", line.clone())));
        lines.push(("state", self.state_bound.clone()));
        let key = if self.key.is_empty() {
            "the whole row".to_string()
        } else {
            self.key.join(", ")
        };
        lines.push(("key", key));
        for field in self.schema.fields() {
            lines.push((
                "column",
                format!("{} {}", field.name(), type_name(field.data_type())),
            ));
        }
        lines.push(("fingerprint", self.fingerprint.clone()));
        lines.extend(self.logical.lines().map(|line| ("logical", line.to_string())));
        lines
    }
}

/// A node of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedNode {
    /// The number of its line in the plan's text, from 0.
    pub node: usize,
    /// The nodes that it reads.
    pub inputs: Vec<usize>,
    /// What it is: `Source`, `Aggregate`, `Left join`, ….
    pub title: String,
    /// Of what, by what.
    pub detail: String,
}

fn nodes(plan: &Plan) -> Vec<ExplainedNode> {
    let mut nodes = Vec::with_capacity(plan.size());
    add_nodes(plan, &mut nodes);
    nodes
}

fn add_nodes(plan: &Plan, nodes: &mut Vec<ExplainedNode>) {
    let number = nodes.len();
    let text = line_text(plan);
    let (title, detail) = text.split_once(": ").unwrap_or((&text, ""));
    nodes.push(ExplainedNode {
        node: number,
        inputs: Vec::new(),
        title: title.to_string(),
        detail: detail.to_string(),
    });
    for input in plan.inputs() {
        let input_number = nodes.len();
        nodes[number].inputs.push(input_number);
        add_nodes(input, nodes);
    }
}

fn plan_text(plan: &Plan) -> String {
    let mut text = String::new();
    write_node(plan, 0, &mut text);
    text
}

fn write_node(plan: &Plan, depth: usize, text: &mut String) {
    let line = line_text(plan);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{:indent$}{line}", "", indent = depth * 2);
    for input in plan.inputs() {
        write_node(input, depth + 1, text);
    }
}

fn line_text(plan: &Plan) -> String {
    node_text(plan).trim_end_matches(['\u{20}', ';']).to_string()
}

/// One node in a line.
fn node_text(plan: &Plan) -> String {
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
        Plan::Join {
            kind, on, residual, ..
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

/// The aggregate of a plan, with what lies above it, outermost first.
fn split(plan: &Plan) -> (Vec<&Plan>, Option<&Plan>) {
    let mut above = Vec::new();
    let mut node = plan;
    loop {
        match node {
            Plan::Aggregate { .. } => return (above, Some(node)),
            Plan::Filter { input, .. } | Plan::Project { input, .. } | Plan::Tumble { input, .. } => {
                above.push(node);
                node = input;
            }
            _ => return (above, None),
        }
    }
}

/// The columns that show the groups' keys, if all of them are shown.
pub(crate) fn key_columns(plan: &Plan) -> Vec<String> {
    let (above, Some(Plan::Aggregate { keys, .. })) = split(plan) else {
        return Vec::new();
    };
    let mut shown = Vec::with_capacity(keys.len());
    for key in keys {
        let mut name = key.name.clone();
        for node in above.iter().rev() {
            if let Plan::Project { columns, .. } = node {
                match columns
                    .iter()
                    .find(|column| column.expr == Expr::Column(name.clone()))
                {
                    Some(column) => name.clone_from(&column.name),
                    None => return Vec::new(),
                }
            }
        }
        shown.push(name);
    }
    shown
}

fn window_us(plan: &Plan) -> Option<i64> {
    match plan {
        Plan::Tumble { size_us, .. } => Some(*size_us),
        Plan::Filter { input, .. }
        | Plan::Project { input, .. }
        | Plan::Unnest { input, .. }
        | Plan::Aggregate { input, .. } => window_us(input),
        _ => None,
    }
}

fn slide_us(plan: &Plan) -> Option<i64> {
    match plan {
        Plan::Tumble { slide_us, .. } => *slide_us,
        Plan::Filter { input, .. }
        | Plan::Project { input, .. }
        | Plan::Unnest { input, .. }
        | Plan::Aggregate { input, .. } => slide_us(input),
        _ => None,
    }
}

fn shows_window(plan: &Plan) -> bool {
    let (_, Some(Plan::Aggregate { keys, .. })) = split(plan) else {
        return false;
    };
    keys.iter()
        .any(|key| matches!(&key.expr, Expr::Column(name) if name == WINDOW_START || name == WINDOW_END))
}

fn state_bound(definition: &MonitorDefinition) -> String {
    let retention = definition.retention_us();
    let plan = &definition.plan;
    if !is_simple(plan) {
        return format!(
            "one row per group and pane of every aggregate over a stream, every row of a stream that is joined, and \
             what joins, orders and aggregates above them keep; all for {}",
            spoken(retention)
        );
    }
    let (_, aggregate) = split(plan);
    if let Some((after, quantum)) = recent::leaving(plan) {
        return match aggregate {
            Some(_) => format!(
                "one row per group and step of {}, for {}; the steps are summed by group",
                spoken(quantum),
                spoken(after)
            ),
            None => format!("every row that passes the filters, for {}", spoken(after)),
        };
    }
    match (aggregate, window_us(plan)) {
        (Some(_), Some(size)) if shows_window(plan) => {
            let panes = retention / slide_us(plan).unwrap_or(size) + 1;
            format!(
                "one row per group and window; windows of {} stay {} after their end: at most {panes} windows at a time",
                spoken(size),
                spoken(retention)
            )
        }
        (Some(_), window) => {
            let pane = window.unwrap_or_else(|| (retention / 100).max(1_000_000));
            format!(
                "one row per group and pane of {}; panes stay {} and are summed by group",
                spoken(pane),
                spoken(retention)
            )
        }
        (None, _) => format!(
            "every row that passes the filters, for {}: shorten retention or aggregate if these are many",
            spoken(retention)
        ),
    }
}

/// Filters and columns over at most one aggregate over one stream: such a view is read from one arrangement.
fn is_simple(plan: &Plan) -> bool {
    match plan {
        Plan::Source { .. } => true,
        Plan::Recent { input, .. }
        | Plan::Filter { input, .. }
        | Plan::Project { input, .. }
        | Plan::Tumble { input, .. }
        | Plan::Unnest { input, .. } => is_simple(input),
        Plan::Aggregate { input, keys, .. } => {
            !keys.is_empty() && is_simple(input) && split(input).1.is_none()
        }
        _ => false,
    }
}

/// What a plan with joins and the like is made of, inputs first.
fn graph_operators(plan: &Plan, lines: &mut Vec<String>) {
    for input in plan.inputs() {
        graph_operators(input, lines);
    }
    lines.push(match plan {
        Plan::Source { stream, .. } => format!("read {stream} from the log"),
        Plan::View { name, .. } => format!("follow the view {name}"),
        Plan::Recent { .. } => recent::text(plan),
        Plan::Filter { .. } => "filter batches of rows".to_string(),
        Plan::Project { .. } => "compute columns of batches of rows".to_string(),
        Plan::Tumble { size_us, .. } => format!("assign windows of {}", spoken(*size_us)),
        Plan::Unnest { .. } => "make a row of each element of a list".to_string(),
        Plan::Values { rows, .. } => format!("{} constant rows", rows.len()),
        Plan::Aggregate { keys, .. } => {
            format!("combine, exchange and arrange by {} keys", keys.len())
        }
        Plan::Join { on, residual, .. } => format!(
            "arrange both sides by {} keys and join{}",
            on.len(),
            if residual.is_some() {
                ", then filter pairs"
            } else {
                ""
            }
        ),
        Plan::Union { inputs } => format!("unite {} inputs", inputs.len()),
        Plan::Top { .. } => "arrange in order and take the first rows".to_string(),
        Plan::Window { .. } => "arrange by partition in order and compute window functions".to_string(),
    });
}

fn operators(definition: &MonitorDefinition) -> Vec<String> {
    if !is_simple(&definition.plan) {
        let mut lines = Vec::new();
        graph_operators(&definition.plan, &mut lines);
        lines.push("arrange the result's rows".to_string());
        return lines;
    }
    let (above, aggregate) = split(&definition.plan);
    let mut lines = Vec::new();
    let below = match aggregate {
        Some(Plan::Aggregate { input, .. }) => input,
        _ => &definition.plan,
    };
    let mut nodes = Vec::new();
    let mut node = below;
    loop {
        nodes.push(node);
        match node {
            Plan::Recent { input, .. }
            | Plan::Filter { input, .. }
            | Plan::Project { input, .. }
            | Plan::Tumble { input, .. }
            | Plan::Unnest { input, .. }
            | Plan::Aggregate { input, .. } => node = input,
            _ => break,
        }
    }
    for node in nodes.iter().rev() {
        lines.push(match node {
            Plan::Source { stream, .. } => {
                format!(
                    "read {stream} from the log; late is what the watermark (mark − {}) has left behind",
                    spoken(definition.lateness_us())
                )
            }
            Plan::Filter { .. } => "filter Arrow batches".to_string(),
            Plan::Project { .. } => "compute columns on Arrow batches".to_string(),
            Plan::Tumble { size_us, .. } => format!("assign windows of {}", spoken(*size_us)),
            Plan::Unnest { .. } => "make a row of each element of a list".to_string(),
            other => node_text(other),
        });
    }
    match aggregate {
        Some(Plan::Aggregate { keys, aggregates, .. }) => {
            let cells = if aggregates.is_empty() {
                "presence".to_string()
            } else {
                format!("{} aggregates", aggregates.len())
            };
            lines.push(format!(
                "combine each tick's rows by {} keys into {cells}",
                keys.len()
            ));
            lines.push("exchange between workers by key".to_string());
            lines.push(if shows_window(&definition.plan) {
                "arrange by window and key".to_string()
            } else {
                "arrange by pane and key, then sum the panes alive by key".to_string()
            });
        }
        _ => lines.push("arrange whole rows with their multiplicity".to_string()),
    }
    if aggregate.is_some() {
        for node in above.iter().rev() {
            lines.push(match node {
                Plan::Filter { .. } => "filter changed groups (HAVING)".to_string(),
                _ => "compute columns of changed groups".to_string(),
            });
        }
    }
    lines.push(match recent::leaving(&definition.plan) {
        Some((after, quantum)) => format!(
            "take rows back {} after their event time, in steps of {}",
            spoken(after),
            spoken(quantum)
        ),
        None => format!(
            "take panes back {} after their end",
            spoken(definition.retention_us())
        ),
    });
    lines
}
