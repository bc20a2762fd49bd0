//! `ALTER MONITOR … SET (…)` and `… RESET (…)`: the statement that the monitor would have been created by.
//!
//! An altered monitor is its own statement with other options, so it is planned, kept and explained like any other;
//! what it shares with the one before, it keeps.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token};
use pyflare_dataflows::{MonitorDefinition, MonitorOptions};

use crate::error::{Position, SqlError, SqlErrorKind};
use crate::options::{self, OPTIONS, spoken};
use crate::statement::{self, Parsed, eat, expect, key_and_value, monitor_name, syntax};

/// Options that are given, and options that go back to their defaults.
#[derive(Debug, Clone, Default)]
pub struct OptionChanges {
    set: MonitorOptions,
    reset: Vec<String>,
}

/// Reads what follows `ALTER`.
pub(crate) fn statement(parser: &mut Parser<'_>) -> Result<Parsed, SqlError> {
    expect(parser, "monitor")?;
    let if_exists = eat(parser, "if");
    if if_exists {
        expect(parser, "exists")?;
    }
    let name = monitor_name(parser)?;
    let token = parser.peek_token();
    let position = Position::start(token.span);
    let mut changes = OptionChanges::default();
    if statement::is_word(&token.token, "set") {
        let written = parser
            .parse_options(Keyword::SET)
            .map_err(|error| syntax(&error).at(position))?;
        let written: Result<Vec<_>, SqlError> = written.into_iter().map(key_and_value).collect();
        let written = written?;
        if written.is_empty() {
            return Err(nothing().at(position));
        }
        changes.set = options::read(&written)?;
    } else if eat(parser, "reset") {
        let reset = parser
            .expect_token(&Token::LParen)
            .and_then(|_| parser.parse_comma_separated(Parser::parse_identifier))
            .and_then(|reset| parser.expect_token(&Token::RParen).map(|_| reset))
            .map_err(|error| syntax(&error).at(position))?;
        for option in reset {
            let name = option.value.to_ascii_lowercase();
            if !OPTIONS.iter().any(|(known, _)| *known == name) {
                return Err(options::unknown(&name).at(Position::start(option.span)));
            }
            changes.reset.push(name);
        }
    } else {
        return Err(nothing().at(position));
    }
    Ok(Parsed::Alter {
        name,
        if_exists,
        changes,
    })
}

fn nothing() -> SqlError {
    SqlError::new(
        SqlErrorKind::Syntax,
        "ALTER MONITOR changes options: SET (…) or RESET (…)",
    )
    .hint("write ALTER MONITOR name SET (retention = '48 hours') or ALTER MONITOR name RESET (retention)")
}

impl OptionChanges {
    /// The statement by which the monitor would have been created with these options.
    pub fn statement(&self, definition: &MonitorDefinition) -> Result<String, SqlError> {
        let Parsed::Create(create) = statement::parse(&definition.sql)? else {
            return Err(SqlError::new(
                SqlErrorKind::Internal,
                format!("{} was not created by a statement", definition.name),
            ));
        };
        let query = offset(&definition.sql, create.query_at)
            .and_then(|at| definition.sql.get(at..))
            .unwrap_or_default();
        let options = written(&self.applied(&create.options));
        let with = match options.is_empty() {
            true => String::new(),
            false => format!(" WITH ({})", options.join(", ")),
        };
        Ok(format!(
            "CREATE OR REPLACE MONITOR {}{with} AS {query}",
            definition.name
        ))
    }

    fn applied(&self, current: &MonitorOptions) -> MonitorOptions {
        let keeps = |option: &str| !self.reset.iter().any(|reset| reset == option);
        let kept = MonitorOptions {
            retention_us: current.retention_us.filter(|_| keeps("retention")),
            lateness_us: current.lateness_us.filter(|_| keeps("lateness")),
            description: current.description.clone().filter(|_| keeps("description")),
            emit_final: current.emit_final,
            max_rows: current.max_rows.filter(|_| keeps("max_rows")),
            max_tick_rows: current.max_tick_rows.filter(|_| keeps("max_tick_rows")),
            backfill_us: current.backfill_us.filter(|_| keeps("backfill")),
            max_updates_per_second: current
                .max_updates_per_second
                .filter(|_| keeps("max_updates_per_second")),
            kafka_topic: current.kafka_topic.clone().filter(|_| keeps("kafka_topic")),
        };
        let set = self.set.clone();
        MonitorOptions {
            retention_us: set.retention_us.or(kept.retention_us),
            lateness_us: set.lateness_us.or(kept.lateness_us),
            description: set.description.or(kept.description),
            emit_final: kept.emit_final,
            max_rows: set.max_rows.or(kept.max_rows),
            max_tick_rows: set.max_tick_rows.or(kept.max_tick_rows),
            backfill_us: set.backfill_us.or(kept.backfill_us),
            max_updates_per_second: set.max_updates_per_second.or(kept.max_updates_per_second),
            kafka_topic: set.kafka_topic.or(kept.kafka_topic),
        }
    }
}

/// Options as a statement has them; `EMIT FINAL` is none.
fn written(options: &MonitorOptions) -> Vec<String> {
    let duration = |name: &str, micros: Option<i64>| {
        micros.map(|micros| match micros {
            0 => format!("{name} = '0 seconds'"),
            _ => format!("{name} = '{}'", spoken(micros)),
        })
    };
    let count = |name: &str, count: Option<u64>| count.map(|count| format!("{name} = '{count}'"));
    let description = options.description.as_ref();
    [
        duration("retention", options.retention_us),
        duration("lateness", options.lateness_us),
        description.map(|text| format!("description = '{}'", text.replace('\'', "''"))),
        count("max_rows", options.max_rows),
        count("max_tick_rows", options.max_tick_rows),
        duration("backfill", options.backfill_us),
        count("max_updates_per_second", options.max_updates_per_second),
        options
            .kafka_topic
            .as_ref()
            .map(|topic| format!("kafka_topic = '{topic}'")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The byte at a place that the tokenizer names by line and column, both from 1 and in characters.
fn offset(text: &str, at: Location) -> Option<usize> {
    let (line, column) = (usize::try_from(at.line).ok()?, usize::try_from(at.column).ok()?);
    let start: usize = text
        .split_inclusive('\n')
        .take(line.checked_sub(1)?)
        .map(str::len)
        .sum();
    let rest = text.get(start..)?;
    let inside = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    Some(start + inside.into_iter().nth(column.checked_sub(1)?)?)
}
