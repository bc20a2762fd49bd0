//! The service behind `/api/v1/live`: limits, counters, the upgrade of a request to a socket, and the shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use axum::http::{HeaderMap, header};
use axum::response::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::access::{SUBPROTOCOL, key_of_subprotocols};
use crate::views::Views;
use crate::{Access, Failure, FailureKind, Scope, socket};

const KEY_HEADER: &str = "x-pyflare-key";

/// Why an upgrade is refused; the REST API answers with its `Failure`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct LiveError(pub Failure);

/// Bounds of one server.
#[derive(Clone, Debug)]
pub struct LiveLimits {
    pub connections: usize,
    pub subscriptions_per_connection: usize,
    /// Largest client message, in bytes.
    pub message_bytes: usize,
    /// Rows of one frame; a view that is larger must be narrowed by a query.
    pub frame_rows: usize,
    /// Bytes of frames that wait for one client.
    pub queued_bytes: usize,
    /// How long one message may take to leave.
    pub write_timeout: Duration,
    pub ping_interval: Duration,
    /// A client from which nothing (not even a pong) came for so long is gone.
    pub idle_timeout: Duration,
}

impl Default for LiveLimits {
    fn default() -> LiveLimits {
        LiveLimits {
            connections: 256,
            subscriptions_per_connection: 64,
            message_bytes: 64 * 1024,
            frame_rows: 500_000,
            queued_bytes: 16 * 1024 * 1024,
            write_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// What happened so far, for the metrics page.
#[derive(Debug, Default)]
pub struct LiveCounters {
    pub connections: AtomicU64,
    pub subscriptions: AtomicU64,
    pub frames: AtomicU64,
    pub resets: AtomicU64,
    pub rows: AtomicU64,
    pub sent_bytes: AtomicU64,
    pub refused_messages: AtomicU64,
}

impl LiveCounters {
    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

/// Handle of the service; cheap to clone.
#[derive(Clone)]
pub struct Live {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub views: Arc<dyn Views>,
    pub limits: LiveLimits,
    pub counters: LiveCounters,
    /// One permit per open socket.
    pub connections: Arc<Semaphore>,
    /// Turns true once: every socket then says goodbye.
    pub stopping: watch::Sender<bool>,
}

impl Live {
    pub fn new(views: Arc<dyn Views>, limits: LiveLimits) -> Live {
        let connections = Arc::new(Semaphore::new(limits.connections));
        let (stopping, _) = watch::channel(false);
        Live {
            shared: Arc::new(Shared {
                views,
                limits,
                counters: LiveCounters::default(),
                connections,
                stopping,
            }),
        }
    }

    pub fn counters(&self) -> &LiveCounters {
        &self.shared.counters
    }

    /// Sockets that are open.
    pub fn open_connections(&self) -> usize {
        self.shared
            .limits
            .connections
            .saturating_sub(self.shared.connections.available_permits())
    }

    /// Ends every subscription, closes every socket and waits until they are gone, at most for `grace`.
    pub async fn shutdown(&self, grace: Duration) {
        self.shared.stopping.send_replace(true);
        let all = u32::try_from(self.shared.limits.connections).unwrap_or(u32::MAX);
        let everyone_left = self.shared.connections.acquire_many(all);
        if tokio::time::timeout(grace, everyone_left).await.is_err() {
            tracing::warn!(
                open = self.open_connections(),
                "live sockets did not close within the grace period"
            );
        }
    }

    fn admit(&self) -> Result<OwnedSemaphorePermit, LiveError> {
        if *self.shared.stopping.borrow() {
            return Err(LiveError(Failure::new(
                FailureKind::Unavailable,
                "PF-5027",
                "the server is shutting down; connect again in a moment",
            )));
        }
        Arc::clone(&self.shared.connections)
            .try_acquire_owned()
            .map_err(|_| {
                LiveError(Failure::new(
                    FailureKind::Busy,
                    "PF-5012",
                    format!(
                        "all {} live connections are in use; close one, or raise limits.live_connections",
                        self.shared.limits.connections
                    ),
                ))
            })
    }
}

/// Checks the caller and turns the request into a socket. Browsers cannot set headers on a WebSocket, so `project`
/// (the query parameter) stands in for the header `x-pyflare-project` where that is absent, and a key among the
/// offered subprotocols (`pyflare.key.` and the key in base64url) for the header `x-pyflare-key`.
pub fn upgrade(
    live: &Live,
    access: &Access,
    headers: &HeaderMap,
    peer: Option<SocketAddr>,
    project: Option<&str>,
    request: WebSocketUpgrade,
) -> Result<Response, LiveError> {
    let mut headers = headers.clone();
    if let Some(project) = project
        && !headers.contains_key("x-pyflare-project")
    {
        let value = project.parse().map_err(|_| {
            LiveError(Failure::new(
                FailureKind::Invalid,
                "PF-5026",
                "the parameter \"project\" must be visible ASCII",
            ))
        })?;
        headers.insert("x-pyflare-project", value);
    }
    let has_key = headers.contains_key(KEY_HEADER) || headers.contains_key(header::AUTHORIZATION);
    if !has_key && let Some(key) = key_of_subprotocols(&headers) {
        headers.insert(KEY_HEADER, key);
    }
    let scope: Scope = access.check(&headers, peer).map_err(LiveError)?;
    let permit = live.admit()?;
    let live = live.clone();
    // The library's own bound is well above ours: a message between the two is read and answered politely.
    let hard_limit = live.shared.limits.message_bytes.saturating_mul(16);
    let request = request.protocols([SUBPROTOCOL]);
    let request = request.max_message_size(hard_limit).max_frame_size(hard_limit);
    Ok(request.on_upgrade(move |socket| async move {
        LiveCounters::add(&live.shared.counters.connections, 1);
        socket::serve(socket, Arc::clone(&live.shared), scope).await;
        drop(permit);
    }))
}
