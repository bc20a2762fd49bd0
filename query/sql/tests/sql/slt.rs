//! Runs `tests/slt/*.slt`: statements with the plan, or the refusal, that they must give.
//!
//! A file is a list of blocks, separated by empty lines; `#` begins a comment line. The first line of a block says
//! what is expected, the statement follows, and for a plan, after `----`, its text:
//! `statement ok`, `statement error PF-4006`, `plan`.

use std::path::Path;

use pyflare_sql::{PlanScope, Statement, parse};

#[test]
fn statements_give_what_the_files_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/slt");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "slt"));
    files.sort();
    assert!(!files.is_empty(), "no files in {}", folder.display());
    let mut blocks = 0;
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines().enumerate().peekable();
        while let Some((number, line)) = lines.next() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let mut block = Vec::new();
            while let Some((_, line)) = lines.next_if(|(_, line)| !line.trim().is_empty()) {
                block.push(line);
            }
            let place = format!("{}:{}", path.file_name().unwrap().to_string_lossy(), number + 1);
            run(line.trim(), &block, &place);
            blocks += 1;
        }
    }
    assert!(blocks > 0);
}

fn run(expectation: &str, block: &[&str], place: &str) {
    let end = block
        .iter()
        .position(|line| *line == "----")
        .unwrap_or(block.len());
    let sql = block[..end].join("\n");
    let result = parse(
        &sql,
        &PlanScope {
            project: Some("default".into()),
            ..PlanScope::default()
        },
    );
    match expectation.split_once(' ').unwrap_or((expectation, "")) {
        ("statement", "ok") => {
            let statement = result.unwrap_or_else(|error| panic!("{place}: {error}"));
            assert!(
                !matches!(statement, Statement::Query(_)),
                "{place}: not a statement about monitors"
            );
        }
        ("statement", refusal) => {
            let code = refusal
                .strip_prefix("error ")
                .unwrap_or_else(|| panic!("{place}: {refusal} is no expectation"));
            let error = result
                .err()
                .unwrap_or_else(|| panic!("{place}: accepted, expected {code}"));
            assert_eq!(error.code(), code, "{place}: {error}");
        }
        ("plan", "") => match result {
            Ok(Statement::ExplainMonitor(explained)) => {
                let expected = block[(end + 1).min(block.len())..].join("\n");
                assert_eq!(
                    explained.plan.trim_end(),
                    expected,
                    "{place}\nfound:\n{}",
                    explained.plan
                );
            }
            other => panic!("{place}: {other:?}"),
        },
        (other, _) => panic!("{place}: {other} is no expectation"),
    }
}
