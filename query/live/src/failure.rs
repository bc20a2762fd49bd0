//! A refusal as every surface shows it: what kind it is, a stable code, and a sentence that says what to do.
//!
//! Errors of other crates carry their code in front of the sentence (`PF-3002: …`); [`Failure::from_error`] takes
//! the two apart, so that a code travels through unchanged whatever surface it leaves by.

use std::fmt;

/// What kind of refusal; the REST API derives the HTTP status from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The request cannot be understood or breaks a rule.
    Invalid,
    Unauthorized,
    Forbidden,
    NotFound,
    /// The name is taken, or the state does not allow it.
    Conflict,
    TooLarge,
    /// Too much at once: try again later.
    Busy,
    TimedOut,
    /// Not now: recovering or shutting down.
    Unavailable,
    /// Our fault.
    Internal,
}

/// Where in a statement or body something is wrong; both count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Position {
    pub line: u64,
    pub column: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// `PF-nnnn`.
    pub code: String,
    pub message: String,
    pub hint: Option<String>,
    pub position: Option<Position>,
}

impl Failure {
    pub fn new(kind: FailureKind, code: &str, message: impl Into<String>) -> Failure {
        Failure {
            kind,
            code: code.to_string(),
            message: message.into(),
            hint: None,
            position: None,
        }
    }

    /// From an error whose text begins with its code; text without a code becomes `PF-5000`.
    pub fn from_error(kind: FailureKind, error: &dyn fmt::Display) -> Failure {
        let text = error.to_string();
        match split_code(&text) {
            Some((code, message)) => Failure::new(kind, code, message),
            None => Failure::new(kind, "PF-5000", text),
        }
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    pub fn at(mut self, position: Option<Position>) -> Failure {
        self.position = position;
        self
    }

    /// There is no such view for this reader; the hint names those that are close.
    pub fn unknown_view<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Failure {
        let mut names: Vec<&str> = known.collect();
        names.sort_unstable();
        names.dedup();
        let hint = if names.is_empty() {
            "there is no view yet; CREATE MONITOR makes one".to_string()
        } else {
            let more = if names.len() > 12 { ", …" } else { "" };
            names.truncate(12);
            format!("there are: {}{more}", names.join(", "))
        };
        Failure::new(
            FailureKind::NotFound,
            "PF-5013",
            format!("there is no view {}", shown(name)),
        )
        .with_hint(hint)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Failure {}

/// A name out of a request as it may be repeated in a message: quoted, escaped and short.
pub(crate) fn shown(name: &str) -> String {
    const LONGEST: usize = 100;
    if name.chars().count() <= LONGEST {
        return format!("{name:?}");
    }
    let start: String = name.chars().take(LONGEST).collect();
    format!("{start:?}…")
}

fn split_code(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("PF-")?;
    let digits = rest.find(|character: char| !character.is_ascii_digit())?;
    if digits == 0 || !rest[digits..].starts_with(": ") {
        return None;
    }
    Some((&text[..3 + digits], &rest[digits + 2..]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_code_in_front_of_a_sentence_is_taken_apart() {
        let failure = Failure::from_error(FailureKind::NotFound, &"PF-3002: there is no monitor \"x\"");
        assert_eq!(failure.code, "PF-3002");
        assert_eq!(failure.message, "there is no monitor \"x\"");
        assert_eq!(failure.to_string(), "PF-3002: there is no monitor \"x\"");
    }

    #[test]
    fn text_without_a_code_is_kept_whole() {
        for text in ["", "PF-", "PF-: x", "PF-12", "PF-12:x", "pf-1: x", "é PF-1: x"] {
            let failure = Failure::from_error(FailureKind::Internal, &text);
            assert_eq!(
                (failure.code.as_str(), failure.message.as_str()),
                ("PF-5000", text)
            );
        }
    }

    #[test]
    fn a_long_or_hostile_name_is_shortened_and_escaped() {
        let failure = Failure::unknown_view(&"\u{202e}\n".repeat(10_000), std::iter::empty());
        assert!(failure.message.len() < 2_000);
        assert!(!failure.message.contains('\n'));
    }
}
