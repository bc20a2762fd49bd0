//! One socket: a reader, a writer, and a task per subscription.
//!
//! The reader obeys the client, the writer is the only one that writes, subscriptions hand it text through a queue
//! that is bounded in messages and in bytes. Whichever of the two ends first ends the socket: the reader on a
//! close, a lost connection or silence beyond the idle timeout, the writer on an error or a write that takes too
//! long. Subscriptions are then told to stop and waited for, so that nothing outlives its socket.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::protocol::{self, ClientMessage, Subscribe, error_message};
use crate::service::{LiveCounters, Shared};
use crate::{Failure, FailureKind, Scope, subscription};

/// Messages that may wait for the writer.
const QUEUE: usize = 64;
/// Refused messages after which a client is taken to be something else than a client.
const PATIENCE: u32 = 100;

/// Text on its way to the client, with the room it takes in the queue.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub text: String,
    pub _room: Option<OwnedSemaphorePermit>,
}

impl Outgoing {
    pub fn text(text: String) -> Outgoing {
        Outgoing { text, _room: None }
    }
}

/// The way to the writer.
#[derive(Clone)]
pub(crate) struct Outbound {
    queue: mpsc::Sender<Outgoing>,
    room: Arc<Semaphore>,
    kilobytes: u32,
}

impl Outbound {
    pub async fn send(&self, outgoing: Outgoing) -> Result<(), mpsc::error::SendError<Outgoing>> {
        self.queue.send(outgoing).await
    }

    /// Waits until `bytes` fit; what is larger than the whole room has it alone.
    pub async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kilobytes = u32::try_from(bytes / 1024 + 1)
            .unwrap_or(u32::MAX)
            .min(self.kilobytes);
        Arc::clone(&self.room).acquire_many_owned(kilobytes).await.ok()
    }
}

/// How a socket ended, as told to the client.
struct Goodbye {
    code: u16,
    reason: &'static str,
}

/// Serves a socket until it ends.
pub(crate) async fn serve(socket: WebSocket, shared: Arc<Shared>, scope: Scope) {
    let (sink, stream) = socket.split();
    let (queue, queued) = mpsc::channel(QUEUE);
    let kilobytes = u32::try_from(shared.limits.queued_bytes / 1024)
        .unwrap_or(u32::MAX)
        .max(1);
    let outbound = Outbound {
        queue,
        room: Arc::new(Semaphore::new(kilobytes as usize)),
        kilobytes,
    };
    let (farewell, goodbye) = oneshot::channel();
    let writer = tokio::spawn(write(sink, queued, goodbye, Arc::clone(&shared)));
    let mut reader = Reader {
        shared,
        scope,
        outbound,
        running: HashMap::new(),
        tasks: JoinSet::new(),
        refused: 0,
    };
    let goodbye = reader.run(stream).await;
    reader.stop_all().await;
    // The writer may have ended first, by an error: then nobody takes the farewell.
    let _ = farewell.send(goodbye);
    drop(reader);
    if let Err(error) = writer.await {
        tracing::error!(%error, "the writer of a live socket failed");
    }
}

struct Reader {
    shared: Arc<Shared>,
    scope: Scope,
    outbound: Outbound,
    /// How to stop each subscription; one that is stopping has `None` and keeps its id until it is gone.
    running: HashMap<String, Option<oneshot::Sender<()>>>,
    tasks: JoinSet<String>,
    refused: u32,
}

impl Reader {
    async fn run(&mut self, mut stream: SplitStream<WebSocket>) -> Goodbye {
        let shared = Arc::clone(&self.shared);
        let mut stopping = shared.stopping.subscribe();
        let idle = shared.limits.idle_timeout;
        let mut last_heard = Instant::now();
        loop {
            tokio::select! {
                message = stream.next() => {
                    last_heard = Instant::now();
                    match message {
                        Some(Ok(Message::Text(text))) => {
                            if let Some(goodbye) = self.text(text.as_str()).await {
                                drain(&mut stream).await;
                                return goodbye;
                            }
                        }
                        Some(Ok(Message::Binary(_))) => {
                            let failure = Failure::new(FailureKind::Invalid, "PF-5015", "binary messages are not understood; send JSON text");
                            if let Some(goodbye) = self.refuse(None, &failure).await {
                                return goodbye;
                            }
                        }
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                        Some(Ok(Message::Close(_))) | None => return Goodbye { code: close_code::NORMAL, reason: "" },
                        Some(Err(error)) => {
                            tracing::debug!(%error, "a live socket broke the protocol or its connection was lost");
                            return Goodbye { code: close_code::SIZE, reason: "message too large or malformed" };
                        }
                    }
                }
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(id) => { self.running.remove(&id); }
                    Err(error) => {
                        tracing::error!(%error, "a live subscription failed");
                        return Goodbye { code: close_code::ERROR, reason: "internal error" };
                    }
                },
                () = tokio::time::sleep_until(last_heard + idle) => {
                    return Goodbye { code: close_code::AWAY, reason: "no sign of life" };
                }
                () = self.outbound.queue.closed() => return Goodbye { code: close_code::ERROR, reason: "" },
                () = async { let _ = stopping.wait_for(|stop| *stop).await; } => {
                    return Goodbye { code: close_code::AWAY, reason: "the server is shutting down" };
                }
            }
        }
    }

    async fn text(&mut self, text: &str) -> Option<Goodbye> {
        let limit = self.shared.limits.message_bytes;
        if text.len() > limit {
            let failure = Failure::new(
                FailureKind::TooLarge,
                "PF-5016",
                format!("a message of {} bytes is above the limit of {limit}", text.len()),
            );
            self.refuse(None, &failure).await;
            return Some(Goodbye {
                code: close_code::SIZE,
                reason: "message too large",
            });
        }
        match protocol::read(text) {
            Ok(ClientMessage::Subscribe(request)) => self.subscribe(request).await,
            Ok(ClientMessage::Unsubscribe(request)) => self.unsubscribe(&request.id).await,
            Err((failure, id)) => self.refuse(id.as_deref(), &failure).await,
        }
    }

    async fn subscribe(&mut self, request: Subscribe) -> Option<Goodbye> {
        if self.running.contains_key(&request.id) {
            let failure = Failure::new(
                FailureKind::Conflict,
                "PF-5017",
                "this id is in use on this connection; unsubscribe it and wait for its end, or choose another",
            );
            return self.refuse(Some(&request.id), &failure).await;
        }
        let limit = self.shared.limits.subscriptions_per_connection;
        if self.running.len() >= limit {
            let failure = Failure::new(
                FailureKind::Busy,
                "PF-5030",
                format!(
                    "a connection may hold {limit} subscriptions; unsubscribe one, or open another connection"
                ),
            );
            return self.refuse(Some(&request.id), &failure).await;
        }
        let (stop, stopped) = oneshot::channel();
        self.running.insert(request.id.clone(), Some(stop));
        let (shared, scope, outbound) = (
            Arc::clone(&self.shared),
            self.scope.clone(),
            self.outbound.clone(),
        );
        self.tasks
            .spawn(subscription::run(shared, scope, request, outbound, stopped));
        None
    }

    async fn unsubscribe(&mut self, id: &str) -> Option<Goodbye> {
        match self.running.get_mut(id) {
            Some(stop) => {
                if let Some(stop) = stop.take() {
                    // A subscription that ended in this moment has nobody to tell.
                    let _ = stop.send(());
                }
                None
            }
            None => {
                let failure = Failure::new(
                    FailureKind::NotFound,
                    "PF-5018",
                    "there is no subscription of that id on this connection",
                );
                self.refuse(Some(id), &failure).await
            }
        }
    }

    /// Tells the client; one that never says anything sensible is let go.
    async fn refuse(&mut self, id: Option<&str>, failure: &Failure) -> Option<Goodbye> {
        LiveCounters::add(&self.shared.counters.refused_messages, 1);
        self.refused += 1;
        if self
            .outbound
            .send(Outgoing::text(error_message(id, failure)))
            .await
            .is_err()
        {
            return Some(Goodbye {
                code: close_code::ERROR,
                reason: "",
            });
        }
        (self.refused >= PATIENCE).then_some(Goodbye {
            code: close_code::POLICY,
            reason: "too many messages were refused",
        })
    }

    /// Dropping the stop handles ends the subscriptions without a word; their monitors are dropped before they do.
    async fn stop_all(&mut self) {
        self.running.clear();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Reads on for a moment after an oversized message: closing with unread bytes would reset the connection and
/// the client would never see why.
async fn drain(stream: &mut SplitStream<WebSocket>) {
    let all = async { while let Some(Ok(_)) = stream.next().await {} };
    let _ = tokio::time::timeout(Duration::from_millis(100), all).await;
}

async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut queue: mpsc::Receiver<Outgoing>,
    mut goodbye: oneshot::Receiver<Goodbye>,
    shared: Arc<Shared>,
) {
    let limits = &shared.limits;
    let mut ping = tokio::time::interval(limits.ping_interval);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut close: Option<Goodbye> = None;
    loop {
        // Once the farewell is said, what is queued still goes out, the close after it.
        let (message, room) = tokio::select! {
            biased;
            outgoing = queue.recv() => match outgoing {
                Some(Outgoing { text, _room }) => (Message::Text(text.into()), _room),
                None => break,
            },
            farewell = &mut goodbye, if close.is_none() => {
                close = Some(farewell.unwrap_or(Goodbye { code: close_code::ERROR, reason: "" }));
                continue;
            }
            _ = ping.tick() => (Message::Ping(Vec::new().into()), None),
        };
        let size = if let Message::Text(text) = &message {
            text.len()
        } else {
            0
        };
        match tokio::time::timeout(limits.write_timeout, sink.send(message)).await {
            Ok(Ok(())) => LiveCounters::add(&shared.counters.sent_bytes, size as u64),
            Ok(Err(_)) => return,
            Err(_) => {
                tracing::info!(timeout = ?limits.write_timeout, "a live client reads too slowly; its socket is closed");
                return;
            }
        }
        drop(room);
    }
    let goodbye = match close {
        Some(goodbye) => goodbye,
        None => goodbye.await.unwrap_or(Goodbye {
            code: close_code::ERROR,
            reason: "",
        }),
    };
    let frame = CloseFrame {
        code: goodbye.code,
        reason: goodbye.reason.into(),
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), sink.send(Message::Close(Some(frame)))).await;
}
