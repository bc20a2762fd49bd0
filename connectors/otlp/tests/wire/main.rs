//! The receivers over real sockets: gRPC by tonic's generated client, HTTP by raw bytes.

#![allow(clippy::unwrap_used)]

mod grpc;
mod http;
mod lifecycle;
mod server;
