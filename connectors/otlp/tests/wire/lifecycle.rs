//! Starting, stopping and listening.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use pyflare_connectors::{Log, Signal};
use pyflare_log::EmbeddedLog;
use pyflare_otlp::{OpenMode, ReceiverError, ReceiverOptions, Receivers};

use crate::server::{Server, always, good, log_options, open_to_this_machine, options};

async fn bind(options: ReceiverOptions) -> Result<Receivers, ReceiverError> {
    let directory = tempfile::tempdir().unwrap();
    let log: Arc<dyn Log> = EmbeddedLog::open(log_options(directory.path())).unwrap();
    Receivers::bind(options, log, open_to_this_machine(), always()).await
}

#[tokio::test]
async fn without_keys_only_this_machine_is_listened_to() {
    let everywhere = ReceiverOptions {
        http: "0.0.0.0:0".parse().unwrap(),
        ..options()
    };
    let refused = bind(everywhere.clone()).await.err().unwrap();
    assert!(refused.to_string().starts_with("PF-1020"), "{refused}");
    assert!(
        bind(ReceiverOptions {
            open_mode: OpenMode::Never,
            ..options()
        })
        .await
        .is_ok()
    );
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_flag_that_changes_it() {
    let server = Server::start().await;
    let taken = ReceiverOptions {
        grpc: server.handle.grpc_address(),
        ..options()
    };
    let refused = bind(taken).await.err().unwrap().to_string();
    assert!(
        refused.starts_with("PF-1021") && refused.contains("--listen-otlp-grpc"),
        "{refused}"
    );
    assert!(refused.contains(&server.handle.grpc_address().port().to_string()));
}

#[tokio::test]
async fn stopping_drains_and_acknowledges_nothing_that_is_lost() {
    let mut server = Server::start().await;
    let url = server.grpc_url();
    let sender = tokio::spawn(async move {
        let mut client = TraceServiceClient::connect(url).await.unwrap();
        let mut acknowledged = 0;
        while client.export(good(100).0).await.is_ok() {
            acknowledged += 1;
        }
        acknowledged
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.stop.take().unwrap().send(()).unwrap();
    let acknowledged: usize = tokio::time::timeout(Duration::from_secs(20), sender)
        .await
        .unwrap()
        .unwrap();
    let running = std::mem::replace(&mut server.running, tokio::spawn(async {}));
    tokio::time::timeout(Duration::from_secs(20), running)
        .await
        .unwrap()
        .unwrap();
    assert!(acknowledged > 0);
    assert!(server.records(Signal::Traces).len() >= acknowledged);
    assert!(
        TraceServiceClient::connect(server.grpc_url()).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_stop() {
    let mut server = Server::start().await;
    let mut client = TraceServiceClient::connect(server.grpc_url()).await.unwrap();
    client.export(good(1).0).await.unwrap();
    server.stop.take().unwrap().send(()).unwrap();
    let running = std::mem::replace(&mut server.running, tokio::spawn(async {}));
    tokio::time::timeout(Duration::from_secs(3), running)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn counters_are_prometheus_text() {
    let server = Server::start().await;
    let mut client = TraceServiceClient::connect(server.grpc_url()).await.unwrap();
    client.export(good(7).0).await.unwrap();
    let mut text = String::new();
    server.handle.metrics().write_prometheus(&mut text);
    assert!(
        text.contains("pyflare_otlp_rows_total{signal=\"traces\",transport=\"grpc\"} 7\n"),
        "{text}"
    );
    assert!(text.contains("# TYPE pyflare_otlp_connections gauge\npyflare_otlp_connections 1\n"));
}
