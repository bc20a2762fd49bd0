//! A page per family of functions, a list of all, and what the UI's editor offers.

use std::collections::BTreeMap;
use std::fmt::Write;

use pyflare_sql::functions::{Function, FunctionKind, functions, volatile_functions};

use super::{Pages, cell, check, check_folder, explained, scope};

const FOLDER: &str = "docs/src/reference/functions";

/// The headings, in the order in which they are listed.
const FAMILIES: [(&str, &str, &str); 10] = [
    (
        "aggregates",
        "Aggregates",
        "One value from the rows of a group. All can take back what they have counted; each takes `FILTER (WHERE …)`.",
    ),
    (
        "window",
        "Window functions",
        "A value for each row from the rows of its partition, in their order: `OVER (PARTITION BY … ORDER BY …)`.",
    ),
    ("conditions", "Conditions", "Which of several values."),
    ("numbers", "Numbers", "NULL in, NULL out."),
    (
        "text",
        "Text",
        "Texts are Unicode: lengths and places count characters.",
    ),
    (
        "times",
        "Times",
        "Times are UTC, in microseconds. `now()` and its relatives are refused in monitors: a view keeps the rows of its `retention`.",
    ),
    (
        "lists",
        "Lists",
        "`list[1]` is the first element. A view's columns can be lists of text; of others show elements, or `array_to_string`.",
    ),
    (
        "maps",
        "Maps and structures",
        "`map['key']` is the value of a key, NULL where there is none.",
    ),
    (
        "bytes",
        "Bytes and digests",
        "A view's columns cannot be bytes: `encode(…, 'hex')` makes text of them.",
    ),
    ("other", "Other functions", "Types and conversions."),
];

/// What planning its sample gives: the type of its value, or why it is refused.
fn planned(function: &Function) -> Result<String, String> {
    let sample = function.sample.unwrap_or_else(|| {
        panic!(
            "{}: write a sample call in query/sql/src/functions/samples.rs",
            function.name
        )
    });
    let sql = format!("EXPLAIN MONITOR {}", statement(function.kind, sample));
    let explained =
        explained(&sql, &scope()).map_err(|error| format!("{}: {}", error.code(), error.message))?;
    let column = explained.schema.field_with_name("value").unwrap();
    Ok(pyflare_operators::fields::type_name(column.data_type()))
}

fn statement(kind: FunctionKind, sample: &str) -> String {
    match kind {
        FunctionKind::Aggregate if sample.starts_with("grouping") => {
            format!("SELECT model, {sample} AS value FROM spans GROUP BY ROLLUP (model)")
        }
        FunctionKind::Aggregate => format!("SELECT model, {sample} AS value FROM spans GROUP BY model"),
        FunctionKind::Scalar | FunctionKind::Window => format!("SELECT {sample} AS value FROM spans"),
    }
}

fn pages() -> Pages {
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    for function in functions() {
        match planned(&function) {
            Ok(data_type) => accepted.push((function, data_type)),
            Err(reason) => refused.push((function, reason)),
        }
    }
    let mut pages = Pages::new();
    let mut index = String::from(INDEX);
    for (stem, family, meaning) in FAMILIES {
        let members: Vec<&(Function, String)> = accepted
            .iter()
            .filter(|(function, _)| function.family == family)
            .collect();
        assert!(!members.is_empty(), "no function is about {family}");
        pages.insert(
            format!("{FOLDER}/{stem}.md"),
            family_page(family, meaning, &members),
        );
        write!(
            index,
            "\n## [{family}](functions/{stem}.md)\n\n| function | |\n|---|---|\n"
        )
        .unwrap();
        for (function, _) in members {
            let name = &function.name;
            writeln!(
                index,
                "| [`{name}`](functions/{stem}.md#{name}) | {} |",
                cell(&function.summary())
            )
            .unwrap();
        }
    }
    let known: Vec<&str> = FAMILIES.iter().map(|(_, family, _)| *family).collect();
    for (function, _) in &accepted {
        assert!(
            known.contains(&function.family),
            "{} is of no family",
            function.name
        );
    }
    index.push_str(&refusals(&refused));
    pages.insert("docs/src/reference/functions.md".into(), index);
    pages.insert("ui/src/sql/functions.json".into(), offers(&accepted));
    pages
}

const INDEX: &str = "# Functions\n
Every function that a monitor may call; ad-hoc queries know them too. The pages are made from the registries that the \
planner uses, and the call under each function is planned when the pages are tested.\n";

fn family_page(family: &str, meaning: &str, members: &[&(Function, String)]) -> String {
    let mut page = format!("# {family}\n\n{meaning}\n");
    for (function, data_type) in members {
        write!(page, "\n## {}\n\n", function.name).unwrap();
        let syntax: Vec<String> = function
            .syntax
            .iter()
            .map(|syntax| format!("`{}`", syntax.trim()))
            .collect();
        writeln!(page, "{}\n", syntax.join("<br>")).unwrap();
        if !function.description.is_empty() {
            writeln!(page, "{}\n", function.description).unwrap();
        }
        if !function.arguments.is_empty() {
            page.push_str("| argument | |\n|---|---|\n");
            for (name, meaning) in &function.arguments {
                writeln!(page, "| `{}` | {} |", cell(name), listed(meaning)).unwrap();
            }
            page.push('\n');
        }
        if !function.aliases.is_empty() {
            let names: Vec<String> = function.aliases.iter().map(|name| format!("`{name}`")).collect();
            writeln!(page, "Also called {}.\n", names.join(", ")).unwrap();
        }
        let sample = function.sample.unwrap_or_default();
        write!(
            page,
            "```sql\n{}\n```\n\ngives `{data_type}`.\n",
            statement(function.kind, sample)
        )
        .unwrap();
    }
    page
}

/// Text for a cell, its lists one entry a line.
fn listed(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.strip_prefix("- ") {
            Some(entry) => lines.push(format!("<br>– {}", cell(entry))),
            None => lines.push(cell(line)),
        }
    }
    lines.join(" ")
}

fn refusals(refused: &[(Function, String)]) -> String {
    let mut text = String::from(
        "\n## Not in monitors\n\nAd-hoc queries know these, monitors refuse them.\n\n| function | why |\n|---|---|\n",
    );
    for name in volatile_functions() {
        writeln!(
            text,
            "| `{name}` | PF-4008: its value is not decided by its arguments |"
        )
        .unwrap();
    }
    for (function, reason) in refused {
        writeln!(text, "| `{}` | {} |", function.name, cell(reason)).unwrap();
    }
    text
}

/// What completion offers, by kind: name, arguments, a sentence.
fn offers(accepted: &[(Function, String)]) -> String {
    let mut by_kind: BTreeMap<&str, Vec<serde_json::Value>> = BTreeMap::new();
    for (function, _) in accepted {
        let kind = match function.kind {
            FunctionKind::Aggregate => "aggregates",
            FunctionKind::Window => "windows",
            FunctionKind::Scalar => "scalars",
        };
        let names = std::iter::once(&function.name).chain(&function.aliases);
        by_kind.entry(kind).or_default().extend(names.map(|name| {
            serde_json::json!({
                "name": name,
                "takes": function.takes(name),
                "about": function.summary(),
            })
        }));
    }
    let mut text = serde_json::to_string_pretty(&by_kind).unwrap();
    text.push('\n');
    text
}

#[test]
fn the_pages_of_functions_are_current() {
    let pages = pages();
    check(&pages);
    check_folder(FOLDER, &pages);
}

#[test]
fn samples_call_what_they_are_a_sample_of() {
    let mut wrong = Vec::new();
    for function in functions() {
        let called = format!("{}(", function.name);
        if !function.sample.is_some_and(|sample| sample.contains(&called)) {
            wrong.push(format!("{} has no sample that calls it", function.name));
        }
        if function.summary().is_empty() {
            wrong.push(format!("{} is not described", function.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
