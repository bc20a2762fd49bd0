//! The installed views and their companions: names, definitions, counters. Shared by everybody, changed by the coordinator only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use arrow::datatypes::SchemaRef;
use parking_lot::{Mutex, RwLock};

use super::EngineError;
use super::checkpoint::ViewEntry;
use super::limits::{Limit, MonitorLimits, Rate, StopReason};
use super::streams::{StreamId, StreamRegistry};
use crate::plan::MonitorDefinition;
use crate::render::{Base, Budget, Companion, Figures, Page, RenderedView};
use crate::time::Tick;

/// A view's name; the project is `None` for built-in views, which hold the rows of all projects.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewName {
    pub project: Option<String>,
    pub name: String,
}

impl ViewName {
    pub fn builtin(name: impl Into<String>) -> ViewName {
        ViewName {
            project: None,
            name: name.into(),
        }
    }

    pub fn of_project(project: impl Into<String>, name: impl Into<String>) -> ViewName {
        ViewName {
            project: Some(project.into()),
            name: name.into(),
        }
    }
}

impl std::fmt::Display for ViewName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.project {
            Some(project) => write!(f, "{project}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// When a view is installed, and where it was asked to begin, if that is in the past.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Installation {
    pub tick: Tick,
    pub since: Option<Tick>,
}

/// A view as the coordinator and the workers know it.
pub(crate) struct InstalledView {
    pub id: u64,
    pub name: ViewName,
    pub definition: MonitorDefinition,
    pub rendered: Arc<RenderedView>,
    /// Ids of the views it reads, in the order of [`RenderedView::views`].
    pub sources: Vec<u64>,
    /// The stream that each leaf reads.
    pub streams: Vec<StreamId>,
    /// Every row admitted after this tick is in the view.
    pub start: Tick,
    /// Where it was asked to begin, if that is in the past.
    pub since: Option<Tick>,
    /// The tick at which it was installed: not before its start, and later where it reads what was there already.
    pub installed_at: Tick,
    pub counters: ViewCounters,
    pub limits: MonitorLimits,
    /// Of its changes after its installation.
    pub rate: Rate,
    /// What its joins make.
    pub budget: Arc<Budget>,
    /// Of its graph, by node of the plan.
    pub figures: Arc<Figures>,
    /// Panes that end at or before this, microseconds, had ended when it was installed.
    ended: AtomicI64,
    /// Since which tick it is stopped, and why.
    stopped: Mutex<Option<(Tick, StopReason)>>,
}

#[derive(Default)]
pub(crate) struct ViewCounters {
    /// Rows in the view now.
    pub rows: AtomicU64,
    /// Changes of it so far, a row that goes and one that comes being two.
    pub changes: AtomicU64,
    pub late_rows: AtomicU64,
    pub error_rows: AtomicU64,
    pub error_sample: Mutex<Option<String>>,
    /// Rows in each companion now.
    pub companion_rows: [AtomicU64; 2],
}

/// Tells the relations that readers follow apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RelationId {
    pub view: u64,
    /// `None`: the view itself.
    pub companion: Option<Companion>,
}

impl std::fmt::Display for RelationId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.view, self.companion.map_or("", Companion::suffix))
    }
}

/// A view or one of its companions.
#[derive(Clone)]
pub(crate) struct Relation {
    pub view: Arc<InstalledView>,
    pub companion: Option<Companion>,
}

impl Relation {
    pub fn id(&self) -> RelationId {
        RelationId {
            view: self.view.id,
            companion: self.companion,
        }
    }

    /// The view and its companions.
    pub fn all_of(view: &Arc<InstalledView>) -> impl Iterator<Item = Relation> {
        let companions = Companion::ALL.into_iter().map(Some);
        std::iter::once(None).chain(companions).map(|companion| Relation {
            view: Arc::clone(view),
            companion,
        })
    }

    pub fn schema(&self) -> SchemaRef {
        match self.companion {
            None => Arc::clone(&self.view.rendered.schema),
            Some(companion) => companion.schema(),
        }
    }

    /// The columns that identify a row; empty: the whole row does.
    pub fn key(&self) -> Vec<usize> {
        match self.companion {
            None => self.view.rendered.key_columns.clone(),
            Some(companion) => companion.key_columns(),
        }
    }

    /// Rows in it now.
    pub fn rows(&self) -> &AtomicU64 {
        match self.companion {
            None => &self.view.counters.rows,
            Some(companion) => &self.view.counters.companion_rows[companion as usize],
        }
    }

    /// Takes note that it grew by so many rows, by so many changes.
    pub fn count(&self, rows: i64, changes: u64) {
        self.rows().fetch_add(rows.cast_unsigned(), Ordering::Relaxed);
        if self.companion.is_none() {
            self.view.counters.changes.fetch_add(changes, Ordering::Relaxed);
        }
    }

    pub fn describe(&self) -> ViewDescription {
        let described = self.view.describe();
        let Some(companion) = self.companion else {
            return described;
        };
        ViewDescription {
            name: ViewName {
                project: described.name.project,
                name: format!("{}{}", described.name.name, companion.suffix()),
            },
            companion_of: Some(described.name.name),
            description: Some(companion.description().into()),
            schema: self.schema(),
            key: self.key(),
            rows: self.rows().load(Ordering::Relaxed),
            late_rows: 0,
            errors: 0,
            error_sample: None,
            ..described
        }
    }
}

impl InstalledView {
    /// Compiles a definition over what is installed already, as of `tick`.
    pub fn new(
        id: u64,
        definition: MonitorDefinition,
        Installation { tick, since }: Installation,
        installed: &[Arc<InstalledView>],
        known: &StreamRegistry,
        defaults: MonitorLimits,
    ) -> Result<InstalledView, EngineError> {
        // The bases of a stopped view are gone, unless another one has them too.
        let running = installed.iter().filter(|view| view.stopped().is_none());
        let bases = running.flat_map(|view| view.bases().cloned());
        let is_early = |base: &Arc<Base>| since.is_none_or(|since| base.start <= since);
        let bases: Vec<Arc<Base>> = bases.filter(is_early).collect();
        let rendered = RenderedView::compile(&definition, &bases, since.unwrap_or(tick))?;
        let at = Installation { tick, since };
        InstalledView::of(id, definition, at, rendered, installed, known, defaults)
    }

    /// A view as a checkpoint says, over those that were installed before it; of `bases` are its leaves.
    pub fn restored(
        entry: &ViewEntry,
        bases: &[Arc<Base>],
        installed: &[Arc<InstalledView>],
        known: &StreamRegistry,
        defaults: MonitorLimits,
    ) -> Result<InstalledView, EngineError> {
        let start = bases.first().map_or(entry.start, |base| base.start);
        let rendered = RenderedView::compile(&entry.definition, bases, start)?;
        let at = Installation {
            tick: entry.installed_at,
            since: entry.since,
        };
        let definition = entry.definition.clone();
        let view = InstalledView::of(entry.id, definition, at, rendered, installed, known, defaults)?;
        let is_known = |base: &Arc<Base>| bases.iter().any(|other| Arc::ptr_eq(base, other));
        let is_same = view.sources == entry.sources && view.bases().all(is_known);
        if entry.stopped.is_none() && !is_same {
            return Err(EngineError::Changed {
                name: view.name.to_string(),
            });
        }
        if let Some((tick, reason)) = entry.stopped {
            view.stop(reason, tick);
        }
        view.note_ended(entry.ended);
        let counters = &view.counters;
        counters.changes.store(entry.changes, Ordering::Relaxed);
        counters.late_rows.store(entry.late_rows, Ordering::Relaxed);
        counters.error_rows.store(entry.error_rows, Ordering::Relaxed);
        counters.error_sample.lock().clone_from(&entry.error_sample);
        Ok(view)
    }

    fn of(
        id: u64,
        definition: MonitorDefinition,
        Installation { tick, since }: Installation,
        rendered: RenderedView,
        installed: &[Arc<InstalledView>],
        known: &StreamRegistry,
        defaults: MonitorLimits,
    ) -> Result<InstalledView, EngineError> {
        let rendered = Arc::new(rendered);
        let mut streams = Vec::with_capacity(rendered.leaves.len());
        for base in rendered.leaves.iter().map(|leaf| &leaf.base) {
            let stream = known.meant_by(&base.stream, base.declared.as_ref());
            streams.push(stream.ok_or_else(|| EngineError::Changed {
                name: base.stream.clone(),
            })?);
        }
        let mut sources = Vec::new();
        let mut start = rendered
            .leaves
            .iter()
            .map(|leaf| leaf.base.start)
            .max()
            .unwrap_or(0);
        for name in rendered.views() {
            let source = source_of(installed, definition.project.as_deref(), name).ok_or_else(|| {
                EngineError::Unknown {
                    name: name.to_string(),
                }
            })?;
            if !rendered.reads(name, &source.rendered.schema) {
                return Err(EngineError::Changed {
                    name: source.name.to_string(),
                });
            }
            start = start.max(source.start);
            sources.push(source.id);
        }
        let name = ViewName {
            project: definition.project.clone(),
            name: definition.name.clone(),
        };
        let limits = defaults.of(&definition);
        Ok(InstalledView {
            limits,
            rate: Rate::default(),
            budget: Arc::new(Budget::new(limits.tick_rows)),
            figures: Arc::default(),
            ended: AtomicI64::new(i64::MIN),
            stopped: Mutex::default(),
            id,
            name,
            definition,
            rendered,
            sources,
            streams,
            start,
            since,
            installed_at: tick,
            counters: ViewCounters::default(),
        })
    }

    /// The same, installed at `tick`.
    pub fn at(&self, tick: Tick) -> InstalledView {
        InstalledView {
            id: self.id,
            name: self.name.clone(),
            definition: self.definition.clone(),
            rendered: Arc::clone(&self.rendered),
            sources: self.sources.clone(),
            streams: self.streams.clone(),
            start: self.start,
            since: self.since,
            installed_at: tick,
            counters: ViewCounters::default(),
            limits: self.limits,
            budget: Arc::clone(&self.budget),
            figures: Arc::clone(&self.figures),
            rate: Rate::default(),
            ended: AtomicI64::new(self.ended_before()),
            stopped: Mutex::default(),
        }
    }

    /// Panes that end at or before this, microseconds, had ended when it was installed: it has never shown them.
    pub fn ended_before(&self) -> i64 {
        self.ended.load(Ordering::Relaxed)
    }

    pub fn note_ended(&self, until: i64) {
        self.ended.store(until, Ordering::Relaxed);
    }

    /// Rows in it now.
    pub fn rows(&self) -> u64 {
        self.counters.rows.load(Ordering::Relaxed)
    }

    /// The bases that it reads.
    pub fn bases(&self) -> impl Iterator<Item = &Arc<Base>> {
        self.rendered.leaves.iter().map(|leaf| &leaf.base)
    }

    /// Why it is stopped, if it is.
    pub fn stopped(&self) -> Option<StopReason> {
        (*self.stopped.lock()).map(|(_, reason)| reason)
    }

    /// Since when it is stopped, and why.
    pub fn stopped_at(&self) -> Option<(Tick, StopReason)> {
        *self.stopped.lock()
    }

    pub fn stop(&self, reason: StopReason, tick: Tick) {
        *self.stopped.lock() = Some((tick, reason));
    }

    /// As [`InstalledView::stopped`], also once it is clear that it will be.
    fn ending(&self) -> Option<StopReason> {
        let spent = self.budget.is_spent().then_some(StopReason {
            limit: Limit::MaxTickRows,
            most: self.limits.tick_rows,
        });
        self.stopped().or(spent)
    }

    /// How what it leaves out is entered in its companions.
    pub fn page(&self, pane_us: i64) -> Page<'_> {
        Page {
            view: self.id,
            project: self.definition.project.as_deref(),
            pane_us,
            retention_us: self.definition.retention_us(),
        }
    }

    /// The name of the table that keeps the view's changes; another incarnation of a name is another table.
    pub fn changes_table(&self) -> String {
        let name = &self.name.name;
        match &self.name.project {
            Some(project) => format!("{project}/{name}@{}_changes", self.installed_at),
            None => format!("{name}@{}_changes", self.installed_at),
        }
    }

    pub fn describe(&self) -> ViewDescription {
        ViewDescription {
            name: self.name.clone(),
            companion_of: None,
            sql: self.definition.sql.clone(),
            description: self.definition.options.description.clone(),
            schema: Arc::clone(&self.rendered.schema),
            key: self.rendered.key_columns.clone(),
            start: self.start,
            installed_at: self.installed_at,
            incarnation: self.id,
            changes_table: self.changes_table(),
            definition: self.definition.clone(),
            rows: self.counters.rows.load(Ordering::Relaxed),
            late_rows: self.counters.late_rows.load(Ordering::Relaxed),
            errors: self.counters.error_rows.load(Ordering::Relaxed),
            error_sample: self.counters.error_sample.lock().clone(),
            stopped: self.ending().map(|reason| reason.to_string()),
        }
    }
}

/// What others may know of a view.
#[derive(Debug, Clone)]
pub struct ViewDescription {
    pub name: ViewName,
    /// The view it is derived from, if it is a companion such as `<view>$late`; companions are not stored.
    pub companion_of: Option<String>,
    /// The statement as it was written; of a companion that of its view.
    pub sql: String,
    pub description: Option<String>,
    /// The columns, none of them hidden.
    pub schema: SchemaRef,
    /// The columns that identify a row; empty: the whole row does.
    pub key: Vec<usize>,
    /// Every row admitted after this tick, and within retention, is in the view.
    pub start: Tick,
    /// The tick at which it was installed.
    pub installed_at: Tick,
    /// Tells two views that had the same name at different times apart.
    pub incarnation: u64,
    /// The stored table that keeps its changes.
    pub changes_table: String,
    pub definition: MonitorDefinition,
    /// Rows in the view at the newest complete tick.
    pub rows: u64,
    /// Rows left out because their pane had expired.
    pub late_rows: u64,
    /// Rows left out because an expression failed on them.
    pub errors: u64,
    pub error_sample: Option<String>,
    /// Why it was stopped, with the way out: then it is empty and takes no more rows.
    pub stopped: Option<String>,
}

/// The view that a project means by a name: its own, else the built-in one.
fn source_of<'a>(
    installed: &'a [Arc<InstalledView>],
    project: Option<&str>,
    name: &str,
) -> Option<&'a InstalledView> {
    let of = |project: Option<&str>| {
        let mut views = installed.iter();
        views.find(|view| view.name.name == name && view.name.project.as_deref() == project)
    };
    of(project).or_else(|| of(None)).map(Arc::as_ref)
}

/// All installed views, by name.
#[derive(Default)]
pub(crate) struct ViewRegistry {
    views: RwLock<BTreeMap<ViewName, Arc<InstalledView>>>,
}

impl ViewRegistry {
    pub fn insert(&self, view: Arc<InstalledView>) {
        self.views.write().insert(view.name.clone(), view);
    }

    pub fn remove(&self, id: u64) -> Option<Arc<InstalledView>> {
        let mut views = self.views.write();
        let name = views.values().find(|view| view.id == id)?.name.clone();
        views.remove(&name)
    }

    pub fn get(&self, name: &ViewName) -> Option<Arc<InstalledView>> {
        self.views.read().get(name).cloned()
    }

    /// The view, or the companion, of exactly that name.
    pub fn relation(&self, name: &ViewName) -> Option<Relation> {
        let (view, companion) = parts(&name.name);
        let view = self.get(&ViewName {
            project: name.project.clone(),
            name: view.to_string(),
        })?;
        Some(Relation { view, companion })
    }

    /// The project's own view of that name, else the built-in one; without a project any that is unambiguous.
    pub fn resolve(&self, project: Option<&str>, name: &str) -> Option<Relation> {
        let (view, companion) = parts(name);
        let view = self.resolve_view(project, view)?;
        Some(Relation { view, companion })
    }

    fn resolve_view(&self, project: Option<&str>, name: &str) -> Option<Arc<InstalledView>> {
        let views = self.views.read();
        let builtin = || views.get(&ViewName::builtin(name)).cloned();
        match project {
            Some(project) => views
                .get(&ViewName::of_project(project, name))
                .cloned()
                .or_else(builtin),
            None => builtin().or_else(|| {
                let mut named = views.values().filter(|view| view.name.name == name);
                match (named.next(), named.next()) {
                    (Some(view), None) => Some(Arc::clone(view)),
                    _ => None,
                }
            }),
        }
    }

    pub fn all(&self) -> Vec<Arc<InstalledView>> {
        self.views.read().values().cloned().collect()
    }
}

/// The view's name and the companion.
fn parts(name: &str) -> (&str, Option<Companion>) {
    Companion::of_name(name).map_or((name, None), |(view, companion)| (view, Some(companion)))
}
