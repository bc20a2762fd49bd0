//! Ad-hoc SQL over the engine's views and the stored tables.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::scalar::ScalarValue;
use pyflare_dataflows::{Engine, ViewName, Wanted};
use pyflare_history as history;

use super::{is_temporary, source_error};
use crate::cli::store::HistoryStore;

/// Ad-hoc SQL over the engine.
pub struct EngineSource {
    pub engine: Engine,
    pub stored: bool,
}

struct EngineHold(pyflare_dataflows::ReadHold);

impl history::Hold for EngineHold {
    fn tick(&self) -> u64 {
        self.0.tick()
    }
}

#[async_trait]
impl history::LiveSource for EngineSource {
    fn hold(&self) -> Arc<dyn history::Hold> {
        Arc::new(EngineHold(self.engine.hold()))
    }

    fn views(&self, scope: &history::Scope) -> Vec<history::ViewDescription> {
        let mut views = self.engine.views();
        views.extend(self.engine.companions());
        let visible = views
            .iter()
            .filter(|view| scope.sees(view.name.project.as_deref()) && !is_temporary(&view.name));
        visible
            .map(|view| history::ViewDescription {
                name: view.name.name.clone(),
                project: view.name.project.clone(),
                schema: Arc::clone(&view.schema),
                stored: self.stored && view.companion_of.is_none(),
            })
            .collect()
    }

    fn streams(&self, scope: &history::Scope) -> Vec<history::StreamDescription> {
        let mut streams = history::signal_streams();
        let declared = self.engine.streams().into_iter();
        let seen = declared.filter(|stream| scope.sees(stream.name.project.as_deref()));
        streams.extend(seen.map(|stream| history::StreamDescription {
            name: stream.name.name,
            project: stream.name.project,
            schema: stream.schema,
            table: stream.table,
        }));
        streams
    }

    fn erased(&self) -> Vec<history::Erased> {
        let hidden = self.engine.hidden().into_iter();
        let erased = hidden.map(|(subject, until)| history::Erased {
            by: subject
                .by
                .column()
                .map(|column| (column.to_string(), subject.values)),
            project: subject.project,
            until,
        });
        erased.collect()
    }

    async fn peek(
        &self,
        view: &history::ViewDescription,
        hold: &Arc<dyn history::Hold>,
        request: history::PeekRequest,
        scope: &history::Scope,
    ) -> Result<Vec<RecordBatch>, history::SourceError> {
        let name = ViewName {
            project: view.project.clone(),
            name: view.name.clone(),
        };
        let equalities = request.equalities.iter();
        let wanted = Wanted {
            equalities: equalities
                .filter_map(|(column, values)| values_of(&view.schema, column, values))
                .collect(),
            projection: request.projection,
            limit: request.limit,
        };
        let found = self
            .engine
            .peek_at(&name, hold.tick(), scope.project.as_deref(), wanted);
        Ok(found.await.map_err(source_error)?.batches)
    }

    async fn tail(
        &self,
        relation: &history::Relation,
        hold: &Arc<dyn history::Hold>,
        _scope: &history::Scope,
    ) -> Result<history::Tail, history::SourceError> {
        let tail = match relation {
            history::Relation::Stream(stream) => match &stream.project {
                None => self.engine.tail(&stream.name, hold.tick()),
                Some(project) => {
                    let name = ViewName::of_project(project, &stream.name);
                    self.engine.stream_tail(&name, hold.tick())
                }
            },
            history::Relation::Changes(view) => {
                let name = ViewName {
                    project: view.project.clone(),
                    name: view.name.clone(),
                };
                self.engine.changes_tail(&name, hold.tick())
            }
        };
        Ok(history::Tail {
            flushed: tail.flushed,
            batches: tail.batches,
        })
    }
}

/// The position of a column, and the values as an array of its type; `None` if they are of another one.
fn values_of(schema: &Schema, column: &str, values: &[ScalarValue]) -> Option<(usize, ArrayRef)> {
    let place = schema.index_of(column).ok()?;
    let wanted = schema.field(place).data_type();
    let array = ScalarValue::iter_to_array(values.iter().cloned()).ok()?;
    let is_text = |data_type: &DataType| {
        matches!(
            data_type,
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8
        )
    };
    match array.data_type() == wanted {
        true => Some((place, array)),
        false if is_text(array.data_type()) && is_text(wanted) => Some((place, cast(&array, wanted).ok()?)),
        false => None,
    }
}

/// Stored tables; a view's changes lie under a name that also says which incarnation it is.
pub struct EngineTables {
    pub engine: Engine,
    pub store: Option<HistoryStore>,
}

#[async_trait]
impl history::StoredTables for EngineTables {
    async fn provider(&self, table: &str) -> Result<Option<Arc<dyn TableProvider>>, history::SourceError> {
        let Some(store) = &self.store else { return Ok(None) };
        let table = match table.strip_suffix("_changes") {
            Some(view) => {
                let name = match view.split_once('/') {
                    Some((project, name)) => ViewName::of_project(project, name),
                    None => ViewName::builtin(view),
                };
                match self.engine.view_named(&name) {
                    Some(view) => view.changes_table.clone(),
                    None => return Ok(None),
                }
            }
            None => table.to_string(),
        };
        store.provider(&table).await.map_err(source_error)
    }

    fn rules(&self) -> Vec<history::Rule> {
        self.store.as_ref().map(HistoryStore::rules).unwrap_or_default()
    }
}
