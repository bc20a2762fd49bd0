//! How much of an ended pane has to be known to compute again what a view has shown of it.
//!
//! A view is *local* if each of its rows comes from one pane of its bases: what stores keep of a pane that has ended is then a
//! function of that pane's groups alone. That can be read off the plan: every operator that brings rows together has the
//! pane among what they have in common.

use std::sync::Arc;

use super::super::streams::StreamId;
use super::super::views::InstalledView;
use crate::plan::{DAY_US, Expr, JoinKey, JoinKind, NamedExpr, Plan, WINDOW_END, WINDOW_START};
use crate::render::leaf::Layout;
use crate::render::{Base, Leaf};

/// Of what a row of a local view is a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Of one group.
    Group,
    /// Of the groups of a pane that have the same values at these places of their keys.
    Places(Vec<usize>),
    /// Of all groups of a pane.
    Pane,
}

impl Unit {
    fn with(self, other: Unit) -> Unit {
        match (self, other) {
            (one, other) if one == other => one,
            _ => Unit::Pane,
        }
    }
}

/// All bases that a view is computed from, those of the views it reads included, with their streams.
pub(crate) fn all_bases_of(
    view: &InstalledView,
    installed: &[Arc<InstalledView>],
) -> Vec<(Arc<Base>, StreamId)> {
    let mut found: Vec<(Arc<Base>, StreamId)> = Vec::new();
    let mut open = vec![view];
    while let Some(view) = open.pop() {
        for (base, stream) in view.bases().zip(&view.streams) {
            if !found.iter().any(|(other, _)| Arc::ptr_eq(base, other)) {
                found.push((Arc::clone(base), *stream));
            }
        }
        open.extend(sources_of(view, installed));
    }
    found
}

/// The views that a view reads.
pub(super) fn sources_of<'a>(
    view: &'a InstalledView,
    installed: &'a [Arc<InstalledView>],
) -> impl Iterator<Item = &'a InstalledView> {
    let source = |id: &u64| installed.iter().find(|other| other.id == *id);
    view.sources.iter().filter_map(source).map(Arc::as_ref)
}

/// The unit of a view that is local, and `None` for any other one. Panes of all its bases must leave together, and whether a
/// row was ever shown must not depend on the tick. By other times than the event time nobody can say from when on all rows of
/// a pane are stored.
pub(crate) fn unit_of(view: &InstalledView, installed: &[Arc<InstalledView>]) -> Option<Unit> {
    let bases = all_bases_of(view, installed);
    let (first, stream) = bases.first()?;
    let leave_together = bases
        .iter()
        .all(|(base, other)| base.rule == first.rule && other == stream);
    let is_windowed = bases.iter().all(|(base, _)| {
        base.windowed == first.windowed && base.recency.is_none() && base.is_by_event_time()
    });
    if !leave_together || !is_windowed {
        return None;
    }
    match part(&view.definition.plan, view, installed)? {
        Part::Local { unit, .. } => Some(unit),
        Part::Constant => None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Start,
    End,
}

/// Columns that are a bound of the pane.
type Bounds = Vec<(String, Bound)>;

/// A part of a plan that is local.
enum Part {
    /// The same rows for ever.
    Constant,
    Local {
        unit: Unit,
        bounds: Bounds,
    },
}

fn part(plan: &Plan, view: &InstalledView, installed: &[Arc<InstalledView>]) -> Option<Part> {
    if Leaf::is_leaf(plan) {
        let leaf = view.rendered.leaves.iter().find(|leaf| leaf.plan == *plan)?;
        let is_local = leaf.base.layout != Layout::Merged;
        return is_local.then(|| Part::Local {
            unit: Unit::Group,
            bounds: bounds_of(plan),
        });
    }
    let below = |plan: &Plan| part(plan, view, installed);
    match plan {
        Plan::Filter { input, .. } => below(input),
        Plan::Project { input, columns } => Some(below(input)?.map_bounds(|bounds| passed(columns, &bounds))),
        Plan::Unnest { input, column } => Some(below(input)?.map_bounds(|mut bounds| {
            bounds.retain(|(name, _)| name != column);
            bounds
        })),
        Plan::Values { .. } => Some(Part::Constant),
        Plan::Aggregate { input, keys, .. } => {
            let kept = |bounds: Bounds| passed(keys, &bounds);
            below(input)?.within_pane(&keys.iter().map(|key| &key.expr).collect::<Vec<_>>(), kept)
        }
        Plan::Top { input, partition, .. } | Plan::Window { input, partition, .. } => {
            below(input)?.within_pane(&partition.iter().collect::<Vec<_>>(), |bounds| bounds)
        }
        Plan::Sessions {
            input, keys, time, ..
        } => sessions(input, keys, time, view),
        Plan::View { name, .. } => {
            let number = view.rendered.views().position(|source| source == name)?;
            let id = view.sources.get(number)?;
            let source = installed.iter().find(|other| other.id == *id)?;
            match source.stopped() {
                None => part(&source.definition.plan, source, installed),
                Some(_) => None,
            }
        }
        Plan::Union { inputs } => {
            let mut parts = inputs.iter().map(below);
            parts
                .next()?
                .and_then(|first| parts.try_fold(first, |all, next| Some(all.union(next?))))
        }
        Plan::Join {
            kind,
            left,
            right,
            on,
            ..
        } => join(*kind, below(left)?, below(right)?, on),
        Plan::Source { .. } | Plan::Recent { .. } | Plan::Tumble { .. } => None,
    }
}

impl Part {
    fn map_bounds(self, change: impl FnOnce(Bounds) -> Bounds) -> Part {
        match self {
            Part::Constant => Part::Constant,
            Part::Local { unit, bounds } => Part::Local {
                unit,
                bounds: change(bounds),
            },
        }
    }

    /// Rows that have these in common come together.
    fn within_pane(self, common: &[&Expr], kept: impl FnOnce(Bounds) -> Bounds) -> Option<Part> {
        let Part::Local { bounds, .. } = self else {
            return None;
        };
        let is_bound = |expr: &&Expr| bound(expr, &bounds).is_some();
        common.iter().any(is_bound).then(|| Part::Local {
            unit: Unit::Pane,
            bounds: kept(bounds),
        })
    }

    fn union(self, other: Part) -> Part {
        match (self, other) {
            (Part::Constant, Part::Constant) => Part::Constant,
            // A constant row is in no pane.
            (Part::Constant, Part::Local { unit, .. }) | (Part::Local { unit, .. }, Part::Constant) => {
                Part::Local {
                    unit,
                    bounds: Vec::new(),
                }
            }
            (
                Part::Local { unit, mut bounds },
                Part::Local {
                    unit: other,
                    bounds: of_other,
                },
            ) => {
                bounds.retain(|bound| of_other.contains(bound));
                Part::Local {
                    unit: unit.with(other),
                    bounds,
                }
            }
        }
    }
}

fn join(kind: JoinKind, left: Part, right: Part, on: &[JoinKey]) -> Option<Part> {
    match (left, right) {
        (Part::Constant, Part::Constant) => Some(Part::Constant),
        // What is always there is a condition and columns more.
        (local @ Part::Local { .. }, Part::Constant) => match kind {
            JoinKind::Right | JoinKind::Full => None,
            _ => Some(local),
        },
        (Part::Constant, local @ Part::Local { .. }) => match kind {
            JoinKind::Inner | JoinKind::Right => Some(local),
            _ => None,
        },
        (Part::Local { bounds, .. }, Part::Local { bounds: of_right, .. }) => {
            let same_pane = |key: &JoinKey| {
                let left = bound(&key.left, &bounds);
                left.is_some() && left == bound(&key.right, &of_right)
            };
            if !on.iter().any(same_pane) {
                return None;
            }
            let bounds = match kind {
                JoinKind::Inner => bounds.into_iter().chain(of_right).collect(),
                JoinKind::Left | JoinKind::Semi | JoinKind::Anti | JoinKind::Mark => bounds,
                JoinKind::Right => of_right,
                JoinKind::Full => Vec::new(),
                // A NULL on the right is one for all panes.
                JoinKind::NullAwareAnti => return None,
            };
            Some(Part::Local {
                unit: Unit::Pane,
                bounds,
            })
        }
    }
}

/// Sessions are cut at days, which are the panes of their rows; a session has rows of one key.
fn sessions(input: &Plan, keys: &[NamedExpr], time: &str, view: &InstalledView) -> Option<Part> {
    let leaf = view.rendered.leaves.iter().find(|leaf| leaf.plan == *input)?;
    if leaf.base.rule.pane_us != DAY_US || day_of(input) != Some(time) || leaf.base.layout == Layout::Merged {
        return None;
    }
    let place = |key: &NamedExpr| match &key.expr {
        Expr::Column(name) => leaf.key_places[leaf.schema.index_of(name).ok()?],
        _ => None,
    };
    let places: Option<Vec<usize>> = keys.iter().map(place).collect();
    Some(Part::Local {
        unit: match places {
            Some(places) if !places.is_empty() => Unit::Places(places),
            _ => Unit::Pane,
        },
        // Its window is its own, not the day.
        bounds: Vec::new(),
    })
}

/// The column, as it is called above, of whose days a chain is in windows.
fn day_of(plan: &Plan) -> Option<&str> {
    match plan {
        Plan::Tumble {
            time,
            size_us: DAY_US,
            slide_us: None,
            ..
        } => Some(time),
        Plan::Filter { input, .. } => day_of(input),
        Plan::Project { input, columns } => {
            let time = day_of(input)?;
            let is_time = |column: &&NamedExpr| matches!(&column.expr, Expr::Column(name) if name == time);
            columns.iter().find(is_time).map(|column| column.name.as_str())
        }
        _ => None,
    }
}

/// Which columns of a leaf are bounds of its pane.
fn bounds_of(plan: &Plan) -> Bounds {
    match plan {
        Plan::Tumble { .. } => vec![
            (WINDOW_START.to_string(), Bound::Start),
            (WINDOW_END.to_string(), Bound::End),
        ],
        Plan::Filter { input, .. } | Plan::Recent { input, .. } => bounds_of(input),
        Plan::Unnest { input, column } => {
            let mut bounds = bounds_of(input);
            bounds.retain(|(name, _)| name != column);
            bounds
        }
        Plan::Project { input, columns } => passed(columns, &bounds_of(input)),
        Plan::Aggregate { input, keys, .. } => passed(keys, &bounds_of(input)),
        _ => Vec::new(),
    }
}

/// Those of the columns that are bounds, unchanged.
fn passed(columns: &[NamedExpr], bounds: &Bounds) -> Bounds {
    let named = |column: &NamedExpr| Some((column.name.clone(), bound(&column.expr, bounds)?));
    columns.iter().filter_map(named).collect()
}

fn bound(expr: &Expr, bounds: &Bounds) -> Option<Bound> {
    let Expr::Column(name) = expr else { return None };
    bounds
        .iter()
        .find(|(bound, _)| bound == name)
        .map(|(_, bound)| *bound)
}
