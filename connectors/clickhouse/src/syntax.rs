//! Names and texts as ClickHouse's SQL spells them.

/// A name in backticks.
pub fn identifier(name: &str) -> String {
    quoted(name, '`')
}

/// A text in single quotes.
pub fn text(value: &str) -> String {
    quoted(value, '\'')
}

fn quoted(value: &str, quote: char) -> String {
    let mut sql = String::with_capacity(value.len() + 2);
    sql.push(quote);
    for character in value.chars() {
        match character {
            '\\' => sql.push_str("\\\\"),
            '\0' => sql.push_str("\\0"),
            '\n' => sql.push_str("\\n"),
            other if other == quote => {
                sql.push('\\');
                sql.push(quote);
            }
            other => sql.push(other),
        }
    }
    sql.push(quote);
    sql
}

/// What [`identifier`] and ClickHouse's own escaping of file names leave of a table's name may be this long.
const LONGEST_NAME: usize = 150;

/// The reason why a name cannot be a table's, if there is one.
pub fn unfit(table: &str) -> Option<&'static str> {
    // ClickHouse names a file after the table, in which other bytes are three long.
    let bytes = table.bytes();
    let length: usize = bytes
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || byte == b'_' {
                1
            } else {
                3
            }
        })
        .sum();
    if table.split('/').any(str::is_empty) {
        Some("a part of the name is empty")
    } else if table.starts_with(OWN_TABLES) {
        Some("names that begin so are the store's own")
    } else if length > LONGEST_NAME {
        Some("the name is longer than ClickHouse can store")
    } else {
        None
    }
}

/// What the store's own tables begin with.
pub const OWN_TABLES: &str = "_pyflare_";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_do_not_end_what_they_enclose() {
        assert_eq!(text("it's \\ 'ü'\n"), "'it\\'s \\\\ \\'ü\\'\\n'");
        assert_eq!(identifier("a`b'c"), "`a\\`b'c`");
    }

    #[test]
    fn impossible_names_are_refused() {
        for name in [
            "",
            "a//b",
            "/a",
            "_pyflare_cuts",
            &"x".repeat(500),
            &"ü".repeat(80),
        ] {
            assert!(unfit(name).is_some(), "{name:?}");
        }
        assert_eq!(unfit("Team A/view.ä_changes"), None);
    }
}
