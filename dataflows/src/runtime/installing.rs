//! What may be installed and dropped, decided before it becomes a command of a tick.
//!
//! What is installed is also kept in the catalog. A view is compiled over what is installed when its tick comes; a view that others read stays.

use std::sync::Arc;

use super::EngineError;
use super::backfill::{Backfill, ReadJob};
use super::coordinator::{Coordinator, Pending, Preparation};
use super::messages::{AppliedCommand, ToWorker};
use super::starting::Reply;
use super::streams::{Marks, StreamId};
use super::sums::Sums;
use super::views::{Installation, InstalledView, ViewName};
use crate::plan::MonitorDefinition;
use crate::render::RenderedView;
use crate::time::{Tick, next_tick};

impl Pending {
    /// The view that it drops.
    pub(super) fn drops(&self) -> Option<u64> {
        match self {
            Pending::Drop(id, _) => Some(*id),
            Pending::Replace { old, .. } => Some(*old),
            _ => None,
        }
    }
}

impl Coordinator {
    pub(super) fn prepare_install(
        &mut self,
        definition: MonitorDefinition,
        or_replace: bool,
        reply: Reply,
        pending: &mut Vec<Pending>,
    ) {
        let name = ViewName {
            project: definition.project.clone(),
            name: definition.name.clone(),
        };
        let waiting = pending
            .iter()
            .any(|other| matches!(other, Pending::Install(view, ..) if view.name == name));
        let project = name.project.as_deref().unwrap_or_default();
        let is_stream =
            |other: &Pending| matches!(other, Pending::CreateStream(stream, _) if stream.name == name);
        if self.streams.get(project, &name.name).is_some() || pending.iter().any(is_stream) {
            let _ = reply.send(Err(EngineError::StreamExists {
                name: name.to_string(),
            }));
            return;
        }
        let existing = self.views.get(&name);
        if waiting || (existing.is_some() && !or_replace) {
            let _ = reply.send(Err(EngineError::Exists {
                name: name.to_string(),
            }));
            return;
        }
        if let Some(reader) = existing
            .as_ref()
            .and_then(|existing| self.reader_of(existing.id, pending))
        {
            let _ = reply.send(Err(reader));
            return;
        }
        let installed = self.views.all();
        match self.planned(definition, &installed) {
            Ok(view) => {
                self.next_view_id += 1;
                let sums = view.since.map(|_| self.sums_of(&view, &installed));
                let view = Arc::new(view);
                match sums.filter(|sums| !sums.is_empty()) {
                    Some(sums) => self.backfill(Backfill {
                        view,
                        or_replace,
                        reply,
                        sums,
                    }),
                    None if self.starts_over_much(&view, &installed) => {
                        self.start_in_slices(view, or_replace, reply);
                    }
                    None => push_install(view, Preparation::None, existing, reply, pending),
                }
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    /// The view as it would be installed at the next tick.
    fn planned(
        &self,
        definition: MonitorDefinition,
        installed: &[Arc<InstalledView>],
    ) -> Result<InstalledView, EngineError> {
        let tick = next_tick(self.last_tick);
        let since = self.since(&definition, tick)?;
        InstalledView::new(
            self.next_view_id,
            definition,
            Installation { tick, since },
            installed,
            &self.streams,
            self.limits,
        )
    }

    /// Where a monitor begins in the past, if it is asked to: rows that retention has let go by now are not read.
    fn since(&self, definition: &MonitorDefinition, tick: Tick) -> Result<Option<Tick>, EngineError> {
        let Some(backfill_us) = definition.options.backfill_us else {
            return Ok(None);
        };
        let refused = |detail: String| EngineError::Backfill {
            name: definition.name.clone(),
            detail,
        };
        let past = self
            .past
            .as_ref()
            .ok_or_else(|| refused("rows are not stored here (store.url)".into()))?;
        let rendered = RenderedView::compile(definition, &[], tick)?;
        let marks = self.admission.marks();
        let mut forgotten: Option<Tick> = None;
        for base in rendered.leaves.iter().map(|leaf| &leaf.base) {
            let stream = self.streams.meant_by(&base.stream, base.declared.as_ref());
            let stream = stream.ok_or_else(|| EngineError::Changed {
                name: base.stream.clone(),
            })?;
            let kept = self.streams.retention_us(stream).or(past.retention_us);
            let needed = base.rule.leaves_at(base.rule.pane_us);
            if let Some(kept) = kept.filter(|kept| *kept < needed) {
                return Err(refused(format!(
                    "it keeps rows for {needed} µs after their event time, and {} stores them for {kept} µs only; shorten                      its retention or store them longer",
                    base.stream
                )));
            }
            let until = base.forgotten_until(marks.of(stream), tick).unwrap_or(0);
            forgotten = Some(forgotten.map_or(until, |known| known.min(until)));
        }
        let forgotten = forgotten.ok_or_else(|| refused("it reads no stream, only views".into()))?;
        let asked = tick.saturating_sub(backfill_us.unsigned_abs() / 1_000);
        Ok(Some(asked.max(forgotten).min(tick - 1)))
    }

    /// Has the past of a view read.
    fn backfill(&self, backfill: Backfill) {
        self.backfills.begin(&backfill.view);
        if let Err(unsent) = self.to_reader.send(ReadJob::Backfill(Box::new(backfill)))
            && let ReadJob::Backfill(backfill) = unsent.into_inner()
        {
            self.backfills.end(backfill.view.id);
            let _ = backfill.reply.send(Err(EngineError::Closed));
        }
    }

    /// Nothing yet of the past of a view; rows that have been taken back by now do not count.
    fn sums_of(&self, view: &InstalledView, installed: &[Arc<InstalledView>]) -> Sums {
        Sums::of(view, installed, self.erasing.known.erased())
    }

    /// A view whose past is read is installed next, unless what is missing has been flushed meanwhile, rows were taken back
    /// or the name is taken by now.
    pub(super) fn take_backfilled(&mut self, mut backfill: Backfill, pending: &mut Vec<Pending>) {
        if backfill.sums.erasures() != self.erasing.known.count() {
            backfill.sums = self.sums_of(&backfill.view, &self.views.all());
            self.backfill(backfill);
            return;
        }
        if backfill.is_overtaken(self.tail.flushed()) {
            self.backfill(backfill);
            return;
        }
        let Backfill {
            view,
            or_replace,
            reply,
            sums,
        } = backfill;
        self.backfills.end(view.id);
        self.enqueue(view, Preparation::Summed(sums), or_replace, reply, pending);
    }

    /// A prepared view is installed next, unless its name is taken by now.
    pub(super) fn enqueue(
        &mut self,
        view: Arc<InstalledView>,
        preparation: Preparation,
        or_replace: bool,
        reply: Reply,
        pending: &mut Vec<Pending>,
    ) {
        let existing = self.views.get(&view.name);
        let is_waiting =
            |other: &Pending| matches!(other, Pending::Install(other, ..) if other.name == view.name);
        let free = match existing
            .as_ref()
            .map(|existing| self.reader_of(existing.id, pending))
        {
            Some(Some(reader)) => Err(reader),
            _ if (existing.is_some() && !or_replace) || pending.iter().any(is_waiting) => {
                Err(EngineError::Exists {
                    name: view.name.to_string(),
                })
            }
            _ => Ok(()),
        };
        match free {
            Ok(()) => push_install(view, preparation, existing, reply, pending),
            Err(error) => {
                if matches!(preparation, Preparation::Fed) {
                    self.give_up(view.id);
                }
                let _ = reply.send(Err(error));
            }
        }
    }

    /// The view as installed at `tick`, with what was done for it before.
    pub(super) fn prepared_at(
        &self,
        view: Arc<InstalledView>,
        preparation: Preparation,
        (tick, marks): (Tick, &Marks),
        before: &[AppliedCommand],
    ) -> Result<Arc<InstalledView>, EngineError> {
        match preparation {
            Preparation::None => self.installed_at(view, tick, before),
            Preparation::Fed => self.fed_at(&view, tick, before),
            Preparation::Summed(sums) => {
                let view = self.installed_at(view, tick, before)?;
                self.seeded(view, Some(sums), (tick, marks), before)
            }
        }
    }

    /// Gives the workers what the view's bases begin with, the last ticks before `tick` included; the marks are those
    /// before it.
    pub(super) fn seeded(
        &self,
        view: Arc<InstalledView>,
        sums: Option<Sums>,
        (tick, marks): (Tick, &Marks),
        before: &[AppliedCommand],
    ) -> Result<Arc<InstalledView>, EngineError> {
        let (Some(mut sums), Some(past)) = (sums, &self.past) else {
            return Ok(view);
        };
        past.add_until(&mut sums, tick - 1, &|_, _| Ok(()))?;
        let installed = self.installed_with(before);
        let seeds = sums.seeds(
            &view,
            &installed,
            (tick, marks, &self.previous_marks),
            self.workers.len(),
        );
        // Another view was installed meanwhile, or went, whose bases it would have shared.
        let seeds = seeds.ok_or_else(|| EngineError::Changed {
            name: view.name.to_string(),
        })?;
        for (worker, seeds) in seeds.into_iter().enumerate() {
            self.workers.send(worker, ToWorker::Seed(seeds));
        }
        Ok(view)
    }

    /// The view that a logged command installs.
    pub(super) fn replayed_install(
        &self,
        id: u64,
        definition: MonitorDefinition,
        (tick, since): (Tick, Option<Tick>),
        before: &[AppliedCommand],
    ) -> Result<Arc<InstalledView>, EngineError> {
        let installed = self.installed_with(before);
        let at = Installation { tick, since };
        let view = InstalledView::new(id, definition, at, &installed, &self.streams, self.limits)?;
        let sums = since.map(|_| self.sums_of(&view, &installed));
        let view = Arc::new(view);
        match sums.filter(|sums| !sums.is_empty()) {
            Some(_) if self.past.is_none() => Err(EngineError::Backfill {
                name: view.name.to_string(),
                detail: "it did, and rows are not stored here any more (store.url)".into(),
            }),
            sums => self.seeded(view, sums, (tick, &self.admission.marks()), before),
        }
    }

    /// What is installed when the commands before are done.
    pub(super) fn installed_with(&self, before: &[AppliedCommand]) -> Vec<Arc<InstalledView>> {
        let mut installed = self.views.all();
        for command in before {
            match command {
                AppliedCommand::Install(view) => installed.push(Arc::clone(view)),
                AppliedCommand::Drop { id } => installed.retain(|view| view.id != *id),
                AppliedCommand::CreateStream(_)
                | AppliedCommand::DropStream { .. }
                | AppliedCommand::Stop(_)
                | AppliedCommand::Erase(_)
                | AppliedCommand::EraseDone { .. }
                | AppliedCommand::FlushCut => {}
            }
        }
        installed
    }

    /// The view as installed at `tick`, over what there is then.
    pub(super) fn installed_at(
        &self,
        view: Arc<InstalledView>,
        tick: Tick,
        before: &[AppliedCommand],
    ) -> Result<Arc<InstalledView>, EngineError> {
        if view.installed_at == tick && before.is_empty() {
            return Ok(view);
        }
        let installed = self.installed_with(before);
        let gone = |command: &AppliedCommand| match command {
            AppliedCommand::DropStream { id } => view.streams.contains(&StreamId::User(*id)),
            _ => false,
        };
        if before.iter().any(gone) {
            return Err(EngineError::Changed {
                name: view.name.to_string(),
            });
        }
        let view = InstalledView::new(
            view.id,
            view.definition.clone(),
            Installation {
                tick,
                since: view.since,
            },
            &installed,
            &self.streams,
            self.limits,
        )?;
        Ok(Arc::new(view))
    }

    /// Why a view cannot go: another one reads it.
    pub(super) fn reader_of(&self, id: u64, pending: &[Pending]) -> Option<EngineError> {
        let waiting = pending.iter().filter_map(|pending| match pending {
            Pending::Install(view, ..) => Some(Arc::clone(view)),
            _ => None,
        });
        let starting = self.starting.view().cloned();
        let views: Vec<Arc<InstalledView>> = self
            .views
            .all()
            .into_iter()
            .chain(waiting)
            .chain(starting)
            .collect();
        let name = views.iter().find(|view| view.id == id)?.name.to_string();
        let dropped =
            |reader: &InstalledView| pending.iter().any(|pending| pending.drops() == Some(reader.id));
        let reader = views
            .iter()
            .find(|view| view.sources.contains(&id) && !dropped(view))?;
        Some(EngineError::InUse {
            name,
            reader: reader.name.to_string(),
        })
    }

    /// Tells who asked that it is done.
    pub(super) fn answer(&self, reply: Pending, tick: Tick) {
        match reply {
            Pending::Install(view, _, reply) => {
                let _ = reply.send(Ok(view));
            }
            Pending::Drop(_, reply) => {
                let _ = reply.send(Ok(()));
            }
            Pending::Replace { .. } => {}
            Pending::CreateStream(stream, reply) => {
                let _ = reply.send(Ok(stream));
            }
            Pending::DropStream(_, reply) => {
                let _ = reply.send(Ok(()));
            }
            Pending::Flush(reply) => {
                let _ = reply.send(tick);
            }
            Pending::EraseDone(_) => {}
        }
    }

    pub(super) fn keep_in_catalog(&self, view: &InstalledView) {
        let entry = serde_json::json!({ "id": view.id, "start": view.start, "definition": view.definition });
        if let Err(error) = self
            .catalog
            .put(&catalog_key(&view.name), entry.to_string().as_bytes())
        {
            tracing::warn!(%error, view = %view.name, "the catalog could not be written; the tick log has the monitor");
        }
    }

    pub(super) fn forget_in_catalog(&self, view: &InstalledView) {
        if self.views.get(&view.name).is_some() {
            return;
        }
        if let Err(error) = self.catalog.delete(&catalog_key(&view.name)) {
            tracing::warn!(%error, view = %view.name, "the catalog could not be written; the tick log has the drop");
        }
    }
}

/// The new view first: it keeps what both share.
fn push_install(
    view: Arc<InstalledView>,
    preparation: Preparation,
    existing: Option<Arc<InstalledView>>,
    reply: Reply,
    pending: &mut Vec<Pending>,
) {
    let new = view.id;
    pending.push(Pending::Install(view, preparation, reply));
    if let Some(existing) = existing {
        let old = existing.id;
        pending.push(Pending::Replace { old, new });
    }
}

fn catalog_key(name: &ViewName) -> String {
    match &name.project {
        Some(project) => format!("monitors/project/{project}/{}", name.name),
        None => format!("monitors/builtin/{}", name.name),
    }
}
