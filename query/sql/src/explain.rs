//! What a monitor is, said in words: for EXPLAIN MONITOR.

mod recent;
mod text;

use std::fmt::Write;

use arrow::datatypes::SchemaRef;
use pyflare_dataflows::plan::{WINDOW_END, WINDOW_START};
use pyflare_dataflows::{Expr, MonitorDefinition, Plan};
use pyflare_operators::fields::type_name;

use self::text::{bucket, node_text};
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

/// The aggregate of a plan, which may be one of sessions, with what lies above it, outermost first.
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

/// The columns that show the groups' keys, if all of them are shown.
pub(crate) fn key_columns(plan: &Plan) -> Vec<String> {
    let (above, keys): (_, Vec<&str>) = match split(plan) {
        (above, Some(Plan::Aggregate { keys, .. })) => (above, keys.iter().map(|key| &*key.name).collect()),
        (above, Some(Plan::Sessions { keys, .. })) => {
            let names = keys.iter().map(|key| &*key.name);
            (above, names.chain([WINDOW_START]).collect())
        }
        _ => return Vec::new(),
    };
    let mut shown = Vec::with_capacity(keys.len());
    for key in keys {
        let mut name = key.to_string();
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
    if let Some(gaps) = gaps(plan) {
        let held = match definition.options.emit_final {
            true => format!(
                "; each session waits until the watermark (mark − {}) has passed its end, and rows behind it are late",
                spoken(definition.lateness_us())
            ),
            false => String::new(),
        };
        return format!(
            "every row that SESSION reads, with the columns used of it, until {} after the end of its day (UTC); above \
             them one accumulator per key and bucket of {gaps}, and what joins, orders and aggregates keep{held}",
            spoken(retention)
        );
    }
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

/// The gaps of the sessions in a plan.
fn gaps(plan: &Plan) -> Option<String> {
    let below = plan.inputs().into_iter().find_map(gaps);
    match plan {
        Plan::Sessions { gap_us, .. } => Some(spoken(*gap_us)),
        _ => below,
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
        Plan::Sessions { keys, gap_us, .. } => format!(
            "combine, exchange and arrange by {} keys, day and bucket of {}; merge buckets less than that apart",
            keys.len(),
            spoken(*gap_us)
        ),
        Plan::Join {
            left,
            on,
            residual,
            interval: Some(interval),
            ..
        } => format!(
            "interval join: arrange both sides by {} keys and buckets of {}, one side in two of them, and join{}",
            on.len(),
            bucket(left, interval),
            if residual.is_some() { ", then filter pairs" } else { "" }
        ),
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
