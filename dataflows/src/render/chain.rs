//! Chains: filters, projections and windows over one stream.

use crate::plan::{Expr, Plan};

/// Filters, projections and windows over a stream.
pub(crate) fn is_chain(plan: &Plan) -> bool {
    match plan {
        Plan::Source { .. } => true,
        Plan::Recent { input, .. }
        | Plan::Filter { input, .. }
        | Plan::Project { input, .. }
        | Plan::Tumble { input, .. }
        | Plan::Unnest { input, .. } => is_chain(input),
        _ => false,
    }
}

pub(crate) fn window_size(plan: &Plan) -> Option<i64> {
    match plan {
        Plan::Tumble { size_us, .. } => Some(*size_us),
        Plan::Filter { input, .. } | Plan::Project { input, .. } | Plan::Unnest { input, .. } => {
            window_size(input)
        }
        _ => None,
    }
}

/// The stream's column whose windows a chain is in: an empty name if it is none of the stream's.
pub(crate) fn window_time(plan: &Plan) -> Option<&str> {
    match plan {
        Plan::Tumble { input, time, .. } => Some(passed_from(input, time).unwrap_or("")),
        Plan::Filter { input, .. } | Plan::Project { input, .. } | Plan::Unnest { input, .. } => {
            window_time(input)
        }
        _ => None,
    }
}

/// The stream's column that a column of a chain is, unchanged.
fn passed_from<'a>(plan: &'a Plan, name: &'a str) -> Option<&'a str> {
    match plan {
        Plan::Source { .. } => Some(name),
        Plan::Filter { input, .. } | Plan::Recent { input, .. } => passed_from(input, name),
        Plan::Project { input, columns } => match &columns.iter().find(|column| column.name == name)?.expr {
            Expr::Column(passed) => passed_from(input, passed),
            _ => None,
        },
        _ => None,
    }
}
