//! Table names and the directories they live in.
//!
//! A table is called `spans`, or `<project>/<view>_changes` where it belongs to one project. Both become one directory
//! directly under the store's root, so that no table ever lies inside another one's directory: `/` is written `.`,
//! and every byte outside `a-z 0-9 _ -` is written `~XX`. The mapping is a bijection, also on file systems that do not
//! tell upper case from lower case, and its results contain nothing that a URL would have to escape.

use pyflare_connectors::StoreError;

/// File systems allow 255 bytes; the rest is room for suffixes of temporary names.
const LONGEST_DIRECTORY: usize = 200;

/// The directory of a table, or the reason why the name cannot be a table.
pub fn directory_of(table: &str) -> Result<String, StoreError> {
    let invalid = |detail: &str| StoreError::Name {
        table: table.to_owned(),
        detail: detail.to_owned(),
    };
    if table.split('/').any(str::is_empty) {
        return Err(invalid("a part of the name is empty"));
    }
    let mut directory = String::with_capacity(table.len());
    for byte in table.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => directory.push(byte as char),
            b'/' => directory.push('.'),
            other => directory.push_str(&format!("~{other:02X}")),
        }
    }
    if directory.len() > LONGEST_DIRECTORY {
        return Err(invalid("the name is longer than a directory name can be"));
    }
    Ok(directory)
}

/// The table that a directory holds; `None` for a directory that no table name maps to.
pub fn table_of(directory: &str) -> Option<String> {
    let mut name = Vec::with_capacity(directory.len());
    let mut bytes = directory.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'.' => name.push(b'/'),
            b'~' => {
                let (high, low) = (bytes.next()?, bytes.next()?);
                let digit = |byte: u8| (byte as char).to_digit(16).map(|value| value as u8);
                name.push(digit(high)? * 16 + digit(low)?);
            }
            b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => name.push(byte),
            _ => return None,
        }
    }
    let name = String::from_utf8(name).ok()?;
    (directory_of(&name).ok()? == directory).then_some(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_and_directories_are_one_to_one() {
        for name in [
            "spans",
            "default/my_view_changes",
            "Team A/Größe.x",
            "a.b",
            "a~2Eb",
            "..",
            "_delta_log",
        ] {
            let directory = directory_of(name).unwrap();
            assert!(
                directory
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_-.~".contains(&b)),
                "{directory}"
            );
            assert!(!directory.starts_with('.'), "{directory}");
            assert_eq!(table_of(&directory).as_deref(), Some(name));
        }
        assert_eq!(
            directory_of("default/my_view_changes").unwrap(),
            "default.my_view_changes"
        );
        assert_ne!(
            directory_of("Spans").unwrap().to_lowercase(),
            directory_of("spans").unwrap().to_lowercase()
        );
    }

    #[test]
    fn impossible_names_are_refused() {
        for name in ["", "/", "a//b", "/spans", "spans/", &"x".repeat(500)] {
            assert!(directory_of(name).is_err(), "{name:?}");
        }
        for directory in [".dropped", "Spans", "a~2", "a~zz", "a~61", "ä"] {
            assert_eq!(table_of(directory), None, "{directory:?}");
        }
    }
}
