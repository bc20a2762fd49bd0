//! The names of one query: `live.*`, `history.*`, `pyflare_internal.*`, and unqualified names, which mean live first,
//! then history.
//!
//! A catalog is made for one query and knows its hold and scope, so a name means the same rows wherever it stands in
//! the text. Tables are made when they are first named; a relation that the query does not name costs nothing.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::Schema;
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::common::Result;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::logical_expr::{LogicalPlanBuilder, lit};
use parking_lot::Mutex;

use crate::peek::{InternalTable, PeekTable};
use crate::relation::{History, name_of};
use crate::source::{
    Hold, InternalRelations, LiveSource, Scope, StoredTables, StreamDescription, ViewDescription,
};

pub const CATALOG: &str = "pyflare";
pub const UNQUALIFIED: &str = "unqualified";
/// The origin of a row, which `SELECT *` from a stream leaves out.
const HIDDEN: [&str; 5] = ["_tick", "_mark", "_partition", "_offset", "_row"];
const SCHEMAS: [&str; 4] = ["live", "history", "pyflare_internal", UNQUALIFIED];

/// The relations that one query may name.
pub struct Names {
    pub live: Arc<dyn LiveSource>,
    pub stored: Arc<dyn StoredTables>,
    pub internal: Option<Arc<dyn InternalRelations>>,
    pub hold: Arc<dyn Hold>,
    pub scope: Scope,
    pub partitions: usize,
    views: Vec<ViewDescription>,
    streams: Vec<StreamDescription>,
    /// Whether streams show their hidden columns: the query's text names one.
    show_hidden: bool,
    made: Mutex<HashMap<(String, String), Arc<dyn TableProvider>>>,
}

impl Names {
    pub fn new(
        live: Arc<dyn LiveSource>,
        stored: Arc<dyn StoredTables>,
        internal: Option<Arc<dyn InternalRelations>>,
        scope: Scope,
        partitions: usize,
    ) -> Names {
        let hold = live.hold();
        let mut views = live.views(&scope);
        views.retain(|view| scope.sees(view.project.as_deref()));
        // The first of a name is the one meant: built-in views, then those of the default project, then the rest.
        views.sort_by_key(|view| precedence(view.project.as_deref()));
        let mut streams = live.streams(&scope);
        streams.retain(|stream| scope.sees(stream.project.as_deref()));
        streams.sort_by_key(|stream| precedence(stream.project.as_deref()));
        Names {
            live,
            stored,
            internal,
            hold,
            scope,
            partitions,
            views,
            streams,
            show_hidden: false,
            made: Mutex::default(),
        }
    }

    /// The columns that `SELECT *` from a stream leaves out.
    pub fn hidden_columns(&self) -> Vec<String> {
        let mut columns: Vec<String> = self
            .streams
            .iter()
            .flat_map(|stream| hidden(&stream.schema))
            .collect();
        columns.sort();
        columns.dedup();
        columns
    }

    pub fn show_hidden(&mut self) {
        self.show_hidden = true;
    }

    /// Whether a name in a query means a stream.
    pub fn is_stream(&self, schema: Option<&str>, name: &str) -> bool {
        let stream = self.streams.iter().any(|stream| stream.name == name);
        match schema {
            Some("history") => stream,
            Some(_) => false,
            None => stream && self.view(name).is_none(),
        }
    }

    fn view(&self, name: &str) -> Option<&ViewDescription> {
        let of_project = |view: &&ViewDescription| {
            view.project
                .as_ref()
                .is_some_and(|project| name == format!("{project}/{}", view.name))
        };
        self.views
            .iter()
            .find(|view| view.name == name)
            .or_else(|| self.views.iter().find(of_project))
    }

    fn names(&self, schema: &str) -> Vec<String> {
        let live = || self.views.iter().map(|view| view.name.clone());
        let history = || {
            let streams = self.streams.iter().map(|stream| stream.name.clone());
            let stored = self.views.iter().filter(|view| view.stored);
            streams.chain(stored.flat_map(|view| [view.name.clone(), format!("{}_changes", view.name)]))
        };
        let mut names: Vec<String> = match schema {
            "live" => live().collect(),
            "history" => history().collect(),
            "pyflare_internal" => self
                .internal
                .iter()
                .flat_map(|internal| internal.relations())
                .map(|(name, _)| name)
                .collect(),
            _ => live().chain(history()).collect(),
        };
        names.sort();
        names.dedup();
        names
    }

    async fn table(&self, schema: &str, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let key = (schema.to_owned(), name.to_owned());
        if let Some(table) = self.made.lock().get(&key) {
            return Ok(Some(Arc::clone(table)));
        }
        let table = match schema {
            "live" => self.live_table(name)?,
            "history" => self.history_table(name).await?,
            "pyflare_internal" => self.internal_table(name),
            _ => match self.live_table(name)? {
                Some(table) => Some(table),
                None => self.history_table(name).await?,
            },
        };
        if let Some(table) = &table {
            self.made.lock().insert(key, Arc::clone(table));
        }
        Ok(table)
    }

    fn live_table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(view) = self.view(name) else {
            return Ok(None);
        };
        let table = Arc::new(PeekTable {
            live: Arc::clone(&self.live),
            hold: Arc::clone(&self.hold),
            scope: self.scope.clone(),
            view: view.clone(),
        });
        match &self.scope.project {
            Some(project) if view.schema.field_with_name("project").is_ok() => {
                let plan = LogicalPlanBuilder::scan(name, provider_as_source(table), None)?
                    .filter(name_of("project").eq(lit(project.as_str())))?
                    .build()?;
                Ok(Some(Arc::new(ViewTable::new(plan, None))))
            }
            _ => Ok(Some(table)),
        }
    }

    async fn history_table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let history = History {
            live: self.live.as_ref(),
            stored: self.stored.as_ref(),
            hold: &self.hold,
            scope: &self.scope,
            partitions: self.partitions,
        };
        if let Some(stream) = self.streams.iter().find(|stream| stream.name == name) {
            let shown = |column: &String| self.show_hidden || !HIDDEN.contains(&column.as_str());
            let columns: Vec<String> = stream
                .schema
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .filter(shown)
                .collect();
            return history.stream(stream, &columns).await.map(Some);
        }
        if let Some(view) = self.view(name).filter(|view| view.stored) {
            return history.view(view).await.map(Some);
        }
        match name
            .strip_suffix("_changes")
            .and_then(|name| self.view(name))
            .filter(|view| view.stored)
        {
            Some(view) => history.changes(view).await.map(Some),
            None => Ok(None),
        }
    }

    fn internal_table(&self, name: &str) -> Option<Arc<dyn TableProvider>> {
        let source = self.internal.as_ref()?;
        let (name, schema) = source
            .relations()
            .into_iter()
            .find(|(relation, _)| relation == name)?;
        let (source, scope) = (Arc::clone(source), self.scope.clone());
        Some(Arc::new(InternalTable {
            source,
            scope,
            name,
            schema,
        }))
    }
}

fn precedence(project: Option<&str>) -> (u8, String) {
    match project {
        None => (0, String::new()),
        Some("default") => (1, String::new()),
        Some(other) => (2, other.to_owned()),
    }
}

fn hidden(schema: &Schema) -> Vec<String> {
    schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .filter(|name| HIDDEN.contains(&name.as_str()))
        .collect()
}

/// The names as DataFusion asks for them.
#[derive(Clone)]
pub struct NamesCatalog(pub Arc<Names>);

impl std::fmt::Debug for NamesCatalog {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("NamesCatalog")
    }
}

impl CatalogProvider for NamesCatalog {
    fn schema_names(&self) -> Vec<String> {
        SCHEMAS.iter().map(|schema| (*schema).to_owned()).collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let schema = SCHEMAS.iter().find(|schema| **schema == name)?;
        Some(Arc::new(NamesSchema {
            names: Arc::clone(&self.0),
            schema,
        }))
    }
}

struct NamesSchema {
    names: Arc<Names>,
    schema: &'static str,
}

impl std::fmt::Debug for NamesSchema {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "NamesSchema({})", self.schema)
    }
}

#[async_trait]
impl SchemaProvider for NamesSchema {
    fn table_names(&self) -> Vec<String> {
        self.names.names(self.schema)
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        self.names.table(self.schema, name).await
    }

    fn table_exist(&self, name: &str) -> bool {
        self.table_names().iter().any(|known| known == name)
    }
}
