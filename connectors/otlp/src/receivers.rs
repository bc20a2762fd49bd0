//! The listening sockets and their connections.
//!
//! Invariants: every connection is a task owned by [`Receivers::run`]; at shutdown no new connection or request
//! is taken, those in progress finish within the drain time, and then `run` returns.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pyflare_connectors::Log;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::admit::{Admission, Door, header};
use crate::auth::Authenticate;
use crate::in_flight::InFlight;
use crate::metrics::{Counters, ReceiverMetrics};
use crate::options::{OpenMode, ReceiverOptions};
use crate::{grpc, http as otlp_http};

/// A connection that says nothing at first, or no headers, is closed after this long.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// HTTP/2 settings that a prototype found fastest for 400-kB requests; beyond them nothing changed.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
const FRAME_BYTES: u32 = 256 << 10;
const STREAMS: u32 = 256;
/// Request headers of one request.
const HEADER_BYTES: u32 = 32 << 10;
const KEEP_ALIVE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    #[error(
        "PF-1020: without ingest keys the receivers listen on this machine only, not on {address}; configure auth.keys, or give --insecure-open if everybody who can reach the port may send"
    )]
    OpenNotLocal { address: SocketAddr },
    #[error("PF-1021: port {} is in use (OTLP/{protocol} on {address}); stop the other process, or choose another port with {flag}", .address.port())]
    InUse {
        protocol: &'static str,
        address: SocketAddr,
        flag: &'static str,
    },
    #[error(
        "PF-1022: cannot listen on {address} for OTLP/{protocol}: {source}; choose another address with {flag}"
    )]
    Listen {
        protocol: &'static str,
        address: SocketAddr,
        flag: &'static str,
        source: std::io::Error,
    },
}

/// Sockets that are open, and what serves them. [`Receivers::run`] starts serving.
pub struct Receivers {
    grpc: TcpListener,
    http: TcpListener,
    handle: ReceiverHandle,
}

/// Addresses and counters of running receivers.
#[derive(Clone)]
pub struct ReceiverHandle {
    door: Arc<Door>,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl ReceiverHandle {
    /// Where OTLP/gRPC is really listened for.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where OTLP/HTTP is really listened for.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// The counters now.
    pub fn metrics(&self) -> ReceiverMetrics {
        self.door.counters.snapshot(self.door.in_flight.used() as u64)
    }
}

async fn listen(
    protocol: &'static str,
    flag: &'static str,
    address: SocketAddr,
    open_mode: OpenMode,
) -> Result<(TcpListener, SocketAddr), ReceiverError> {
    if open_mode == OpenMode::Loopback && !address.ip().to_canonical().is_loopback() {
        return Err(ReceiverError::OpenNotLocal { address });
    }
    let bound = TcpListener::bind(address).await.and_then(|listener| {
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    bound.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => ReceiverError::InUse {
            protocol,
            address,
            flag,
        },
        _ => ReceiverError::Listen {
            protocol,
            address,
            flag,
            source,
        },
    })
}

impl Receivers {
    /// Opens both ports. Nothing is served before [`Receivers::run`].
    pub async fn bind(
        options: ReceiverOptions,
        log: Arc<dyn Log>,
        authenticate: Authenticate,
        admission: Admission,
    ) -> Result<Receivers, ReceiverError> {
        let (grpc, grpc_address) =
            listen("gRPC", "--listen-otlp-grpc", options.grpc, options.open_mode).await?;
        let (http, http_address) =
            listen("HTTP", "--listen-otlp-http", options.http, options.open_mode).await?;
        let in_flight = InFlight::new(options.max_in_flight_bytes);
        let counters = Counters::default();
        let door = Door {
            options,
            log,
            authenticate,
            admission,
            in_flight,
            counters,
        };
        let handle = ReceiverHandle {
            door: Arc::new(door),
            grpc: grpc_address,
            http: http_address,
        };
        Ok(Receivers { grpc, http, handle })
    }

    /// Addresses and counters, for as long as one likes.
    pub fn handle(&self) -> ReceiverHandle {
        self.handle.clone()
    }

    /// Serves until `shutdown` resolves, then drains.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let door = &self.handle.door;
        let room = Arc::new(Semaphore::new(door.options.max_connections));
        let (stop, stopping) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            // Room first: connections beyond the limit wait in the backlog.
            let next = async {
                let permit = Arc::clone(&room).acquire_owned().await;
                let accepted = tokio::select! {
                    accepted = self.grpc.accept() => accepted,
                    accepted = self.http.accept() => accepted,
                };
                (permit, accepted)
            };
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                (permit, accepted) = next => match (permit, accepted) {
                    (Ok(permit), Ok((stream, peer))) => {
                        let (door, stopping) = (Arc::clone(door), stopping.clone());
                        connections.spawn(serve(door, stream, peer, stopping, permit));
                    }
                    (_, Err(error)) => {
                        // Out of file descriptors, most likely: wait for connections to end.
                        tracing::warn!(%error, "cannot accept an OTLP connection");
                        sleep(Duration::from_millis(100)).await;
                    }
                    (Err(_), _) => break,
                },
            }
        }
        let drain = door.options.drain_timeout;
        drop((self.grpc, self.http));
        stop.send_replace(true);
        let drained = timeout(drain, async { while connections.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!(
                open = connections.len(),
                "closing OTLP connections that did not finish in time"
            );
            connections.shutdown().await;
        }
    }
}

async fn serve(
    door: Arc<Door>,
    stream: TcpStream,
    peer: SocketAddr,
    mut stopping: watch::Receiver<bool>,
    _room: OwnedSemaphorePermit,
) {
    if timeout(HEADER_TIMEOUT, stream.readable()).await.is_err() {
        return;
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    door.counters.connections.fetch_add(1, Ordering::Relaxed);
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    server
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_BYTES)
        .keep_alive_interval(KEEP_ALIVE);
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let door = Arc::clone(&door);
        async move {
            let response = if grpc::is_grpc(header(request.headers(), CONTENT_TYPE)) {
                grpc::handle(&door, peer, request).await
            } else {
                otlp_http::handle(&door, peer, request).await
            };
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    let mut asked_to_stop = false;
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            _ = stopping.wait_for(|stop| *stop), if !asked_to_stop => {
                asked_to_stop = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "an OTLP connection ended early");
    }
    door.counters.connections.fetch_sub(1, Ordering::Relaxed);
}
