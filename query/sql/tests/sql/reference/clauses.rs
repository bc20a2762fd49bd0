//! A page per clause: the records of its file under `tests/slt/clauses`, which two oracles run.

use std::fmt::Write;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use pyflare_sql::{PlanScope, Statement, ViewColumns, parse};

use super::clause_files::{self, ClauseFile, Kind, Record};
use super::{Pages, cell, check, check_folder, scope};

const FOLDER: &str = "docs/src/reference/clauses";

/// The files, in the order of a statement.
const ORDER: [&str; 22] = [
    "select",
    "where",
    "group_by",
    "aggregates",
    "having",
    "distinct",
    "grouping_sets",
    "tumble",
    "hop",
    "session",
    "emit_final",
    "joins",
    "interval_joins",
    "in_and_exists",
    "subqueries",
    "sets",
    "with",
    "order_by",
    "window_functions",
    "partition_aggregates",
    "views",
    "row_errors",
];

const INDEX: &str = "# Clauses

A page per clause, with examples. The examples are tests: every view is compared with DuckDB over the same rows, and at \
every tick with DataFusion, on one, two and four workers (`tests/slt/clauses`). [Monitors](monitors.md) has the rules, \
[Functions](functions.md) what may be called.

They read three streams:
";

/// The streams of the files, and every view as far as it was planned.
fn planned(files: &[ClauseFile], statements: &[String]) -> PlanScope {
    let mut known = scope();
    for sql in statements {
        match parse(sql, &known).unwrap() {
            Statement::CreateStream { definition, .. } => known.streams.push(Arc::from(definition)),
            other => panic!("{other:?}"),
        }
    }
    for record in files.iter().flat_map(|file| &file.records) {
        let Kind::Monitor { name, .. } = &record.kind else {
            continue;
        };
        match parse(&record.statement(), &known) {
            Ok(Statement::CreateMonitor(create)) => known.views.push(ViewColumns {
                name: name.clone(),
                builtin: false,
                schema: create.definition.plan.schema().unwrap(),
            }),
            other => panic!("{}: {other:?}", record.place),
        }
    }
    known
}

fn page(file: &ClauseFile, known: &PlanScope) -> String {
    let mut page = format!("# {}\n\n{}\n", file.title, file.meaning);
    let mut refused = String::new();
    for record in &file.records {
        match &record.kind {
            Kind::Monitor { name, options } => {
                let words: Vec<&str> = name.split('_').collect();
                write!(page, "\n## {}\n\n", words.join(" ")).unwrap();
                if !record.caption.is_empty() {
                    writeln!(page, "{}\n", record.caption).unwrap();
                }
                let options = if options.is_empty() {
                    String::new()
                } else {
                    format!(" {options}")
                };
                writeln!(
                    page,
                    "```sql\nCREATE MONITOR {name}{options} AS\n{}\n```",
                    record.select
                )
                .unwrap();
                let view = known.views.iter().find(|view| view.name == *name).unwrap();
                writeln!(page, "\nColumns: {}.", columns(&view.schema)).unwrap();
            }
            Kind::Refused(code) => refused.push_str(&refusal(record, code, known)),
        }
    }
    if !refused.is_empty() {
        write!(page, "\n## Refused\n\n| | |\n|---|---|\n{refused}").unwrap();
    }
    page
}

fn columns(schema: &SchemaRef) -> String {
    let fields = schema.fields().iter();
    let named = fields.map(|field| {
        let data_type = pyflare_operators::fields::type_name(field.data_type());
        format!("`{}` {data_type}", field.name())
    });
    named.collect::<Vec<_>>().join(", ")
}

fn refusal(record: &Record, code: &str, known: &PlanScope) -> String {
    let error = parse(&record.statement(), known).err();
    let error = error.unwrap_or_else(|| panic!("{}: accepted, expected {code}", record.place));
    assert_eq!(error.code(), code, "{}: {error}", record.place);
    let hint = error.hint.map_or(String::new(), |hint| format!("; {hint}"));
    format!(
        "| `{}` | {code}: {}{} |\n",
        cell(&record.select),
        cell(&error.message),
        cell(&hint)
    )
}

fn pages() -> Pages {
    let folder = clause_files::folder(env!("CARGO_MANIFEST_DIR"));
    let files = clause_files::files(&folder);
    let statements = clause_files::streams(&folder);
    let known = planned(&files, &statements);
    let mut pages = Pages::new();
    let mut index = String::from(INDEX);
    write!(
        index,
        "\n```sql\n{};\n```\n\n| clause | |\n|---|---|\n",
        statements.join(";\n\n")
    )
    .unwrap();
    for stem in ORDER {
        let file = files.iter().find(|file| file.stem == stem);
        let file = file.unwrap_or_else(|| panic!("there is no {stem}.slt"));
        let first = file
            .meaning
            .split(". ")
            .next()
            .unwrap_or_default()
            .trim_end_matches('.');
        writeln!(index, "| [{}](clauses/{stem}.md) | {} |", file.title, cell(first)).unwrap();
        pages.insert(format!("{FOLDER}/{stem}.md"), page(file, &known));
    }
    for file in &files {
        assert!(
            ORDER.contains(&file.stem.as_str()),
            "{}.slt has no place among the pages",
            file.stem
        );
    }
    pages.insert("docs/src/reference/clauses.md".into(), index);
    pages
}

#[test]
fn the_pages_of_clauses_are_current() {
    let pages = pages();
    check(&pages);
    check_folder(FOLDER, &pages);
}
