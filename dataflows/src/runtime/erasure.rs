//! Erasures: rows that were admitted and are taken back by a logged command.
//!
//! An erasure names a project, or users, sessions or traces in it, and a tick. It means the rows of all streams that say
//! so and were admitted until that tick; what comes later is new. Which rows these are is a function of the rows alone,
//! so a replay finds the same.
//!
//! Its life: *asked for* (kept in the catalog, so that a crash does not forget it) → *read* from the store and from memory,
//! beside the dataflow → *retracted* from every view at the tick of its command; from then on nobody sees the rows in
//! history either → *removed* from the store, once no start can need them any more.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, Schema};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::time::Tick;

const PROJECT: &str = "project";
const TICK: &str = "_tick";

/// What the values of an erasure name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErasureBy {
    /// The project as a whole; there are no values.
    Project,
    User,
    Session,
    Trace,
}

impl ErasureBy {
    /// The column that the values are of.
    pub fn column(self) -> Option<&'static str> {
        match self {
            ErasureBy::Project => None,
            ErasureBy::User => Some("user_id"),
            ErasureBy::Session => Some("session_id"),
            ErasureBy::Trace => Some("trace_id"),
        }
    }
}

/// Whose rows go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureSubject {
    pub project: String,
    pub by: ErasureBy,
    /// Users, sessions or traces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

impl ErasureSubject {
    /// Whether a stream with these columns can have such rows.
    pub fn concerns(&self, schema: &Schema) -> bool {
        let is_text = |name: &str| {
            schema.field_with_name(name).is_ok_and(|field| {
                matches!(
                    field.data_type(),
                    DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8
                )
            })
        };
        is_text(PROJECT) && self.by.column().is_none_or(is_text)
    }

    /// The columns by which its rows are told.
    pub fn columns(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(PROJECT).chain(self.by.column())
    }

    /// Which rows of a batch it names; `None`: none of them can be.
    pub fn rows(&self, batch: &RecordBatch) -> Option<BooleanArray> {
        if !self.concerns(&batch.schema()) {
            return None;
        }
        let of_project = texts(batch, PROJECT)?.map(|project| project == Some(self.project.as_str()));
        let Some(column) = self.by.column() else {
            return Some(of_project.map(Some).collect());
        };
        let wanted: HashSet<&str> = self.values.iter().map(String::as_str).collect();
        let values = texts(batch, column)?;
        let named = values.map(|value| value.is_some_and(|value| wanted.contains(value)));
        let rows = of_project
            .zip(named)
            .map(|(of_project, named)| Some(of_project && named));
        Some(rows.collect())
    }
}

/// The values of a text column.
fn texts<'a>(batch: &'a RecordBatch, name: &str) -> Option<Box<dyn Iterator<Item = Option<&'a str>> + 'a>> {
    let column = batch.column_by_name(name)?;
    Some(match column.data_type() {
        DataType::Utf8View => Box::new(column.as_string_view().iter()),
        DataType::Utf8 => Box::new(column.as_string::<i32>().iter()),
        DataType::LargeUtf8 => Box::new(column.as_string::<i64>().iter()),
        _ => return None,
    })
}

/// A request for an erasure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub id: u64,
    pub subject: ErasureSubject,
    /// Rows admitted until here are meant.
    pub until: Tick,
    /// When it was asked for, Unix milliseconds.
    pub asked_at: Tick,
}

/// An erasure whose rows are in no view any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Erased {
    pub request: Request,
    /// The tick of its command.
    pub at: Tick,
    /// Rows that it took back from history.
    pub rows: u64,
    /// Views whose past in the store is let go of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub let_go: Vec<u64>,
    /// Whether the store has none of them any more; then it is not known any more either whose they were.
    #[serde(default)]
    pub is_removed: bool,
}

impl Erased {
    /// Which rows, with their `_tick`, it took back; `None`: none of them.
    pub fn rows(&self, batch: &RecordBatch) -> Option<BooleanArray> {
        if self.is_removed {
            return None;
        }
        let ticks = batch.column_by_name(TICK)?.as_primitive_opt::<Int64Type>()?;
        let until = i64::try_from(self.request.until).unwrap_or(i64::MAX);
        if ticks.values().iter().all(|tick| *tick > until) {
            return None;
        }
        let named = self.request.subject.rows(batch)?;
        let came_before = ticks.values().iter().map(|tick| *tick <= until);
        let gone = named.values().iter().zip(came_before);
        Some(gone.map(|(named, before)| Some(named && before)).collect())
    }
}

/// How far an erasure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErasureStage {
    /// Its rows are looked for; they are still in views.
    Reading,
    /// Nobody sees its rows any more; the store still has them.
    Retracted,
    /// The store has none of them.
    Removed,
}

/// An erasure, for those who ask.
#[derive(Debug, Clone)]
pub struct ErasureStatus {
    pub id: u64,
    /// Its values are forgotten once the rows are removed.
    pub subject: ErasureSubject,
    /// Rows admitted until this tick are meant.
    pub until: Tick,
    /// When it was asked for, Unix milliseconds.
    pub asked_at: Tick,
    /// When its rows left all views.
    pub retracted_at: Option<Tick>,
    pub rows: u64,
    pub stage: ErasureStage,
}

/// All erasures of an engine.
#[derive(Default)]
pub(crate) struct Erasures(RwLock<Known>);

#[derive(Default)]
struct Known {
    /// Asked for, and how many rows were found so far.
    asked: Vec<(Request, u64)>,
    erased: Vec<Arc<Erased>>,
}

impl Erasures {
    pub fn ask(&self, request: &Request) {
        let mut known = self.0.write();
        let is_known = |(other, _): &(Request, u64)| other.id == request.id;
        if !known.asked.iter().any(is_known) {
            known.asked.push((request.clone(), 0));
        }
    }

    pub fn note(&self, id: u64, rows: u64) {
        let mut known = self.0.write();
        if let Some((_, found)) = known.asked.iter_mut().find(|(request, _)| request.id == id) {
            *found = rows;
        }
    }

    pub fn add(&self, erased: Erased) {
        let mut known = self.0.write();
        known.asked.retain(|(request, _)| request.id != erased.request.id);
        known.erased.push(Arc::new(erased));
    }

    /// Its rows are in the store no more.
    pub fn remove(&self, id: u64) {
        let mut known = self.0.write();
        if let Some(erased) = known.erased.iter_mut().find(|erased| erased.request.id == id) {
            let erased = Arc::make_mut(erased);
            erased.is_removed = true;
            erased.request.subject.values.clear();
        }
    }

    /// Those whose rows are in no view any more, in the order in which that came.
    pub fn erased(&self) -> Vec<Arc<Erased>> {
        self.0.read().erased.clone()
    }

    pub fn contains(&self, id: u64) -> bool {
        let known = self.0.read();
        known.erased.iter().any(|erased| erased.request.id == id)
            || known.asked.iter().any(|(request, _)| request.id == id)
    }

    /// How many have been retracted so far.
    pub fn count(&self) -> usize {
        self.0.read().erased.len()
    }

    pub fn all(&self) -> Vec<ErasureStatus> {
        let known = self.0.read();
        let erased = known.erased.iter().rev().map(|erased| ErasureStatus {
            stage: match erased.is_removed {
                true => ErasureStage::Removed,
                false => ErasureStage::Retracted,
            },
            retracted_at: Some(erased.at),
            ..status(&erased.request, erased.rows)
        });
        let asked = known.asked.iter();
        let asked = asked.map(|(request, rows)| status(request, *rows));
        asked.chain(erased).collect()
    }
}

fn status(request: &Request, rows: u64) -> ErasureStatus {
    ErasureStatus {
        id: request.id,
        subject: request.subject.clone(),
        until: request.until,
        asked_at: request.asked_at,
        retracted_at: None,
        rows,
        stage: ErasureStage::Reading,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, StringArray, StringViewArray};

    fn batch() -> RecordBatch {
        let projects: ArrayRef = Arc::new(StringViewArray::from_iter_values(["a", "a", "b", "a"]));
        let users: ArrayRef = Arc::new(StringArray::from(vec![Some("u"), None, Some("u"), Some("v")]));
        RecordBatch::try_from_iter_with_nullable([(PROJECT, projects, false), ("user_id", users, true)])
            .unwrap()
    }

    fn subject(by: ErasureBy, values: &[&str]) -> ErasureSubject {
        ErasureSubject {
            project: "a".into(),
            by,
            values: values.iter().map(|value| (*value).into()).collect(),
        }
    }

    fn chosen(rows: Option<BooleanArray>) -> Vec<bool> {
        rows.unwrap().iter().map(|row| row.unwrap()).collect()
    }

    #[test]
    fn rows_are_told_by_project_and_value() {
        let batch = batch();
        let by_user = subject(ErasureBy::User, &["u", "w"]);
        assert_eq!(chosen(by_user.rows(&batch)), [true, false, false, false]);
        let by_project = subject(ErasureBy::Project, &[]);
        assert_eq!(chosen(by_project.rows(&batch)), [true, true, false, true]);
        assert!(
            subject(ErasureBy::Session, &["u"]).rows(&batch).is_none(),
            "no such column"
        );
    }

    #[test]
    fn rows_that_came_later_are_not_meant_and_what_is_removed_is_forgotten() {
        let erasures = Erasures::default();
        let request = Request {
            id: 3,
            subject: subject(ErasureBy::User, &["u"]),
            until: 10,
            asked_at: 11,
        };
        erasures.ask(&request);
        assert_eq!(erasures.all()[0].stage, ErasureStage::Reading);
        erasures.add(Erased {
            request,
            at: 12,
            rows: 1,
            let_go: Vec::new(),
            is_removed: false,
        });
        let erased = erasures.erased().remove(0);
        let at = |ticks: [i64; 4]| {
            let ticks: ArrayRef = Arc::new(Int64Array::from(ticks.to_vec()));
            let rows = batch();
            let columns = rows.columns().iter().cloned().chain([ticks]);
            let names = [PROJECT, "user_id", TICK].into_iter();
            RecordBatch::try_from_iter(names.zip(columns)).unwrap()
        };
        assert_eq!(
            chosen(erased.rows(&at([10, 11, 11, 11]))),
            [true, false, false, false]
        );
        assert!(erased.rows(&at([11; 4])).is_none(), "they came later");
        erasures.remove(3);
        let status = erasures.all().remove(0);
        assert_eq!(status.stage, ErasureStage::Removed);
        assert!(status.subject.values.is_empty());
    }
}
