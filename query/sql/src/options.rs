//! The options of `CREATE MONITOR … WITH (…)`.

use datafusion::sql::sqlparser::ast::{Expr, Spanned, Value};
use pyflare_dataflows::MonitorOptions;

use crate::error::{Position, SqlError, SqlErrorKind};
use crate::statement::WrittenOption;

/// The options there are, with what each wants.
pub const OPTIONS: [(&str, &str); 8] = [
    (
        "retention",
        "how long a window stays in the live view after its end, such as '48 hours' (default '24 hours')",
    ),
    (
        "lateness",
        "how far out of order rows may come, such as '30 seconds' (default '10 seconds')",
    ),
    ("description", "what the monitor is for, in your words"),
    (
        "max_rows",
        "rows that one of its operators may keep, from 1 to 1,000,000,000 (default: limits.monitor_rows); beyond it the monitor is stopped",
    ),
    (
        "backfill",
        "how far back to begin: rows admitted so long before are read from the store, such as '24 hours' (default: only rows after its start)",
    ),
    (
        "max_tick_rows",
        "records that its joins may make at one tick, from 1 to 1,000,000,000 (default: limits.monitor_tick_rows); beyond it the monitor is stopped",
    ),
    (
        "max_updates_per_second",
        "changes of its result, on average of ten seconds, from 1 to 1,000,000,000 (default: limits.monitor_updates_per_second); beyond it the monitor is stopped",
    ),
    (
        "kafka_topic",
        "a Kafka topic that its changes are written to, each once (default: none)",
    ),
];

/// The greatest number that an option takes.
const MOST: u64 = 1_000_000_000;

pub(crate) const LONGEST_DESCRIPTION: usize = 2_000;
pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const DAY: i64 = 86_400 * SECOND;

pub(crate) fn read(written: &[WrittenOption]) -> Result<MonitorOptions, SqlError> {
    let mut options = MonitorOptions::default();
    let mut seen: Vec<String> = Vec::new();
    for WrittenOption { key, value } in written {
        let position = Position::start(key.span);
        let name = key.value.to_ascii_lowercase();
        let refused = |message: String| SqlError::new(SqlErrorKind::MonitorOption, message).at(position);
        if seen.contains(&name) {
            return Err(refused(format!("the option {name} is given twice")));
        }
        let text = text_value(value)
            .or_else(|| number_text(&name, value))
            .ok_or_else(|| {
                refused(format!("the value of {name} is not text"))
                    .at(Position::start(value.span()))
                    .hint(format!("write {name} = '…'"))
            })?;
        match name.as_str() {
            "retention" => {
                options.retention_us = Some(duration(&name, text, SECOND, 366 * DAY).map_err(refused)?)
            }
            "lateness" => options.lateness_us = Some(duration(&name, text, 0, 30 * DAY).map_err(refused)?),
            "backfill" => {
                options.backfill_us = Some(duration(&name, text, SECOND, 366 * DAY).map_err(refused)?)
            }
            "max_rows" => options.max_rows = Some(count(&name, text).map_err(refused)?),
            "max_tick_rows" => options.max_tick_rows = Some(count(&name, text).map_err(refused)?),
            "max_updates_per_second" => {
                options.max_updates_per_second = Some(count(&name, text).map_err(refused)?)
            }
            "kafka_topic" => {
                if !is_topic(text) {
                    return Err(refused(format!("{text:?} is no name of a Kafka topic")).hint(TOPIC_NAMES));
                }
                options.kafka_topic = Some(text.to_string());
            }
            "description" => {
                if text.len() > LONGEST_DESCRIPTION {
                    return Err(refused(format!(
                        "the description has more than {LONGEST_DESCRIPTION} bytes"
                    )));
                }
                options.description = Some(text.to_string());
            }
            _ => return Err(unknown(&name).at(position)),
        }
        seen.push(name);
    }
    Ok(options)
}

pub(crate) const TOPIC_NAMES: &str = "names have up to 249 letters, digits, dots, underscores and hyphens";

/// Whether Kafka takes it as the name of a topic.
pub(crate) fn is_topic(name: &str) -> bool {
    let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&letter);
    (1..=249).contains(&name.len()) && name.chars().all(is_allowed) && name != "." && name != ".."
}

pub(crate) fn unknown(name: &str) -> SqlError {
    let known = OPTIONS.map(|(name, _)| name).join(", ");
    SqlError::new(SqlErrorKind::MonitorOption, format!("there is no option {name}"))
        .hint(format!("there are {known}"))
}

/// The digits of a bare number, where the option is one.
fn number_text<'a>(name: &str, value: &'a Expr) -> Option<&'a str> {
    match value {
        Expr::Value(value) if name.starts_with("max_") => match &value.value {
            Value::Number(digits, _) => Some(digits),
            _ => None,
        },
        _ => None,
    }
}

/// Reads `5000000` and `5_000_000`.
fn count(name: &str, text: &str) -> Result<u64, String> {
    let number = text.trim().replace('_', "").parse::<u64>();
    match number {
        Ok(number) if (1..=MOST).contains(&number) => Ok(number),
        _ => Err(format!(
            "{name} = '{text}' is not a whole number from 1 to {MOST}"
        )),
    }
}

pub(crate) fn text_value(value: &Expr) -> Option<&str> {
    match value {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text),
            Value::DollarQuotedString(text) => Some(&text.value),
            _ => None,
        },
        _ => None,
    }
}

/// Reads `48 hours`, `1 day 30 minutes`, `90s`.
pub(crate) fn duration(name: &str, text: &str, least: i64, most: i64) -> Result<i64, String> {
    let unreadable = || {
        format!(
            "{name} = '{text}' is not a duration; write a whole number and a unit, such as '90 seconds' or '48 hours'"
        )
    };
    let mut total: i64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(unreadable());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: i64 = rest[..digits].parse().map_err(|_| unreadable())?;
        rest = rest[digits..].trim_start();
        let letters = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let unit = match rest[..letters].to_ascii_lowercase().as_str() {
            "ms" | "millisecond" | "milliseconds" => 1_000,
            "s" | "sec" | "second" | "seconds" => SECOND,
            "m" | "min" | "minute" | "minutes" => 60 * SECOND,
            "h" | "hour" | "hours" => 3_600 * SECOND,
            "d" | "day" | "days" => DAY,
            "w" | "week" | "weeks" => 7 * DAY,
            _ => return Err(unreadable()),
        };
        let part = number.checked_mul(unit).ok_or_else(unreadable)?;
        total = total.checked_add(part).ok_or_else(unreadable)?;
        rest = rest[letters..].trim_start();
    }
    if total < least || total > most {
        return Err(format!(
            "{name} = '{text}' is out of range: from {} to {}",
            spoken(least),
            spoken(most)
        ));
    }
    Ok(total)
}

/// A duration in the largest unit that divides it.
pub(crate) fn spoken(micros: i64) -> String {
    let units = [
        (DAY, "day"),
        (3_600 * SECOND, "hour"),
        (60 * SECOND, "minute"),
        (SECOND, "second"),
        (1_000, "ms"),
    ];
    for (unit, name) in units {
        if micros != 0 && micros % unit == 0 {
            let count = micros / unit;
            let plural = if count == 1 || name == "ms" { "" } else { "s" };
            return format!("{count} {name}{plural}");
        }
    }
    format!("{micros} µs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_add_up_in_any_unit() {
        assert_eq!(
            duration("retention", "48 hours", 0, i64::MAX),
            Ok(48 * 3_600 * SECOND)
        );
        assert_eq!(
            duration("retention", "1 day 30 minutes", 0, i64::MAX),
            Ok(DAY + 1_800 * SECOND)
        );
        assert_eq!(duration("retention", "90s", 0, i64::MAX), Ok(90 * SECOND));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "hours",
            "-1 hour",
            "1.5 hours",
            "1",
            "9223372036854775807 weeks",
            "1 fortnight",
            "１ hour",
        ] {
            assert!(duration("retention", text, 0, i64::MAX).is_err(), "{text:?}");
        }
    }

    #[test]
    fn counts_are_whole_numbers_in_range() {
        assert_eq!(count("max_rows", " 5_000 "), Ok(5_000));
        for text in [
            "",
            "0",
            "-1",
            "1.5",
            "1e3",
            "1000000001",
            "many",
            "99999999999999999999",
        ] {
            assert!(count("max_rows", text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn spoken_durations_read_back() {
        for micros in [
            SECOND,
            90 * SECOND,
            60 * SECOND,
            3_600 * SECOND,
            48 * 3_600 * SECOND,
            7 * DAY,
            1_500_000,
        ] {
            assert_eq!(duration("lateness", &spoken(micros), 0, i64::MAX), Ok(micros));
        }
    }
}
