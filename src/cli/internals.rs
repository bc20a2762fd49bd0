//! `pyflare_internal`: what the engine keeps and costs, as relations of ad-hoc SQL.
//!
//! A caller sees the monitors of its project and the built-in views; of what built-in views left out, its own rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use pyflare_dataflows::{Companion, Engine, ErasureBy, ErasureStage, Rejection, ViewName};
use pyflare_history::{InternalRelations, Scope, SourceError};

use super::adapters::{is_temporary, source_error};

/// The relations, over the engine.
pub struct EngineInternals {
    pub engine: Engine,
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn count(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

fn number(name: &str) -> Field {
    Field::new(name, DataType::Int32, true)
}

fn time(name: &str) -> Field {
    Field::new(
        name,
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        true,
    )
}

const RELATIONS: [&str; 11] = [
    "arrangements",
    "backfills",
    "checkpoints",
    "erasures",
    "errors",
    "gaps",
    "late_rows",
    "monitors",
    "operators",
    "stream_errors",
    "streams",
];

fn schema(relation: &str) -> Option<SchemaRef> {
    let fields = match relation {
        "monitors" => vec![
            text("project"),
            text("name"),
            text("kind"),
            text("state"),
            text("reason"),
            time("start"),
            time("installed_at"),
            count("rows"),
            count("changes"),
            count("state_rows"),
            count("state_bytes"),
            count("busy_us"),
            count("late_rows"),
            count("errors"),
        ],
        "arrangements" => vec![
            number("worker"),
            count("arrangement"),
            text("kind"),
            text("views"),
            text("stream"),
            count("rows"),
            count("bytes"),
        ],
        "backfills" => vec![
            text("project"),
            text("monitor"),
            time("since"),
            time("asked_at"),
            text("state"),
            count("rows"),
            count("groups"),
        ],
        "checkpoints" => vec![
            count("epoch"),
            time("tick"),
            count("bytes"),
            count("rows"),
            count("took_us"),
            text("failure"),
        ],
        "erasures" => vec![
            count("id"),
            text("project"),
            text("by"),
            count("named"),
            text("stage"),
            count("rows"),
            time("asked_at"),
            time("until"),
            time("retracted_at"),
        ],
        "operators" => vec![
            number("worker"),
            text("project"),
            text("monitor"),
            number("node"),
            text("operator"),
            count("rows_out"),
            count("state_rows"),
            count("state_bytes"),
            count("busy_us"),
        ],
        "streams" => vec![
            text("project"),
            text("stream"),
            number("partition"),
            time("mark"),
            count("admitted_rows"),
            count("backlog"),
            count("lag_ms"),
        ],
        "gaps" => vec![
            text("project"),
            text("topic"),
            number("partition"),
            count("first_offset"),
            count("next_offset"),
            time("found_at"),
        ],
        "stream_errors" => vec![
            text("project"),
            text("stream"),
            time("admitted_at"),
            number("partition"),
            count("offset"),
            number("row"),
            text("code"),
            text("detail"),
        ],
        "late_rows" => vec![text("project"), text("monitor"), count("late_rows")],
        "errors" => vec![text("project"), text("monitor"), text("error"), count("errors")],
        _ => return None,
    };
    Some(Arc::new(Schema::new(fields)))
}

fn texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(values))
}

fn counts(values: impl Iterator<Item = u64>) -> ArrayRef {
    let values = values.map(|value| i64::try_from(value).unwrap_or(i64::MAX));
    Arc::new(Int64Array::from_iter_values(values))
}

fn numbers(values: impl Iterator<Item = usize>) -> ArrayRef {
    let values = values.map(|value| i32::try_from(value).unwrap_or(i32::MAX));
    Arc::new(Int32Array::from_iter_values(values))
}

fn times(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn tick_time(tick: u64) -> Option<i64> {
    i64::try_from(tick).ok().and_then(|tick| tick.checked_mul(1_000))
}

/// A name as others write it: with its project where that is not clear.
fn shown(name: &ViewName, scope: &Scope) -> String {
    match (&name.project, &scope.project) {
        (Some(project), None) => format!("{project}/{}", name.name),
        _ => name.name.clone(),
    }
}

impl EngineInternals {
    fn sees(scope: &Scope, name: &ViewName) -> bool {
        scope.sees(name.project.as_deref()) && !is_temporary(name)
    }

    fn monitors(&self, scope: &Scope) -> Vec<ArrayRef> {
        let mut monitors = self.engine.monitor_figures();
        monitors.retain(|monitor| EngineInternals::sees(scope, &monitor.name));
        let all = || monitors.iter();
        vec![
            texts(all().map(|monitor| monitor.name.project.as_deref())),
            texts(all().map(|monitor| Some(monitor.name.name.as_str()))),
            texts(all().map(|monitor| match monitor.name.project {
                None => Some("builtin"),
                Some(_) => Some("monitor"),
            })),
            texts(all().map(|monitor| match monitor.stopped {
                None => Some("running"),
                Some(_) => Some("stopped"),
            })),
            texts(all().map(|monitor| monitor.stopped.as_deref())),
            times(all().map(|monitor| tick_time(monitor.start))),
            times(all().map(|monitor| tick_time(monitor.installed_at))),
            counts(all().map(|monitor| monitor.rows)),
            counts(all().map(|monitor| monitor.changes)),
            counts(all().map(|monitor| monitor.figure.state_rows)),
            counts(all().map(|monitor| monitor.figure.state_bytes)),
            counts(all().map(|monitor| monitor.figure.busy_us)),
            counts(all().map(|monitor| monitor.late_rows)),
            counts(all().map(|monitor| monitor.errors)),
        ]
    }

    fn backfills(&self, scope: &Scope) -> Vec<ArrayRef> {
        let mut backfills = self.engine.backfills();
        backfills.retain(|backfill| EngineInternals::sees(scope, &backfill.name));
        let all = || backfills.iter();
        vec![
            texts(all().map(|backfill| backfill.name.project.as_deref())),
            texts(all().map(|backfill| Some(backfill.name.name.as_str()))),
            times(all().map(|backfill| tick_time(backfill.since))),
            times(all().map(|backfill| tick_time(backfill.asked_at))),
            texts(all().map(|backfill| match backfill.is_reading {
                true => Some("reading"),
                false => Some("waiting"),
            })),
            counts(all().map(|backfill| backfill.rows)),
            counts(all().map(|backfill| backfill.groups)),
        ]
    }

    /// The newest checkpoint, for the operator of the installation.
    fn checkpoints(&self, scope: &Scope) -> Vec<ArrayRef> {
        let newest = self.engine.checkpoint_status();
        let newest = newest.filter(|_| scope.project.is_none());
        let all = || newest.iter();
        vec![
            counts(all().map(|checkpoint| checkpoint.epoch)),
            times(all().map(|checkpoint| tick_time(checkpoint.tick))),
            counts(all().map(|checkpoint| checkpoint.bytes)),
            counts(all().map(|checkpoint| checkpoint.rows)),
            counts(all().map(|checkpoint| checkpoint.took.as_micros() as u64)),
            texts(all().map(|checkpoint| checkpoint.failure.as_deref())),
        ]
    }

    fn erasures(&self, scope: &Scope) -> Vec<ArrayRef> {
        let mut erasures = self.engine.erasures();
        erasures.retain(|erasure| scope.sees(Some(&erasure.subject.project)));
        let all = || erasures.iter();
        vec![
            counts(all().map(|erasure| erasure.id)),
            texts(all().map(|erasure| Some(erasure.subject.project.as_str()))),
            texts(all().map(|erasure| {
                Some(match erasure.subject.by {
                    ErasureBy::Project => "project",
                    ErasureBy::User => "user",
                    ErasureBy::Session => "session",
                    ErasureBy::Trace => "trace",
                })
            })),
            counts(all().map(|erasure| erasure.subject.values.len() as u64)),
            texts(all().map(|erasure| {
                Some(match erasure.stage {
                    ErasureStage::Reading => "reading",
                    ErasureStage::Retracted => "retracted",
                    ErasureStage::Removed => "removed",
                })
            })),
            counts(all().map(|erasure| erasure.rows)),
            times(all().map(|erasure| tick_time(erasure.asked_at))),
            times(all().map(|erasure| tick_time(erasure.until))),
            times(all().map(|erasure| erasure.retracted_at.and_then(tick_time))),
        ]
    }

    fn arrangements(&self, scope: &Scope) -> Vec<ArrayRef> {
        let mut arrangements = self.engine.arrangement_figures();
        for arrangement in &mut arrangements {
            arrangement
                .views
                .retain(|name| EngineInternals::sees(scope, name));
        }
        arrangements.retain(|arrangement| !arrangement.views.is_empty());
        let views: Vec<String> = arrangements
            .iter()
            .map(|arrangement| {
                let names = arrangement.views.iter().map(|name| shown(name, scope));
                names.collect::<Vec<_>>().join(",")
            })
            .collect();
        let all = || arrangements.iter();
        vec![
            numbers(all().map(|arrangement| arrangement.worker)),
            counts(all().map(|arrangement| arrangement.arrangement)),
            texts(all().map(|arrangement| Some(if arrangement.is_base { "base" } else { "graph" }))),
            texts(views.iter().map(|views| Some(views.as_str()))),
            texts(all().map(|arrangement| arrangement.stream.as_deref())),
            counts(all().map(|arrangement| arrangement.rows)),
            counts(all().map(|arrangement| arrangement.bytes)),
        ]
    }

    fn operators(&self, scope: &Scope) -> Vec<ArrayRef> {
        let mut operators = self.engine.operator_figures();
        operators.retain(|operator| EngineInternals::sees(scope, &operator.name));
        let all = || operators.iter();
        vec![
            numbers(all().map(|operator| operator.worker)),
            texts(all().map(|operator| operator.name.project.as_deref())),
            texts(all().map(|operator| Some(operator.name.name.as_str()))),
            numbers(all().map(|operator| operator.node)),
            texts(all().map(|operator| Some(operator.operator))),
            counts(all().map(|operator| operator.figure.rows_out)),
            counts(all().map(|operator| operator.figure.state_rows)),
            counts(all().map(|operator| operator.figure.state_bytes)),
            counts(all().map(|operator| operator.figure.busy_us)),
        ]
    }

    fn streams(&self, scope: &Scope) -> Vec<ArrayRef> {
        let mut streams = self.engine.stream_figures();
        streams.retain(|stream| scope.sees(stream.project.as_deref()));
        let (backlog, lag) = (self.engine.backlog_requests(), self.engine.status().lag_ms);
        let all = || streams.iter();
        vec![
            texts(all().map(|stream| stream.project.as_deref())),
            texts(all().map(|stream| Some(stream.name.as_str()))),
            Arc::new(Int32Array::new_null(streams.len())),
            times(all().map(|stream| stream.mark_us)),
            counts(all().map(|stream| stream.admitted_rows)),
            counts(all().map(|_| backlog)),
            counts(all().map(|_| lag)),
        ]
    }

    /// Records that were passed over, since their topic had them no more.
    fn gaps(&self, scope: &Scope) -> Vec<ArrayRef> {
        let mut gaps = self.engine.gaps();
        gaps.retain(|gap| scope.sees(gap.project.as_deref()));
        let all = || gaps.iter();
        vec![
            texts(all().map(|gap| gap.project.as_deref())),
            texts(all().map(|gap| Some(gap.topic.as_str()))),
            numbers(all().map(|gap| gap.partition as usize)),
            counts(all().map(|gap| gap.from)),
            counts(all().map(|gap| gap.to)),
            times(all().map(|gap| tick_time(gap.found_at))),
        ]
    }

    /// What of users' streams was left out lately, newest last.
    fn stream_errors(&self, scope: &Scope) -> Vec<ArrayRef> {
        let mut streams = self.engine.streams();
        streams.retain(|stream| scope.sees(stream.name.project.as_deref()));
        let left_out: Vec<(&ViewName, Rejection)> = streams
            .iter()
            .flat_map(|stream| {
                let rejections = self.engine.rejections(&stream.name);
                rejections.into_iter().map(|rejection| (&stream.name, rejection))
            })
            .collect();
        let all = || left_out.iter().map(|(_, rejection)| rejection);
        let names = || left_out.iter().map(|(name, _)| name);
        let number = |value: Option<u32>| value.and_then(|value| i32::try_from(value).ok());
        vec![
            texts(names().map(|name| name.project.as_deref())),
            texts(names().map(|name| Some(name.name.as_str()))),
            times(all().map(|rejection| tick_time(rejection.tick))),
            Arc::new(
                all()
                    .map(|rejection| number(Some(rejection.partition)))
                    .collect::<Int32Array>(),
            ),
            counts(all().map(|rejection| rejection.offset)),
            Arc::new(
                all()
                    .map(|rejection| number(rejection.row))
                    .collect::<Int32Array>(),
            ),
            texts(all().map(|rejection| Some(rejection.code))),
            texts(all().map(|rejection| Some(rejection.detail.as_str()))),
        ]
    }

    /// The last column of the visible monitors' companions, summed by project, monitor and `by`.
    async fn left_out(
        &self,
        companion: Companion,
        by: Option<usize>,
        scope: &Scope,
    ) -> Result<BTreeMap<(String, String, String), i64>, SourceError> {
        let mut sums = BTreeMap::new();
        let hold = self.engine.hold();
        for monitor in self.engine.monitor_figures() {
            let any = match companion {
                Companion::Late => monitor.late_rows,
                Companion::Errors => monitor.errors,
            };
            if any == 0 || !EngineInternals::sees(scope, &monitor.name) {
                continue;
            }
            let mut name = monitor.name.clone();
            name.name.push_str(companion.suffix());
            // A monitor that was dropped meanwhile has left out nothing.
            let Ok(peek) = self.engine.peek(&name, &hold, scope.project.as_deref()).await else {
                continue;
            };
            for batch in &peek.batches {
                let text = |column: usize| cast(batch.column(column), &DataType::Utf8).map_err(source_error);
                let projects = text(0)?;
                let texts = by.map(text).transpose()?;
                let numbers = batch.column(batch.num_columns() - 1).as_primitive::<Int64Type>();
                for row in 0..batch.num_rows() {
                    let of = |array: &ArrayRef| array.as_string::<i32>().value(row).to_string();
                    let key = (
                        of(&projects),
                        monitor.name.name.clone(),
                        texts.as_ref().map(of).unwrap_or_default(),
                    );
                    *sums.entry(key).or_default() += numbers.value(row);
                }
            }
        }
        Ok(sums)
    }
}

#[async_trait]
impl InternalRelations for EngineInternals {
    fn relations(&self) -> Vec<(String, SchemaRef)> {
        let known = RELATIONS.into_iter();
        known
            .filter_map(|name| Some((name.to_string(), schema(name)?)))
            .collect()
    }

    async fn rows(&self, relation: &str, scope: &Scope) -> Result<Vec<RecordBatch>, SourceError> {
        let Some(schema) = schema(relation) else {
            return Err(source_error(format!("there is no relation {relation}")));
        };
        let columns = match relation {
            "monitors" => self.monitors(scope),
            "arrangements" => self.arrangements(scope),
            "backfills" => self.backfills(scope),
            "checkpoints" => self.checkpoints(scope),
            "erasures" => self.erasures(scope),
            "operators" => self.operators(scope),
            "streams" => self.streams(scope),
            "gaps" => self.gaps(scope),
            "stream_errors" => self.stream_errors(scope),
            "late_rows" => {
                let sums = self.left_out(Companion::Late, None, scope).await?;
                vec![
                    texts(sums.keys().map(|key| Some(key.0.as_str()))),
                    texts(sums.keys().map(|key| Some(key.1.as_str()))),
                    Arc::new(sums.values().copied().collect::<Int64Array>()),
                ]
            }
            _ => {
                let sums = self.left_out(Companion::Errors, Some(1), scope).await?;
                vec![
                    texts(sums.keys().map(|key| Some(key.0.as_str()))),
                    texts(sums.keys().map(|key| Some(key.1.as_str()))),
                    texts(sums.keys().map(|key| Some(key.2.as_str()))),
                    Arc::new(sums.values().copied().collect::<Int64Array>()),
                ]
            }
        };
        Ok(vec![RecordBatch::try_new(schema, columns).map_err(source_error)?])
    }
}
