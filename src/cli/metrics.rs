//! The binary's families of the metrics page: engine, log, and what the receivers write of themselves.

use std::sync::Arc;

use pyflare_connectors::{Log, Signal};
use pyflare_dataflows::Engine;
use pyflare_otlp::ReceiverHandle;
use pyflare_rest::{Family, MetricKind, MetricsSource};

pub struct ServerMetrics {
    pub engine: Engine,
    pub receivers: ReceiverHandle,
    pub log: Arc<dyn Log>,
}

impl MetricsSource for ServerMetrics {
    fn families(&self) -> Vec<Family> {
        let status = self.engine.status();
        let mut rows = Family::new(
            MetricKind::Counter,
            "pyflare_rows_admitted_total",
            "Rows admitted, by stream",
        );
        for signal in Signal::ALL {
            rows = rows.with(
                &[("stream", signal.stream().unwrap_or("user_streams"))],
                status.rows[signal as usize] as f64,
            );
        }
        let mut families = vec![
            rows,
            Family::counter(
                "pyflare_requests_admitted_total",
                "Requests admitted",
                status.requests,
            ),
            Family::counter(
                "pyflare_duplicate_requests_total",
                "Requests sent again and counted once",
                status.duplicate_requests,
            ),
            Family::counter(
                "pyflare_rejected_rows_total",
                "Rows rejected while decoding",
                status.rejected_rows,
            ),
            Family::counter(
                "pyflare_failed_requests_total",
                "Requests that could not be decoded",
                status.failed_requests,
            ),
            Family::counter(
                "pyflare_admitted_bytes_total",
                "Bytes of admitted requests",
                status.admitted_bytes,
            ),
            Family::counter(
                "pyflare_stored_rows_total",
                "Stream rows written to the store",
                status.flushed_rows,
            ),
            Family::gauge(
                "pyflare_tick_seconds",
                "The newest tick, seconds since 1970",
                status.tick as f64 / 1e3,
            ),
            Family::gauge(
                "pyflare_last_tick_duration_seconds",
                "How long the last tick took",
                status.last_tick_micros as f64 / 1e6,
            ),
            Family::gauge(
                "pyflare_lag_seconds",
                "How far admission is behind the log",
                status.lag_ms as f64 / 1e3,
            ),
            Family::gauge(
                "pyflare_tail_bytes",
                "Bytes of rows that are not in the store yet",
                status.tail_bytes as f64,
            ),
            Family::gauge("pyflare_views", "Installed views", status.views as f64),
            Family::gauge("pyflare_workers", "Dataflow workers", status.workers as f64),
        ];
        // A log in Kafka is on the brokers' disks.
        if let Some((log_bytes, log_cap)) = self.log.usage() {
            families.extend([
                Family::gauge("pyflare_log_bytes", "Bytes of the log on disk", log_bytes as f64),
                Family::gauge(
                    "pyflare_log_cap_bytes",
                    "Bytes beyond which the log refuses data",
                    log_cap as f64,
                ),
            ]);
        }
        if let Some(checkpoint) = self.engine.checkpoint_status() {
            families.extend([
                Family::gauge(
                    "pyflare_checkpoint_tick_seconds",
                    "The tick at which the newest checkpoint stands, seconds since 1970",
                    checkpoint.tick as f64 / 1e3,
                ),
                Family::gauge(
                    "pyflare_checkpoint_bytes",
                    "Bytes of the newest checkpoint's files",
                    checkpoint.bytes as f64,
                ),
                Family::gauge(
                    "pyflare_checkpoint_rows",
                    "Groups and entries in the newest checkpoint",
                    checkpoint.rows as f64,
                ),
                Family::gauge(
                    "pyflare_checkpoint_duration_seconds",
                    "How long the newest checkpoint took from its tick until it was durable",
                    checkpoint.took.as_secs_f64(),
                ),
                Family::gauge(
                    "pyflare_checkpoint_failing",
                    "1 while the last attempt at a checkpoint has failed",
                    f64::from(u8::from(checkpoint.failure.is_some())),
                ),
            ]);
        }
        families.extend(self.topics());
        let mut late = Family::new(
            MetricKind::Counter,
            "pyflare_view_late_rows_total",
            "Rows left out of a view because their pane had expired",
        );
        let mut errors = Family::new(
            MetricKind::Counter,
            "pyflare_view_error_rows_total",
            "Rows left out of a view because an expression failed",
        );
        let mut size = Family::new(MetricKind::Gauge, "pyflare_view_rows", "Rows in a view");
        for view in self.engine.views() {
            let project = view.name.project.clone().unwrap_or_default();
            let labels = [("view", view.name.name.as_str()), ("project", project.as_str())];
            late = late.with(&labels, view.late_rows as f64);
            errors = errors.with(&labels, view.errors as f64);
            size = size.with(&labels, view.rows as f64);
        }
        families.extend([late, errors, size]);
        families
    }

    fn write_text(&self, out: &mut String) {
        self.receivers.metrics().write_prometheus(out);
    }
}

impl ServerMetrics {
    /// The streams that read topics of others.
    fn topics(&self) -> [Family; 3] {
        let mut waiting = Family::new(
            MetricKind::Gauge,
            "pyflare_stream_waiting_messages",
            "Messages of a stream's topic that are not admitted yet",
        );
        let mut failing = Family::new(
            MetricKind::Gauge,
            "pyflare_stream_failing",
            "1 while a stream's topic cannot be read",
        );
        let mut unreadable = Family::new(
            MetricKind::Counter,
            "pyflare_stream_unreadable_messages_total",
            "Messages of a stream's topic of which nothing could be read",
        );
        let streams = self.engine.streams();
        for stream in streams.iter().filter(|stream| stream.definition.topic.is_some()) {
            let project = stream.name.project.clone().unwrap_or_default();
            let labels = [
                ("stream", stream.name.name.as_str()),
                ("project", project.as_str()),
            ];
            waiting = waiting.with(&labels, stream.waiting_messages as f64);
            failing = failing.with(&labels, f64::from(u8::from(stream.trouble.is_some())));
            unreadable = unreadable.with(&labels, stream.unreadable_messages as f64);
        }
        [waiting, failing, unreadable]
    }
}
