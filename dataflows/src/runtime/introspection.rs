//! What the engine keeps and costs, by monitor, arrangement, operator and stream.
//!
//! Everything here is read from counters that the parts keep anyway; asking costs those parts nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::engine::Engine;
use super::views::{InstalledView, ViewName};
use crate::plan::MonitorDefinition;
use crate::render::{Base, Figure, RenderedView};
use crate::time::Tick;

/// A monitor or a built-in view.
#[derive(Debug, Clone)]
pub struct MonitorFigures {
    pub name: ViewName,
    /// Why it is stopped, if it is.
    pub stopped: Option<String>,
    /// Every row admitted after this tick is in it.
    pub start: Tick,
    pub installed_at: Tick,
    /// Rows in it now.
    pub rows: u64,
    /// Changes of it so far.
    pub changes: u64,
    pub late_rows: u64,
    pub errors: u64,
    /// Of its graph and of its bases; a base that others read too counts in each.
    pub figure: Figure,
}

/// An arrangement on one worker: a base, or those of a graph together.
#[derive(Debug, Clone)]
pub struct ArrangementFigures {
    pub worker: usize,
    /// Equal for the shares of one arrangement on all workers.
    pub arrangement: u64,
    pub is_base: bool,
    /// Who reads it.
    pub views: Vec<ViewName>,
    /// Of a base.
    pub stream: Option<String>,
    pub rows: u64,
    pub bytes: u64,
}

/// An operator of a monitor on one worker.
#[derive(Debug, Clone)]
pub struct OperatorFigures {
    pub worker: usize,
    pub name: ViewName,
    /// The plan's node, by the number of its line in the plan's text.
    pub node: usize,
    pub operator: &'static str,
    pub figure: Figure,
}

/// A stream, of OpenTelemetry or of a user.
#[derive(Debug, Clone)]
pub struct StreamFigures {
    /// `None`: of OpenTelemetry, with the rows of all projects.
    pub project: Option<String>,
    pub name: String,
    /// How far its event time has come, microseconds.
    pub mark_us: Option<i64>,
    pub admitted_rows: u64,
}

/// Numbers of the plan's nodes that read a base, with the base.
fn base_nodes(rendered: &RenderedView) -> Vec<(usize, &Arc<Base>)> {
    let Some(graph) = &rendered.graph else {
        return rendered.leaves.iter().map(|leaf| (0, &leaf.base)).collect();
    };
    let readers = graph.readers().into_iter();
    readers
        .filter_map(|(node, input)| {
            let leaf = graph.leaf_of(input)?;
            Some((node, &rendered.leaves[leaf].base))
        })
        .collect()
}

fn figure_of(view: &InstalledView) -> Figure {
    let mut sum = Figure::default();
    let mut seen: Vec<*const Base> = Vec::new();
    for base in view.bases() {
        if !seen.contains(&Arc::as_ptr(base)) {
            seen.push(Arc::as_ptr(base));
            for (_, _, figure) in base.figures.all() {
                sum.add(figure);
            }
        }
    }
    for (_, _, figure) in view.figures.all() {
        sum.add(figure);
    }
    sum
}

impl Engine {
    /// Every monitor and built-in view.
    pub fn monitor_figures(&self) -> Vec<MonitorFigures> {
        let views = self.shared.views.all();
        let figures = |view: &Arc<InstalledView>| {
            let described = view.describe();
            let figure = match view.stopped() {
                None => figure_of(view),
                Some(_) => Figure::default(),
            };
            MonitorFigures {
                name: view.name.clone(),
                stopped: described.stopped,
                start: view.start,
                installed_at: view.installed_at,
                rows: described.rows,
                changes: view.counters.changes.load(Ordering::Relaxed),
                late_rows: described.late_rows,
                errors: described.errors,
                figure,
            }
        };
        views.iter().map(figures).collect()
    }

    pub fn arrangement_figures(&self) -> Vec<ArrangementFigures> {
        let views = self.shared.views.all();
        let running = || views.iter().filter(|view| view.stopped().is_none());
        let mut arrangements = Vec::new();
        let mut bases: BTreeMap<*const Base, (&Arc<Base>, Vec<ViewName>)> = BTreeMap::new();
        let mut order: Vec<*const Base> = Vec::new();
        for view in running() {
            for base in view.bases() {
                let known = bases.entry(Arc::as_ptr(base)).or_insert_with(|| {
                    order.push(Arc::as_ptr(base));
                    (base, Vec::new())
                });
                if !known.1.contains(&view.name) {
                    known.1.push(view.name.clone());
                }
            }
        }
        // A base is named after the first view that has it.
        for pointer in order {
            let (base, views) = &bases[&pointer];
            let arrangement = base.figures.number;
            for (worker, _, figure) in base.figures.all() {
                arrangements.push(ArrangementFigures {
                    worker,
                    arrangement,
                    is_base: true,
                    views: views.clone(),
                    stream: Some(base.stream.clone()),
                    rows: figure.state_rows,
                    bytes: figure.state_bytes,
                });
            }
        }
        for view in running().filter(|view| view.rendered.graph.is_some()) {
            let mut by_worker: BTreeMap<usize, Figure> = BTreeMap::new();
            for (worker, _, figure) in view.figures.all() {
                by_worker.entry(worker).or_default().add(figure);
            }
            arrangements.extend(by_worker.into_iter().map(|(worker, figure)| ArrangementFigures {
                worker,
                arrangement: view.figures.number,
                is_base: false,
                views: vec![view.name.clone()],
                stream: None,
                rows: figure.state_rows,
                bytes: figure.state_bytes,
            }));
        }
        arrangements
    }

    pub fn operator_figures(&self) -> Vec<OperatorFigures> {
        let views = self.shared.views.all();
        let running = views.iter().filter(|view| view.stopped().is_none());
        running.flat_map(|view| operators_of(view)).collect()
    }

    /// The operators of one view, summed over workers, by node of the plan; none if it is stopped.
    pub fn operators_by_node(&self, name: &ViewName) -> Option<BTreeMap<usize, Figure>> {
        let view = self.shared.views.get(name)?;
        let mut nodes: BTreeMap<usize, Figure> = BTreeMap::new();
        if view.stopped().is_some() {
            return Some(nodes);
        }
        for operator in operators_of(&view) {
            nodes.entry(operator.node).or_default().add(operator.figure);
        }
        Some(nodes)
    }

    pub fn stream_figures(&self) -> Vec<StreamFigures> {
        let gauges = &self.shared.gauges;
        let signals = [("spans", 0), ("metrics", 1), ("logs", 2)].into_iter();
        let mut streams: Vec<StreamFigures> = signals
            .map(|(name, index)| {
                let mark = gauges.marks[index].load(Ordering::Relaxed);
                StreamFigures {
                    project: None,
                    name: name.to_string(),
                    mark_us: (mark != i64::MIN && mark != 0).then_some(mark),
                    admitted_rows: gauges.rows[index].load(Ordering::Relaxed),
                }
            })
            .collect();
        streams.extend(self.streams().into_iter().map(|stream| StreamFigures {
            project: stream.name.project,
            name: stream.name.name,
            mark_us: stream.mark_us,
            admitted_rows: stream.rows,
        }));
        streams
    }

    /// Requests in the log that are not admitted yet.
    pub fn backlog_requests(&self) -> u64 {
        self.shared.gauges.backlog_records.load(Ordering::Relaxed)
    }

    /// Which nodes of a definition's plan would read an arrangement that is there already, and who reads it.
    pub fn shared_nodes(&self, definition: &MonitorDefinition) -> BTreeMap<usize, Vec<ViewName>> {
        let views = self.shared.views.all();
        let running: Vec<_> = views.iter().filter(|view| view.stopped().is_none()).collect();
        let own = ViewName {
            project: definition.project.clone(),
            name: definition.name.clone(),
        };
        let bases: Vec<Arc<Base>> = running.iter().flat_map(|view| view.bases().cloned()).collect();
        let Ok(rendered) = RenderedView::compile(definition, &bases, Tick::MAX) else {
            return BTreeMap::new();
        };
        let mut shared = BTreeMap::new();
        for (node, base) in base_nodes(&rendered) {
            let readers = running
                .iter()
                .filter(|view| view.name != own && view.bases().any(|other| Arc::ptr_eq(other, base)));
            let readers: Vec<ViewName> = readers.map(|view| view.name.clone()).collect();
            if !readers.is_empty() {
                shared.insert(node, readers);
            }
        }
        shared
    }
}

fn operators_of(view: &InstalledView) -> Vec<OperatorFigures> {
    let mut operators = Vec::new();
    let words: BTreeMap<usize, &'static str> = match &view.rendered.graph {
        Some(graph) => graph.words(),
        None => BTreeMap::new(),
    };
    let of_bases = base_nodes(&view.rendered);
    for (node, base) in &of_bases {
        for (worker, _, figure) in base.figures.all() {
            operators.push(OperatorFigures {
                worker,
                name: view.name.clone(),
                node: *node,
                operator: "base",
                figure,
            });
        }
    }
    for (worker, node, figure) in view.figures.all() {
        // What a base gives is counted where it is read.
        let base = operators.iter_mut().find(|operator| {
            operator.worker == worker && operator.node == node && operator.operator == "base"
        });
        if words.get(&node) == Some(&"input")
            && let Some(base) = base
        {
            base.figure.rows_out = figure.rows_out;
            base.figure.busy_us += figure.busy_us;
            base.figure.runs += figure.runs;
            continue;
        }
        operators.push(OperatorFigures {
            worker,
            name: view.name.clone(),
            node,
            operator: words.get(&node).copied().unwrap_or("input"),
            figure,
        });
    }
    operators
}
