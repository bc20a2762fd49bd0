//! From a plan to a graph: what lies above the leaves, with every expression compiled.
//!
//! A part of a plan that occurs several times is compiled, and runs, once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;

use super::constants::{constant, empty_row};
use super::frames::Frames;
use super::group::Choice;
use super::intervals::Buckets;
use super::{Fold, Graph, Input, Join, Node, Operator, Sessions};
use crate::plan::{
    Aggregate, AggregateFunction, Expr, JoinKind, Plan, PlanError, Windowing, compile, marked,
};
use crate::render::cells::Cells;
use crate::render::leaf::{FINAL_SESSIONS, Leaf, nullable};
use crate::render::pipeline::Pipeline;

/// The number of the leaf for a plan, and its columns; the flag says that rows are late by the watermark itself.
pub(crate) type FindLeaf<'a> = dyn FnMut(&Plan, bool) -> Result<(usize, SchemaRef), PlanError> + 'a;

/// Expressions with their types.
type Compiled = (Vec<Arc<dyn PhysicalExpr>>, Vec<DataType>);

/// Compiles what lies above the leaves; `leaf` gives the number of the leaf for a plan.
pub(crate) struct Compiler<'a> {
    pub leaf: &'a mut FindLeaf<'a>,
    /// With `EMIT FINAL`: the retention.
    pub final_within_us: Option<i64>,
    inputs: Vec<Input>,
    input_schemas: Vec<SchemaRef>,
    /// The plans that occur several times, each as its text, with its number once it is compiled.
    repeated: BTreeMap<String, Option<usize>>,
    shared: Vec<Node>,
}

impl<'a> Compiler<'a> {
    pub fn new(leaf: &'a mut FindLeaf<'a>) -> Compiler<'a> {
        Compiler {
            leaf,
            final_within_us: None,
            inputs: Vec::new(),
            input_schemas: Vec::new(),
            repeated: BTreeMap::new(),
            shared: Vec::new(),
        }
    }

    pub fn graph(mut self, plan: &Plan) -> Result<Graph, PlanError> {
        let mut seen = BTreeSet::new();
        repeated(plan, &mut seen, &mut self.repeated);
        let root = self.node(plan, 0)?;
        Ok(Graph {
            inputs: self.inputs,
            input_schemas: self.input_schemas,
            shared: self.shared,
            root,
        })
    }

    /// `number` is that of the plan's first node.
    fn node(&mut self, plan: &Plan, number: usize) -> Result<Node, PlanError> {
        if Leaf::is_leaf(plan) {
            return self.leaf_node(plan, number);
        }
        if self.repeated.is_empty() {
            return self.operator(plan, number);
        }
        let text = text_of(plan);
        let index = match self.repeated.get(&text) {
            None => return self.operator(plan, number),
            Some(Some(index)) => *index,
            Some(None) => {
                let node = self.operator(plan, number)?;
                self.shared.push(node);
                self.repeated.insert(text, Some(self.shared.len() - 1));
                self.shared.len() - 1
            }
        };
        Ok(Node {
            // It runs, and is counted, where it stands first.
            number: self.shared[index].number,
            operator: Operator::Shared(index),
            schema: Arc::clone(&self.shared[index].schema),
        })
    }

    fn operator(&mut self, plan: &Plan, number: usize) -> Result<Node, PlanError> {
        match plan {
            Plan::Aggregate { keys, .. } if keys.is_empty() => {
                let node = match Leaf::is_total(plan) {
                    true => self.leaf_node(plan, number)?,
                    false => self.fold(plan, number)?,
                };
                let row = empty_row(plan)?;
                Ok(Node {
                    number,
                    schema: Arc::clone(&node.schema),
                    operator: Operator::Default(Box::new(node), row),
                })
            }
            Plan::Aggregate { .. } => self.fold(plan, number),
            Plan::Sessions { .. } => self.sessions(plan, number),
            Plan::Filter { input, .. }
            | Plan::Project { input, .. }
            | Plan::Tumble { input, .. }
            | Plan::Unnest { input, .. } => {
                let node = self.node(input, number + 1)?;
                let below_number = node.number;
                // Consecutive ones are one operator.
                let (below, mut pipeline) = match node.operator {
                    Operator::Map(below, pipeline) => match Arc::try_unwrap(pipeline) {
                        Ok(pipeline) => (below, pipeline),
                        Err(_) => unreachable!("invariant: nobody else has it yet"),
                    },
                    operator => {
                        let schema = Arc::clone(&node.schema);
                        let below = Box::new(Node {
                            number: below_number,
                            operator,
                            schema: node.schema,
                        });
                        (below, Pipeline::over(schema))
                    }
                };
                pipeline.push(plan, &names(plan.schema()?.as_ref()))?;
                Ok(Node {
                    number,
                    schema: nullable(pipeline.schema()),
                    operator: Operator::Map(below, Arc::new(pipeline)),
                })
            }
            Plan::Join { .. } => self.join(plan, number),
            Plan::Union { inputs } => {
                let mut nodes = Vec::with_capacity(inputs.len());
                let mut next = number + 1;
                for input in inputs {
                    nodes.push(self.node(input, next)?);
                    next += input.size();
                }
                Ok(Node {
                    number,
                    schema: nullable(&plan.schema()?),
                    operator: Operator::Union(nodes),
                })
            }
            Plan::Top {
                input,
                partition,
                order,
                skip,
                fetch,
            } => {
                let node = self.node(input, number + 1)?;
                let choice = Choice::top(partition, order, *skip, *fetch, &node.schema)?;
                Ok(Node {
                    number,
                    schema: Arc::clone(&node.schema),
                    operator: Operator::Group(Box::new(node), Arc::new(choice)),
                })
            }
            Plan::Window {
                input,
                partition,
                order,
                functions,
                aggregates,
            } => {
                let node = self.node(input, number + 1)?;
                let windowing = Windowing::compile(partition, order, functions, aggregates, &node.schema)?;
                let frames = Frames::compile(order, aggregates, &node.schema)?;
                let choice = Choice::windows(partition, order, windowing, frames, &node.schema)?;
                Ok(Node {
                    number,
                    schema: nullable(choice.schema()),
                    operator: Operator::Group(Box::new(node), Arc::new(choice)),
                })
            }
            Plan::View { name, .. } => {
                let known = |input: &Input| matches!(input, Input::View(view) if view == name);
                let index = match self.inputs.iter().position(known) {
                    Some(index) => index,
                    None => self.add_input(Input::View(name.clone()), nullable(&plan.schema()?)),
                };
                Ok(self.input(index, number))
            }
            Plan::Values { rows, .. } => {
                let schema = plan.schema()?;
                Ok(Node {
                    number,
                    operator: Operator::Constant(constant(&schema, rows)?),
                    schema,
                })
            }
            Plan::Source { .. } | Plan::Recent { .. } => self.leaf_node(plan, number),
        }
    }

    fn leaf_node(&mut self, plan: &Plan, number: usize) -> Result<Node, PlanError> {
        let (leaf, schema) = (self.leaf)(plan, false)?;
        Ok(self.leaf_input((leaf, schema), number))
    }

    fn leaf_input(&mut self, (leaf, schema): (usize, SchemaRef), number: usize) -> Node {
        let known = |input: &Input| matches!(input, Input::Leaf(known) if *known == leaf);
        let index = match self.inputs.iter().position(known) {
            Some(index) => index,
            None => self.add_input(Input::Leaf(leaf), schema),
        };
        self.input(index, number)
    }

    fn add_input(&mut self, input: Input, schema: SchemaRef) -> usize {
        self.inputs.push(input);
        self.input_schemas.push(schema);
        self.inputs.len() - 1
    }

    fn input(&self, index: usize, number: usize) -> Node {
        Node {
            number,
            operator: Operator::Input(index),
            schema: Arc::clone(&self.input_schemas[index]),
        }
    }

    fn fold(&mut self, plan: &Plan, number: usize) -> Result<Node, PlanError> {
        let Plan::Aggregate {
            input,
            keys,
            aggregates,
        } = plan
        else {
            unreachable!("invariant: called for aggregates");
        };
        let node = self.node(input, number + 1)?;
        let written: Vec<&Expr> = keys.iter().map(|key| &key.expr).collect();
        let (mut expressions, key_types) = compiled(written, &node.schema)?;
        let mut cells = Cells::default();
        let outputs = cells.add(aggregates, &node.schema)?;
        expressions.extend(cells.expressions());
        let mut fields: Vec<Field> = keys
            .iter()
            .zip(&key_types)
            .map(|(key, data_type)| Field::new(&key.name, data_type.clone(), true))
            .collect();
        fields.extend(outputs.fields().map(|field| field.with_nullable(true)));
        let schema = Arc::new(Schema::new(fields));
        let fold = Fold {
            keys: keys.len(),
            key_types,
            expressions,
            cells,
            outputs,
            schema: Arc::clone(&schema),
        };
        Ok(Node {
            number,
            operator: Operator::Fold(Box::new(node), Arc::new(fold)),
            schema,
        })
    }

    fn sessions(&mut self, plan: &Plan, number: usize) -> Result<Node, PlanError> {
        let Plan::Sessions {
            input,
            keys,
            time,
            gap_us,
            aggregates,
        } = plan
        else {
            unreachable!("invariant: called for sessions");
        };
        let (node, final_by) = match self.final_within_us {
            None => (self.node(input, number + 1)?, None),
            Some(retention_us) => {
                if !Leaf::is_leaf(input) {
                    return Err(PlanError::Unsupported {
                        detail: FINAL_SESSIONS.into(),
                    });
                }
                if retention_us < *gap_us {
                    return Err(PlanError::Unsupported {
                        detail: "EMIT FINAL over SESSION needs a retention that is not shorter than the gap: its rows would leave \
                                 before a session is final"
                            .into(),
                    });
                }
                let (leaf, schema) = (self.leaf)(input, true)?;
                (self.leaf_input((leaf, schema), number + 1), Some(leaf))
            }
        };
        let time = Expr::column(time);
        let (mut expressions, key_types) =
            compiled(keys.iter().map(|key| &key.expr).collect(), &node.schema)?;
        expressions.extend(compiled(vec![&time], &node.schema)?.0);
        let mut cells = Cells::default();
        let times = Aggregate {
            name: "times".into(),
            function: AggregateFunction::Min,
            argument: Some(time),
            second: None,
            order: Vec::new(),
            filter: None,
        };
        cells.add(std::slice::from_ref(&times), &node.schema)?;
        let outputs = cells.add(aggregates, &node.schema)?;
        expressions.extend(cells.expressions());
        let schema = nullable(&plan.schema()?);
        let fold = Fold {
            keys: keys.len() + 1,
            key_types,
            expressions,
            cells,
            outputs,
            schema: Arc::clone(&schema),
        };
        let sessions = Sessions {
            fold: Arc::new(fold),
            gap_us: *gap_us,
            final_by,
        };
        Ok(Node {
            number,
            operator: Operator::Sessions(Box::new(node), Arc::new(sessions)),
            schema,
        })
    }

    fn join(&mut self, plan: &Plan, number: usize) -> Result<Node, PlanError> {
        let Plan::Join {
            kind,
            left,
            right,
            on,
            residual,
            interval,
            nulls_equal,
        } = plan
        else {
            unreachable!("invariant: called for joins");
        };
        let right_number = number + 1 + left.size();
        let (left, right) = (self.node(left, number + 1)?, self.node(right, right_number)?);
        let (left_keys, key_types) = compiled(on.iter().map(|key| &key.left).collect(), &left.schema)?;
        let (right_keys, right_types) = compiled(on.iter().map(|key| &key.right).collect(), &right.schema)?;
        if key_types != right_types {
            return Err(PlanError::Unsupported {
                detail: "a join of keys of different types".into(),
            });
        }
        if *kind == JoinKind::NullAwareAnti && (on.len() != 1 || residual.is_some()) {
            return Err(PlanError::Unsupported {
                detail: "NOT IN with further conditions that may be NULL".into(),
            });
        }
        let fields = left.schema.fields().iter().chain(right.schema.fields());
        let both = Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()));
        let side = |schema: &SchemaRef| -> Result<Arc<Pipeline>, PlanError> {
            let columns = schema.fields().iter().map(|field| crate::plan::NamedExpr {
                name: field.name().clone(),
                expr: Expr::Column(field.name().clone()),
            });
            let project = Plan::Project {
                input: Box::new(Plan::Union { inputs: Vec::new() }),
                columns: columns.collect(),
            };
            let mut pipeline = Pipeline::over(Arc::clone(&both));
            pipeline.push(&project, &names(schema))?;
            Ok(Arc::new(pipeline))
        };
        let residual = match residual {
            Some(predicate) => {
                let filter = Plan::Filter {
                    input: Box::new(Plan::Union { inputs: Vec::new() }),
                    predicate: predicate.clone(),
                };
                let mut pipeline = Pipeline::over(Arc::clone(&both));
                pipeline.push(&filter, &names(&both))?;
                Some(Arc::new(pipeline))
            }
            None => None,
        };
        let schema = match kind {
            JoinKind::Mark => marked(&left.schema)?,
            _ if kind.shows_right() => Arc::clone(&both),
            _ => Arc::clone(&left.schema),
        };
        let buckets = match interval {
            Some(interval) => Some(Buckets::compile(interval, *kind, &left.schema, &right.schema)?),
            None => None,
        };
        let join = Join {
            kind: *kind,
            buckets,
            to_left: side(&left.schema)?,
            to_right: side(&right.schema)?,
            left,
            right,
            left_keys,
            right_keys,
            key_types,
            nulls_equal: *nulls_equal,
            both,
            residual,
        };
        Ok(Node {
            number,
            operator: Operator::Join(Box::new(join)),
            schema,
        })
    }
}

/// A plan as text that is equal for equal plans.
fn text_of(plan: &Plan) -> String {
    serde_json::to_string(plan).expect("invariant: a plan has no maps with other keys than text")
}

/// Notes which parts of a plan occur more than once; of a part that does, what is below it is not looked at again.
fn repeated(plan: &Plan, seen: &mut BTreeSet<String>, found: &mut BTreeMap<String, Option<usize>>) {
    if Leaf::is_leaf(plan) || matches!(plan, Plan::View { .. }) {
        return;
    }
    let text = text_of(plan);
    if seen.contains(&text) {
        found.insert(text, None);
        return;
    }
    seen.insert(text);
    for input in plan.inputs() {
        repeated(input, seen, found);
    }
}

fn names(schema: &Schema) -> BTreeSet<String> {
    schema.fields().iter().map(|field| field.name().clone()).collect()
}

/// Expressions over rows of `schema`, with their types.
pub(super) fn compiled(written: Vec<&Expr>, schema: &Schema) -> Result<Compiled, PlanError> {
    let mut expressions = Vec::with_capacity(written.len());
    let mut types = Vec::with_capacity(written.len());
    for expr in written {
        let expression = compile(expr, schema)?;
        let data_type = expression
            .data_type(schema)
            .map_err(|error| PlanError::Expression {
                expression: expr.to_string(),
                detail: error.to_string(),
            })?;
        types.push(data_type);
        expressions.push(expression);
    }
    Ok((expressions, types))
}
