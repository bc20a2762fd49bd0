//! The reference pages of functions and clauses, made from what implements and tests them.
//!
//! `PYFLARE_WRITE_REFERENCE=1` writes them anew: `make reference`. A page that is stale fails the test, and so does a
//! function without a sample call.

#[path = "../../../../../tests/support/clause_files.rs"]
mod clause_files;
mod clauses;
mod functions;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pyflare_sql::{Explained, PlanScope, SqlError, Statement, parse};

const WRITE: &str = "PYFLARE_WRITE_REFERENCE";

/// Pages by their path below the repository's root.
type Pages = BTreeMap<String, String>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Writes the pages if asked to; says which are not what they must be.
fn check(pages: &Pages) {
    let is_asked = std::env::var_os(WRITE).is_some();
    let mut stale = Vec::new();
    for (path, page) in pages {
        let file = root().join(path);
        if is_asked {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, page).unwrap();
        }
        if std::fs::read_to_string(&file).ok().as_ref() != Some(page) {
            stale.push(path.as_str());
        }
    }
    assert!(
        stale.is_empty(),
        "stale, write them with {WRITE}=1: {}",
        stale.join(", ")
    );
}

/// Pages that were generated once and are not any more, and pages that the table of contents lacks.
fn check_folder(folder: &str, pages: &Pages) {
    let summary = std::fs::read_to_string(root().join("docs/src/SUMMARY.md")).unwrap();
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let path = format!("{folder}/{name}");
        assert!(pages.contains_key(&path), "{path} belongs to nothing: delete it");
    }
    for path in pages.keys().filter(|path| path.ends_with(".md")) {
        let link = path.trim_start_matches("docs/src/");
        assert!(
            summary.contains(&format!("({link})")),
            "docs/src/SUMMARY.md does not list {link}"
        );
    }
}

fn explained(sql: &str, scope: &PlanScope) -> Result<Explained, SqlError> {
    match parse(sql, scope)? {
        Statement::ExplainMonitor(explained) => Ok(*explained),
        other => panic!("{sql}: {other:?}"),
    }
}

fn scope() -> PlanScope {
    PlanScope {
        project: Some("default".into()),
        ..PlanScope::default()
    }
}

/// Text for a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}
