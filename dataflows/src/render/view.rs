//! A monitor's plan, compiled: its leaves, and the graph above them where there is one.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};

use super::graph::{Compiler, Graph, Input};
use super::leaf::{Base, Leaf, Times, nullable, shown_keys};
use crate::plan::{MonitorDefinition, Plan, PlanError};
use crate::time::Tick;

/// A compiled monitor, shared by all workers.
pub(crate) struct RenderedView {
    pub leaves: Vec<Arc<Leaf>>,
    /// `None`: the view is what its only leaf shows.
    pub graph: Option<Graph>,
    /// The view's columns.
    pub schema: SchemaRef,
    /// Which of them identify a row; empty if the whole row does.
    pub key_columns: Vec<usize>,
}

/// Whether a monitor can be maintained, as far as its definition says.
pub fn check(definition: &MonitorDefinition) -> Result<(), PlanError> {
    RenderedView::compile(definition, &[], 0).map(drop)
}

impl RenderedView {
    /// Compiles a monitor over the bases there are already, as far as they serve; others start at `tick`.
    ///
    /// All leaves of a view start together, so that it is the same query over the rows after its start.
    pub fn compile(
        definition: &MonitorDefinition,
        existing: &[Arc<Base>],
        tick: Tick,
    ) -> Result<RenderedView, PlanError> {
        let shared = RenderedView::over(definition, existing, tick)?;
        let mut starts = shared.leaves.iter().map(|leaf| leaf.base.start);
        let first = starts.next();
        match starts.all(|start| Some(start) == first) {
            true => Ok(shared),
            false => RenderedView::over(definition, &[], tick),
        }
    }

    fn over(
        definition: &MonitorDefinition,
        existing: &[Arc<Base>],
        tick: Tick,
    ) -> Result<RenderedView, PlanError> {
        let plan = &definition.plan;
        let times = Times {
            retention_us: definition.retention_us(),
            lateness_us: definition.options.lateness_us,
            emit_final: definition.options.emit_final,
            by_watermark: false,
            start: tick,
        };
        let schema = nullable(&plan.schema()?);
        let mut bases = existing.to_vec();
        if Leaf::is_leaf(plan) {
            let leaf = Arc::new(Leaf::compile(plan, times, &bases)?);
            return Ok(RenderedView {
                schema,
                key_columns: leaf.key_columns.clone(),
                leaves: vec![leaf],
                graph: None,
            });
        }
        let mut leaves: Vec<Arc<Leaf>> = Vec::new();
        let mut leaf = |plan: &Plan, by_watermark: bool| {
            let known = |leaf: &Arc<Leaf>| leaf.plan == *plan && leaf.base.rule.by_watermark == by_watermark;
            let number = match leaves.iter().position(known) {
                Some(number) => number,
                None => {
                    let times = Times {
                        emit_final: times.emit_final && !by_watermark,
                        by_watermark,
                        ..times
                    };
                    let leaf = Arc::new(Leaf::compile(plan, times, &bases)?);
                    bases.push(Arc::clone(&leaf.base));
                    leaves.push(leaf);
                    leaves.len() - 1
                }
            };
            Ok((number, Arc::clone(&leaves[number].schema)))
        };
        let mut compiler = Compiler::new(&mut leaf);
        compiler.final_within_us = definition.options.emit_final.then(|| definition.retention_us());
        let graph = compiler.graph(plan)?;
        // The operators' codecs, in which types have no order, refuse here and not on a worker.
        graph.check()?;
        Ok(RenderedView {
            key_columns: shown_keys(plan, &schema),
            schema,
            leaves,
            graph: Some(graph),
        })
    }

    /// Whether it was planned for a view of that name with these columns.
    pub fn reads(&self, name: &str, schema: &SchemaRef) -> bool {
        let Some(graph) = &self.graph else { return false };
        let columns = |schema: &SchemaRef| -> Vec<(String, DataType)> {
            let fields = schema.fields().iter();
            fields
                .map(|field| (field.name().clone(), field.data_type().clone()))
                .collect()
        };
        let is_read = |input: &Input| matches!(input, Input::View(view) if view == name);
        let inputs = graph.inputs.iter().zip(&graph.input_schemas);
        inputs
            .filter(|(input, _)| is_read(input))
            .all(|(_, planned)| columns(planned) == columns(schema))
    }

    /// The views it reads, in the order of its inputs.
    pub fn views(&self) -> impl Iterator<Item = &str> {
        let inputs = self.graph.iter().flat_map(|graph| &graph.inputs);
        inputs.filter_map(|input| match input {
            Input::View(name) => Some(name.as_str()),
            Input::Leaf(_) => None,
        })
    }
}
