//! Every function that a monitor may call, described from the registries that the planner uses.
//!
//! The reference pages and what the editor of the UI offers are made from this list, so a function that is registered
//! is documented and offered, and one that is not is neither. What a scalar or window function means is DataFusion's
//! own text; aggregates are ours ([`FUNCTIONS`]). Each has a sample call, which a test plans: a function whose sample
//! is refused is listed with the reason instead.

mod samples;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::logical_expr::{Documentation, ScalarUDF, Volatility};
use pyflare_dataflows::plan::{scalar_functions, window_functions};

use self::samples::{AGGREGATES, SCALARS, WINDOWS};
use crate::aggregates::{FUNCTIONS, aggregate_functions};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionKind {
    /// One value from the values of a row.
    Scalar,
    /// One value from the rows of a group.
    Aggregate,
    /// A value for each row from the rows of its partition.
    Window,
}

/// A function as its user sees it.
#[derive(Debug, Clone)]
pub struct Function {
    pub name: String,
    pub kind: FunctionKind,
    /// Other names for the same.
    pub aliases: Vec<String>,
    /// What it is about, as a heading: `Text`, `Times`, `Aggregates`, ….
    pub family: &'static str,
    /// How it is called, in several ways if there are such.
    pub syntax: Vec<String>,
    /// What it does, in markdown.
    pub description: String,
    /// Name and meaning of the arguments.
    pub arguments: Vec<(String, String)>,
    /// An expression over `spans` that calls it; `None`: nobody has written one, which a test does not let pass.
    pub sample: Option<&'static str>,
}

impl Function {
    /// The first sentence of the description, as plain text.
    pub fn summary(&self) -> String {
        let line = self.description.trim().split("\n\n").next().unwrap_or_default();
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let end = line.find(". ").map_or(line.len(), |end| end + 1);
        let plain = without_links(&line[..end]).replace('`', "").replace("**", "");
        match plain.ends_with('.') || plain.is_empty() {
            true => plain,
            false => format!("{plain}."),
        }
    }

    /// What stands between the parentheses of a call, by this name or an alias.
    pub fn takes(&self, name: &str) -> String {
        let called = |syntax: &&String| {
            syntax
                .trim()
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('('))
        };
        let syntax = self.syntax.iter().find(called).or(self.syntax.first());
        let inside = syntax.and_then(|syntax| syntax.split_once('('));
        let inside = inside.map_or("", |(_, rest)| rest.trim());
        inside.strip_suffix(')').unwrap_or(inside).to_string()
    }
}

/// `[text](address)` as its text.
fn without_links(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        plain.push_str(before);
        match link
            .split_once("](")
            .and_then(|(label, after)| Some((label, after.split_once(')')?)))
        {
            Some((label, (_, after))) => {
                plain.push_str(label);
                rest = after;
            }
            None => {
                plain.push('[');
                rest = link;
            }
        }
    }
    plain + rest
}

/// All functions of monitors: aggregates as they are declared, then window functions, then scalar ones by name.
pub fn functions() -> Vec<Function> {
    let mut all = aggregates();
    all.extend(windows());
    all.extend(scalars());
    all
}

/// Functions that DataFusion has and monitors refuse, because their value is not decided by their arguments.
pub fn volatile_functions() -> Vec<String> {
    let all = datafusion::functions::all_default_functions()
        .into_iter()
        .chain(datafusion::functions_nested::all_default_nested_functions());
    let volatile = all.filter(|function| function.signature().volatility != Volatility::Immutable);
    let mut names: Vec<String> = volatile
        .flat_map(|function| {
            let aliases = function.aliases().iter().cloned();
            aliases.chain([function.name().to_string()]).collect::<Vec<_>>()
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn sample_of(table: &'static [(&'static str, &'static str)], name: &str) -> Option<&'static str> {
    let found = table.iter().find(|(known, _)| *known == name);
    found.map(|(_, sample)| *sample)
}

fn scalars() -> Vec<Function> {
    let mut by_name: BTreeMap<String, &Arc<ScalarUDF>> = BTreeMap::new();
    for function in scalar_functions().values() {
        by_name.insert(function.name().to_string(), function);
    }
    by_name
        .into_iter()
        .map(|(name, function)| Function {
            kind: FunctionKind::Scalar,
            aliases: function.aliases().to_vec(),
            sample: sample_of(SCALARS, &name),
            ..described(name, function.documentation())
        })
        .collect()
}

fn windows() -> Vec<Function> {
    window_functions()
        .into_iter()
        .map(|function| {
            let name = function.name().to_string();
            Function {
                kind: FunctionKind::Window,
                aliases: function.aliases().to_vec(),
                family: "Window functions",
                sample: sample_of(WINDOWS, &name),
                ..described(name, function.documentation())
            }
        })
        .collect()
}

fn aggregates() -> Vec<Function> {
    let registered = aggregate_functions();
    FUNCTIONS
        .iter()
        .map(|(name, meaning)| {
            let aliases = registered.iter().find(|function| function.name() == *name);
            let (takes, sample) = AGGREGATES
                .iter()
                .find(|(known, _, _)| known == name)
                .map_or(("x", None), |(_, takes, sample)| (*takes, Some(*sample)));
            Function {
                name: (*name).to_string(),
                kind: FunctionKind::Aggregate,
                aliases: aliases.map_or_else(Vec::new, |function| function.aliases().to_vec()),
                family: "Aggregates",
                syntax: vec![format!("{name}({takes})")],
                description: sentence(meaning),
                arguments: Vec::new(),
                sample,
            }
        })
        .collect()
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    // A meaning that begins with a call keeps its small letter.
    let begins_with_call = text.split(' ').next().is_some_and(|word| word.contains('('));
    match letters.next() {
        Some(first) if !begins_with_call => format!("{}{}.", first.to_uppercase(), letters.as_str()),
        _ => format!("{text}."),
    }
}

fn described(name: String, documentation: Option<&Documentation>) -> Function {
    let mut syntax = vec![format!("{name}()")];
    let (mut description, mut arguments, mut family) = (String::new(), Vec::new(), "Other functions");
    if let Some(found) = documentation {
        syntax = vec![found.syntax_example.clone()];
        syntax.extend(found.alternative_syntax.iter().flatten().cloned());
        description = found.description.trim().to_string();
        arguments = found.arguments.clone().unwrap_or_default();
        family = family_of(found.doc_section.label);
    }
    Function {
        name,
        kind: FunctionKind::Scalar,
        aliases: Vec::new(),
        family,
        syntax,
        description,
        arguments,
        sample: None,
    }
}

/// Our heading for DataFusion's.
fn family_of(label: &str) -> &'static str {
    match label {
        "Math Functions" => "Numbers",
        "Conditional Functions" => "Conditions",
        "String Functions" | "Regular Expression Functions" => "Text",
        "Binary String Functions" | "Hashing Functions" => "Bytes and digests",
        "Time and Date Functions" => "Times",
        "Array Functions" => "Lists",
        "Map Functions" | "Struct Functions" => "Maps and structures",
        _ => "Other functions",
    }
}
