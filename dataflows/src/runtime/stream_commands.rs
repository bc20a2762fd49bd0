//! Declaring and dropping users' streams.

use std::sync::Arc;

use pyflare_operators::streams::StreamDefinition;
use tokio::sync::oneshot;

use super::EngineError;
use super::coordinator::{Coordinator, Pending};
use super::engine::Engine;
use super::messages::ToCoordinator;
use super::streams::{InstalledStream, Rejection, StreamDescription};
use super::topics::Feeding;
use super::views::{InstalledView, ViewName};
use crate::time::{Tick, next_tick};

impl Coordinator {
    pub(super) fn prepare_stream(
        &mut self,
        definition: StreamDefinition,
        feeding: Option<Feeding>,
        reply: oneshot::Sender<Result<Arc<InstalledStream>, EngineError>>,
        pending: &mut Vec<Pending>,
    ) {
        let name = ViewName::of_project(&definition.project, &definition.name);
        let waiting = pending.iter().any(|other| match other {
            Pending::Install(view, ..) => view.name == name,
            Pending::CreateStream(stream, _) => stream.name == name,
            _ => false,
        });
        let taken = self.streams.get(&definition.project, &definition.name).is_some();
        if waiting || taken || self.views.get(&name).is_some() {
            let _ = reply.send(Err(EngineError::StreamExists {
                name: name.to_string(),
            }));
            return;
        }
        let stream =
            InstalledStream::new(self.next_view_id, definition, next_tick(self.last_tick)).fed(feeding);
        self.next_view_id += 1;
        pending.push(Pending::CreateStream(Arc::new(stream), reply));
    }

    pub(super) fn prepare_stream_drop(
        &self,
        id: u64,
        reply: oneshot::Sender<Result<(), EngineError>>,
        pending: &mut Vec<Pending>,
    ) {
        match self.reader_of_stream(id, pending) {
            Some(reader) => {
                let _ = reply.send(Err(reader));
            }
            None => pending.push(Pending::DropStream(id, reply)),
        }
    }

    /// Why a stream cannot go: it is not there, or a monitor reads it.
    fn reader_of_stream(&self, id: u64, pending: &[Pending]) -> Option<EngineError> {
        let Some(stream) = self.streams.by_id(id) else {
            return Some(EngineError::UnknownStream { name: id.to_string() });
        };
        let waiting = pending.iter().filter_map(|pending| match pending {
            Pending::Install(view, ..) => Some(Arc::clone(view)),
            _ => None,
        });
        let dropped =
            |reader: &InstalledView| pending.iter().any(|pending| pending.drops() == Some(reader.id));
        let read = super::streams::StreamId::User(id);
        let starting = self.starting.view().cloned();
        let mut views = self.views.all().into_iter().chain(waiting).chain(starting);
        let reader = views.find(|view| view.streams.contains(&read) && !dropped(view))?;
        Some(EngineError::InUse {
            name: stream.name.to_string(),
            reader: reader.name.to_string(),
        })
    }

    /// The stream as created at `tick`.
    pub(super) fn created_at(&self, stream: &InstalledStream, tick: Tick) -> Arc<InstalledStream> {
        let created = InstalledStream::new(stream.id, (*stream.definition).clone(), tick);
        Arc::new(created.fed(stream.feeding.get().cloned()))
    }
}

impl Engine {
    /// Declares a stream; when this returns, rows for it may be appended to the log. The topic of a stream that has one
    /// must be there.
    pub async fn create_stream(
        &self,
        definition: StreamDefinition,
    ) -> Result<StreamDescription, EngineError> {
        if self.stream(&definition.project, &definition.name).is_some() {
            let ViewName { name, .. } = ViewName::of_project(&definition.project, &definition.name);
            return Err(EngineError::StreamExists { name });
        }
        let (log, declared) = (Arc::clone(&self.shared.log), definition.clone());
        let feeding = tokio::task::spawn_blocking(move || Feeding::open(log.as_ref(), &declared)).await;
        let feeding = feeding.map_err(|_| EngineError::Closed)??;
        let (reply, answer) = oneshot::channel();
        self.ask(ToCoordinator::CreateStream {
            definition: Box::new(definition),
            feeding,
            reply,
        })?;
        let stream = answer.await.map_err(|_| EngineError::Closed)??;
        self.wait_complete(stream.created_at).await;
        Ok(stream.describe())
    }

    /// Drops a stream that no monitor reads. Requests that are in the log and not yet admitted are left out.
    pub async fn drop_stream(&self, name: &ViewName) -> Result<(), EngineError> {
        let project = name.project.as_deref().unwrap_or_default();
        let stream = self.shared.streams.get(project, &name.name);
        let stream = stream.ok_or_else(|| EngineError::UnknownStream {
            name: name.to_string(),
        })?;
        let (reply, answer) = oneshot::channel();
        self.ask(ToCoordinator::DropStream { id: stream.id, reply })?;
        answer.await.map_err(|_| EngineError::Closed)?
    }

    /// The project's stream of that name.
    pub fn stream(&self, project: &str, name: &str) -> Option<StreamDescription> {
        Some(self.shared.streams.get(project, name)?.describe())
    }

    /// What of a stream was left out lately: the newest hundred, oldest first.
    pub fn rejections(&self, name: &ViewName) -> Vec<Rejection> {
        let project = name.project.as_deref().unwrap_or_default();
        let stream = self.shared.streams.get(project, &name.name);
        stream.map(|stream| stream.rejections()).unwrap_or_default()
    }

    /// All users' streams.
    pub fn streams(&self) -> Vec<StreamDescription> {
        let streams = self.shared.streams.all();
        streams.iter().map(|stream| stream.describe()).collect()
    }
}
