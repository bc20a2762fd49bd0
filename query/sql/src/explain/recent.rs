//! Conditions on `now()`, in words.

use pyflare_dataflows::Plan;

use crate::options::spoken;

/// `now − 5 minutes ≤ event_time < now`: bounds are kept to the microsecond, so one that is in is told by it.
pub(super) fn text(plan: &Plan) -> String {
    let Plan::Recent {
        input,
        after_us,
        until_us,
        quantum_us,
    } = plan
    else {
        return String::new();
    };
    let is_shifted = |distance: i64| distance.rem_euclid(1_000) == 1;
    let mut line = "Recent: ".to_string();
    if let Some(after) = *after_us {
        line.push_str(&match is_shifted(after) {
            true => format!("{} ≤ ", moment(after - 1)),
            false => format!("{} < ", moment(after)),
        });
    }
    line.push_str(input.time_column().unwrap_or_default());
    if let Some(until) = *until_us {
        line.push_str(&match is_shifted(until) {
            true => format!(" < {}", moment(until - 1)),
            false => format!(" ≤ {}", moment(until)),
        });
    }
    format!("{line}; now in steps of {}", spoken(*quantum_us))
}

fn moment(distance_us: i64) -> String {
    match distance_us {
        0 => "now".to_string(),
        past if past > 0 => format!("now − {}", spoken(past)),
        future => format!("now + {}", spoken(-future)),
    }
}

/// How long after their event time a condition lets rows go, and in which steps.
pub(super) fn leaving(plan: &Plan) -> Option<(i64, i64)> {
    match plan {
        Plan::Recent {
            after_us: Some(after),
            quantum_us,
            ..
        } => Some((after - i64::from(after.rem_euclid(1_000) == 1), *quantum_us)),
        Plan::Filter { input, .. }
        | Plan::Project { input, .. }
        | Plan::Unnest { input, .. }
        | Plan::Aggregate { input, .. } => leaving(input),
        _ => None,
    }
}
