//! Reads `tests/slt/clauses/*.slt`, whose form `tests/clauses/files.py` describes.
//!
//! Shared by path between test binaries of several packages: what is run by the engine oracle is what the reference
//! pages show.
// Each of them reads its own part.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The files of one clause.
pub struct ClauseFile {
    /// The file's name without its ending.
    pub stem: String,
    /// The first line of its comment.
    pub title: String,
    /// The rest of it.
    pub meaning: String,
    pub records: Vec<Record>,
}

/// One monitor, or one statement that is refused.
pub struct Record {
    pub place: String,
    /// The comment before it.
    pub caption: String,
    pub kind: Kind,
    pub select: String,
    sections: BTreeMap<String, String>,
}

pub enum Kind {
    Monitor {
        name: String,
        /// `WITH (…)`, or nothing.
        options: String,
    },
    Refused(String),
}

impl Record {
    /// The whole statement; what is refused gets a name.
    pub fn statement(&self) -> String {
        match &self.kind {
            Kind::Monitor { name, options } => format!("CREATE MONITOR {name} {options} AS\n{}", self.select),
            Kind::Refused(_) => format!("CREATE MONITOR refused AS\n{}", self.select),
        }
    }

    pub fn section(&self, name: &str) -> Option<&str> {
        self.sections.get(name).map(String::as_str)
    }
}

/// The folder of the files, from a package's own.
pub fn folder(manifest_dir: &str) -> PathBuf {
    let of_package = Path::new(manifest_dir);
    let mut above = of_package.ancestors();
    above
        .find_map(|root| {
            let folder = root.join("tests/slt/clauses");
            folder.is_dir().then_some(folder)
        })
        .unwrap_or_else(|| panic!("no tests/slt/clauses above {manifest_dir}"))
}

/// The statements that declare the streams.
pub fn streams(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("streams.sql")).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("--")).collect();
    let statements = lines.join("\n");
    let statements = statements
        .split(';')
        .map(|statement| statement.trim().to_string());
    statements.filter(|statement| !statement.is_empty()).collect()
}

/// All files by name; a view stands behind those it reads.
pub fn files(folder: &Path) -> Vec<ClauseFile> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "slt"));
    paths.sort();
    assert!(!paths.is_empty(), "no files in {}", folder.display());
    paths.iter().map(|path| file(path)).collect()
}

fn file(path: &Path) -> ClauseFile {
    let text = std::fs::read_to_string(path).unwrap();
    let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
    let mut records = Vec::new();
    let mut head = None;
    let mut number = 1;
    for block in text.split("\n\n") {
        let comment: Vec<&str> = block
            .lines()
            .filter(|line| line.starts_with('#'))
            .map(|line| line.trim_start_matches('#').trim())
            .collect();
        let rest: Vec<&str> = block
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .collect();
        match (rest.is_empty(), &head) {
            (true, None) => head = Some(comment),
            (true, Some(_)) => {}
            (false, _) => records.push(record(
                &rest,
                comment.join(" "),
                format!("{stem}.slt:{}", number + comment.len()),
            )),
        }
        number += block.lines().count() + 1;
    }
    let head = head.unwrap_or_else(|| panic!("{stem}.slt begins with a title"));
    ClauseFile {
        title: head[0].to_string(),
        meaning: head[1..].join(" ").trim().to_string(),
        stem,
        records,
    }
}

fn record(lines: &[&str], caption: String, place: String) -> Record {
    let mut sections: BTreeMap<String, String> = BTreeMap::new();
    let mut section = String::new();
    for line in &lines[1..] {
        if let Some(header) = line.strip_prefix("---- ") {
            section = header.split(':').next().unwrap_or(header).to_string();
            sections.entry(section.clone()).or_default();
            continue;
        }
        let text = sections.entry(section.clone()).or_default();
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(line);
    }
    let kind = match lines[0].split_once(' ') {
        Some(("monitor", words)) => {
            let (name, options) = words.split_once(' ').unwrap_or((words, ""));
            Kind::Monitor {
                name: name.to_string(),
                options: options.to_string(),
            }
        }
        Some(("refused", code)) => Kind::Refused(code.to_string()),
        _ => panic!("{place}: {} is no record", lines[0]),
    };
    Record {
        select: sections.remove("").unwrap_or_default(),
        place,
        caption,
        kind,
        sections,
    }
}
