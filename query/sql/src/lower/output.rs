//! Names and types of a view's columns.
//!
//! A view's columns have the types that live views, stores and clients share, and lower-case names. What SQL
//! computes in another type is cast where nothing is lost, and refused otherwise.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, TimeUnit};
use pyflare_operators::fields::type_name;

use crate::error::{SqlError, SqlErrorKind};
use crate::hidden::is_hidden;
use crate::statement::{LONGEST_NAME, check_name};

/// Most columns of a view.
pub(super) const MOST_COLUMNS: usize = 256;

/// What a column's type becomes in a view: `None` if it stays.
pub(super) fn view_type(name: &str, data_type: &DataType) -> Result<Option<DataType>, SqlError> {
    let microseconds = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Ok(match data_type {
        DataType::Utf8View
        | DataType::Boolean
        | DataType::Int32
        | DataType::Int64
        | DataType::Float64
        | DataType::Decimal128(..) => None,
        same if *same == microseconds => None,
        DataType::List(item) if matches!(item.data_type(), DataType::Utf8) => None,
        DataType::List(item) if item.data_type().is_string() => {
            Some(DataType::new_list(DataType::Utf8, true))
        }
        DataType::Map(..) => None,
        DataType::Utf8 | DataType::LargeUtf8 => Some(DataType::Utf8View),
        integer if integer.is_integer() => Some(DataType::Int64),
        float if float.is_floating() => Some(DataType::Float64),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            Some(DataType::Decimal128(*precision, *scale))
        }
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => Some(microseconds),
        DataType::Null => {
            let message = format!("the column {name} is always NULL");
            return Err(SqlError::new(SqlErrorKind::Output, message)
                .hint(format!("give it a type: CAST(NULL AS TEXT) AS {name}")));
        }
        other => {
            let hint = match other {
                DataType::Interval(_) | DataType::Duration(_) => {
                    "use duration_ns, or date_part('epoch', …) of the two times and subtract"
                }
                DataType::Binary
                | DataType::BinaryView
                | DataType::LargeBinary
                | DataType::FixedSizeBinary(_) => "show bytes as text with encode(…, 'hex')",
                DataType::List(_) => "a view has lists of texts: array_agg(CAST(… AS TEXT))",
                DataType::Time32(_) | DataType::Time64(_) => {
                    "keep the whole timestamp, or date_part('hour', …)"
                }
                _ => "select its parts as columns of their own",
            };
            let message = format!(
                "the column {name} is {}, which a view cannot have",
                type_name(other)
            );
            return Err(SqlError::new(SqlErrorKind::Output, message).hint(hint));
        }
    })
}

/// The names of a view's columns: those given with AS, else what the expression is called.
pub(super) fn column_names(given: &[(String, bool)]) -> Result<Vec<String>, SqlError> {
    if given.len() > MOST_COLUMNS {
        let message = format!(
            "the view has {} columns, at most {MOST_COLUMNS} are allowed",
            given.len()
        );
        return Err(SqlError::new(SqlErrorKind::Limit, message));
    }
    let explicit: BTreeSet<&str> = given
        .iter()
        .filter(|(_, named)| *named)
        .map(|(name, _)| name.as_str())
        .collect();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut names = Vec::with_capacity(given.len());
    for (position, (name, named)) in given.iter().enumerate() {
        if *named {
            check_column_name(name)?;
            if !taken.insert(name.clone()) {
                return Err(
                    SqlError::new(SqlErrorKind::Output, format!("two columns are called {name}"))
                        .hint("give one of them another name with AS"),
                );
            }
            names.push(name.clone());
            continue;
        }
        let base = spoken_name(name).unwrap_or_else(|| format!("column_{}", position + 1));
        let free = |candidate: &String| !taken.contains(candidate) && !explicit.contains(candidate.as_str());
        let unique = std::iter::once(base.clone())
            .chain((2..).map(|number| format!("{base}_{number}")))
            .find(free)
            .expect("invariant: there are more numbers than columns");
        taken.insert(unique.clone());
        names.push(unique);
    }
    Ok(names)
}

fn check_column_name(name: &str) -> Result<(), SqlError> {
    if is_hidden(name) || name == "_diff" {
        return Err(SqlError::new(
            SqlErrorKind::Output,
            format!("{name} is reserved, so no column of a view has this name"),
        )
        .hint(format!(
            "give it another name: {name} AS {}",
            name.trim_start_matches('_')
        )));
    }
    check_name(name).map_err(|_| {
        let hint = format!(
            "name columns with AS and lower-case letters, digits and _, at most {LONGEST_NAME} of them"
        );
        SqlError::new(
            SqlErrorKind::Output,
            format!("{name:?} cannot be the name of a column"),
        )
        .hint(hint)
    })
}

/// `count` for `count(*)`, `upper` for `upper(spans.model)`.
fn spoken_name(name: &str) -> Option<String> {
    let (function, _) = name.split_once('(')?;
    check_name(function).is_ok().then(|| function.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn named(names: &[(&str, bool)]) -> Result<Vec<String>, SqlError> {
        column_names(
            &names
                .iter()
                .map(|(name, named)| (name.to_string(), *named))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn unnamed_columns_are_called_after_their_function_and_never_clash() {
        let names = named(&[
            ("count(*)", false),
            ("count(spans.model)", false),
            ("a + b", false),
            ("count_2", true),
        ]);
        assert_eq!(names.unwrap(), ["count", "count_3", "column_3", "count_2"]);
    }

    #[test]
    fn reserved_and_twice_given_names_are_refused() {
        assert_eq!(named(&[("_tick", true)]).unwrap_err().code(), "PF-4011");
        assert_eq!(named(&[("a", true), ("a", true)]).unwrap_err().code(), "PF-4011");
        assert_eq!(named(&[("Total Cost", true)]).unwrap_err().code(), "PF-4011");
    }
}
