//! What a server without traffic costs.

use std::time::{Duration, Instant};

use pyflare_operators::corpus::{Generator, Traffic};

use super::bed::{now_us, processor_seconds};
use super::server::Server;
use super::{Figure, Target, figure};

const MONITORS: usize = 20;
const SPANS: usize = 20_000;
const PER_REQUEST: usize = 500;
/// The rows have reached the store by then.
const SETTLING: Duration = Duration::from_secs(13);
const IDLE: Duration = Duration::from_secs(10);

/// Processor time of a real server with monitors that hold rows.
pub async fn idle() -> anyhow::Result<Vec<Figure>> {
    let server = Server::start().await?;
    for number in 0..MONITORS {
        let statement = format!(
            "CREATE MONITOR idle_{number} AS SELECT service_name, window_start, window_end, count(*) AS spans, \
             avg(duration_ns) AS mean FROM TUMBLE(spans, event_time, INTERVAL '1 minute') \
             WHERE input_tokens > {number} GROUP BY service_name, window_start, window_end"
        );
        server.sql(&statement).await?;
    }
    let start_unix_nano = now_us() as u64 * 1_000 - 20_000_000_000;
    let mut generator = Generator::new(
        3,
        Traffic {
            start_unix_nano,
            ..Traffic::default()
        },
    );
    for _ in 0..SPANS / PER_REQUEST {
        server.export(generator.small_request(PER_REQUEST).into()).await?;
    }
    tokio::time::sleep(SETTLING).await;
    let (before, begin) = (processor_seconds(server.process())?, Instant::now());
    tokio::time::sleep(IDLE).await;
    let spent = processor_seconds(server.process())? - before;
    let name = format!("idle processor, {MONITORS} monitors");
    Ok(vec![figure(
        name,
        spent / begin.elapsed().as_secs_f64() * 100.0,
        "% of a core",
        Target::AtMost(2.0),
        "none, after 20,000 small spans",
    )])
}
