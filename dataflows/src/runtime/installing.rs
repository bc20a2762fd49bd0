//! What may be installed and dropped, decided before it becomes a command of a tick.
//!
//! What is installed is also kept in the catalog. A view is compiled over what is installed when its tick comes; a view that others read stays.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::EngineError;
use super::coordinator::{Coordinator, Pending};
use super::messages::AppliedCommand;
use super::streams::StreamId;
use super::views::{InstalledView, ViewName};
use crate::plan::MonitorDefinition;
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
        reply: oneshot::Sender<Result<Arc<InstalledView>, EngineError>>,
        pending: &mut Vec<Pending>,
    ) {
        let name = ViewName {
            project: definition.project.clone(),
            name: definition.name.clone(),
        };
        let waiting = pending
            .iter()
            .any(|other| matches!(other, Pending::Install(view, _) if view.name == name));
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
        // It is installed at the next tick.
        let installed = self.views.all();
        match InstalledView::new(
            self.next_view_id,
            definition,
            next_tick(self.last_tick),
            &installed,
            &self.streams,
            self.limits,
        ) {
            Ok(view) => {
                self.next_view_id += 1;
                let new = view.id;
                // The new one first: it keeps what both share.
                pending.push(Pending::Install(Arc::new(view), reply));
                if let Some(existing) = existing {
                    let old = existing.id;
                    pending.push(Pending::Replace { old, new });
                }
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
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
            tick,
            &installed,
            &self.streams,
            self.limits,
        )?;
        Ok(Arc::new(view))
    }

    /// Why a view cannot go: another one reads it.
    pub(super) fn reader_of(&self, id: u64, pending: &[Pending]) -> Option<EngineError> {
        let waiting = pending.iter().filter_map(|pending| match pending {
            Pending::Install(view, _) => Some(Arc::clone(view)),
            _ => None,
        });
        let views: Vec<Arc<InstalledView>> = self.views.all().into_iter().chain(waiting).collect();
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
            Pending::Install(view, reply) => {
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

fn catalog_key(name: &ViewName) -> String {
    match &name.project {
        Some(project) => format!("monitors/project/{project}/{}", name.name),
        None => format!("monitors/builtin/{}", name.name),
    }
}
