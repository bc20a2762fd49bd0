//! What a view computes above its leaves: joins, unions, aggregates of aggregates, the first rows of a partition.
//!
//! A [`Graph`] is compiled once for all workers; [`running::RunningGraph`] is its dataflow on one worker. Between
//! operators a row is its columns in memcmp-ordered bytes ([`rows`]), so that keys compare as values do, and two rows
//! side by side are the two byte strings one behind the other. What a graph keeps is derived from its inputs: leaves
//! and other views, whose changes of a tick it is given when they are complete.

pub(crate) mod budget;
pub(crate) mod frames;
pub(crate) mod group;
pub(crate) mod rows;
pub(crate) mod running;

mod compiler;
mod constants;
mod fold;
mod intervals;
mod operators;
mod pairs;
mod sessions;
mod watch;
mod withheld;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;

pub(crate) use self::compiler::Compiler;
use self::compiler::compiled;
use self::group::Choice;
use self::intervals::Buckets;
use super::cells::{Cells, Outputs};
use super::pipeline::Pipeline;
use crate::plan::{JoinKind, PlanError};

/// Where rows of a graph come from.
pub(crate) enum Input {
    /// The leaf of that number.
    Leaf(usize),
    /// The view of that name, in the order of the definition.
    View(String),
}

/// The operators above a view's leaves.
pub(crate) struct Graph {
    pub inputs: Vec<Input>,
    pub input_schemas: Vec<SchemaRef>,
    /// What is read several times, each after those it reads itself.
    pub shared: Vec<Node>,
    pub root: Node,
}

impl Graph {
    /// The leaf that an input is, if it is one.
    pub fn leaf_of(&self, input: usize) -> Option<usize> {
        match self.inputs.get(input)? {
            Input::Leaf(leaf) => Some(*leaf),
            Input::View(_) => None,
        }
    }

    /// The nodes of the plan that read an input, with the input's number.
    pub fn readers(&self) -> Vec<(usize, usize)> {
        self.nodes().flat_map(Node::readers).collect()
    }

    /// Numbers of the plan's nodes with what their operators are, in a word.
    pub fn words(&self) -> BTreeMap<usize, &'static str> {
        self.nodes().flat_map(Node::words).collect()
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.shared.iter().chain([&self.root])
    }

    /// Whether all rows between operators can be encoded.
    pub fn check(&self) -> Result<(), PlanError> {
        self.nodes().try_for_each(Node::check)
    }
}

impl Node {
    /// The nodes of the plan that read an input, with the input's number.
    fn readers(&self) -> Vec<(usize, usize)> {
        match &self.operator {
            Operator::Shared(_) | Operator::Constant(_) => Vec::new(),
            Operator::Input(index) => vec![(self.number, *index)],
            Operator::Map(below, _)
            | Operator::Fold(below, _)
            | Operator::Sessions(below, _)
            | Operator::Default(below, _)
            | Operator::Group(below, _) => below.readers(),
            Operator::Join(join) => [join.left.readers(), join.right.readers()].concat(),
            Operator::Union(inputs) => inputs.iter().flat_map(Node::readers).collect(),
        }
    }

    /// What the operator is, in a word.
    fn word(&self) -> &'static str {
        match &self.operator {
            Operator::Input(_) => "input",
            Operator::Shared(_) => "shared",
            Operator::Constant(_) => "constant",
            Operator::Map(..) => "map",
            Operator::Fold(..) | Operator::Default(..) => "aggregate",
            Operator::Sessions(..) => "sessions",
            Operator::Join(_) => "join",
            Operator::Union(_) => "union",
            Operator::Group(..) => "partition",
        }
    }

    fn words(&self) -> Vec<(usize, &'static str)> {
        if matches!(self.operator, Operator::Shared(_)) {
            return Vec::new();
        }
        let mut words = vec![(self.number, self.word())];
        match &self.operator {
            Operator::Input(_) | Operator::Shared(_) | Operator::Constant(_) => {}
            Operator::Default(below, _) => {
                // Stands for the same node.
                words.extend(below.words().into_iter().skip(1));
            }
            Operator::Map(below, _)
            | Operator::Fold(below, _)
            | Operator::Sessions(below, _)
            | Operator::Group(below, _) => words.extend(below.words()),
            Operator::Join(join) => {
                words.extend(join.left.words());
                words.extend(join.right.words());
            }
            Operator::Union(inputs) => words.extend(inputs.iter().flat_map(Node::words)),
        }
        words
    }

    fn check(&self) -> Result<(), PlanError> {
        rows::Codec::new(&self.schema)?;
        match &self.operator {
            Operator::Input(_) | Operator::Shared(_) | Operator::Constant(_) => Ok(()),
            Operator::Map(below, _)
            | Operator::Fold(below, _)
            | Operator::Sessions(below, _)
            | Operator::Default(below, _)
            | Operator::Group(below, _) => below.check(),
            Operator::Join(join) => {
                rows::Codec::new(&join.both)?;
                join.left.check()?;
                join.right.check()
            }
            Operator::Union(inputs) => inputs.iter().try_for_each(Node::check),
        }
    }
}

/// An operator with the columns it gives.
pub(crate) struct Node {
    /// The number of the plan's node that it stands for: that of its line in the plan's text.
    pub number: usize,
    pub operator: Operator,
    pub schema: SchemaRef,
}

pub(crate) enum Operator {
    Input(usize),
    /// The shared node of that number.
    Shared(usize),
    /// These rows, for ever.
    Constant(RecordBatch),
    Map(Box<Node>, Arc<Pipeline>),
    Fold(Box<Node>, Arc<Fold>),
    /// Neighbouring rows of a key together.
    Sessions(Box<Node>, Arc<Sessions>),
    /// This one row where the input, which has at most one, is empty.
    Default(Box<Node>, RecordBatch),
    Join(Box<Join>),
    Union(Vec<Node>),
    /// Rows chosen or extended partition by partition.
    Group(Box<Node>, Arc<Choice>),
}

/// An aggregate over rows that are themselves maintained.
pub(crate) struct Fold {
    pub keys: usize,
    pub key_types: Vec<DataType>,
    /// Keys, then what the cells read.
    pub expressions: Vec<Arc<dyn PhysicalExpr>>,
    pub cells: Cells,
    pub outputs: Outputs,
    pub schema: SchemaRef,
}

/// Aggregates of sessions.
pub(crate) struct Sessions {
    /// Its last key is the time; the types are those of the others. The first cell keeps the times.
    pub fold: Arc<Fold>,
    pub gap_us: i64,
    /// With `EMIT FINAL`: the leaf whose watermark must have passed a session's end.
    pub final_by: Option<usize>,
}

pub(crate) struct Join {
    pub kind: JoinKind,
    pub left: Node,
    pub right: Node,
    pub left_keys: Vec<Arc<dyn PhysicalExpr>>,
    pub right_keys: Vec<Arc<dyn PhysicalExpr>>,
    pub key_types: Vec<DataType>,
    /// A further key.
    pub buckets: Option<Buckets>,
    pub nulls_equal: bool,
    /// Both sides' columns.
    pub both: SchemaRef,
    pub residual: Option<Arc<Pipeline>>,
    /// From both sides' columns to those of one.
    pub to_left: Arc<Pipeline>,
    pub to_right: Arc<Pipeline>,
}
