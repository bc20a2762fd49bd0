//! Counters of the receivers, by signal and transport.

use std::array;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use pyflare_connectors::Signal;

use crate::refusal::{Reason, Refusal};

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Grpc,
    Http,
}

impl Transport {
    pub const ALL: [Transport; 2] = [Transport::Grpc, Transport::Http];

    /// The metric label.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Grpc => "grpc",
            Transport::Http => "http",
        }
    }
}

#[derive(Debug, Default)]
struct Cell {
    requests: AtomicU64,
    rows: AtomicU64,
    bytes: AtomicU64,
    rejected_rows: AtomicU64,
    refused: [AtomicU64; Reason::ALL.len()],
}

/// The counters themselves. Everything is relaxed: each is exact, together they are a moment's blur.
#[derive(Debug)]
pub(crate) struct Counters {
    cells: [[Cell; 2]; 3],
    pub connections: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            cells: array::from_fn(|_| array::from_fn(|_| Cell::default())),
            connections: AtomicU64::new(0),
        }
    }
}

impl Counters {
    fn cell(&self, signal: Signal, transport: Transport) -> &Cell {
        let signal = match signal {
            Signal::Traces => 0,
            Signal::Metrics => 1,
            Signal::Logs => 2,
            Signal::Streams => unreachable!("invariant: the receivers take OTLP"),
        };
        &self.cells[signal][usize::from(transport == Transport::Http)]
    }

    pub(crate) fn accepted(
        &self,
        signal: Signal,
        transport: Transport,
        rows: u64,
        bytes: u64,
        rejected: u64,
    ) {
        let cell = self.cell(signal, transport);
        cell.requests.fetch_add(1, Ordering::Relaxed);
        cell.rows.fetch_add(rows, Ordering::Relaxed);
        cell.bytes.fetch_add(bytes, Ordering::Relaxed);
        cell.rejected_rows.fetch_add(rejected, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self, signal: Signal, transport: Transport, refusal: &Refusal) {
        let reason = refusal.reason();
        let at = Reason::ALL.iter().position(|known| *known == reason);
        if let Some(at) = at {
            self.cell(signal, transport).refused[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self, in_flight_bytes: u64) -> ReceiverMetrics {
        let mut series = Vec::with_capacity(6);
        for signal in Signal::OTLP {
            for transport in Transport::ALL {
                let cell = self.cell(signal, transport);
                series.push(Series {
                    signal,
                    transport,
                    requests: cell.requests.load(Ordering::Relaxed),
                    rows: cell.rows.load(Ordering::Relaxed),
                    bytes: cell.bytes.load(Ordering::Relaxed),
                    rejected_rows: cell.rejected_rows.load(Ordering::Relaxed),
                    refused: array::from_fn(|at| (Reason::ALL[at], cell.refused[at].load(Ordering::Relaxed))),
                });
            }
        }
        ReceiverMetrics {
            series,
            in_flight_bytes,
            connections: self.connections.load(Ordering::Relaxed),
        }
    }
}

/// The counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverMetrics {
    pub series: Vec<Series>,
    /// Bytes of bodies in progress.
    pub in_flight_bytes: u64,
    /// Open connections.
    pub connections: u64,
}

/// What came in of one signal over one transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    pub signal: Signal,
    pub transport: Transport,
    /// Requests acknowledged.
    pub requests: u64,
    /// Rows in them that were accepted.
    pub rows: u64,
    /// Their bodies' decompressed bytes.
    pub bytes: u64,
    /// Rows in them that were rejected (partial success).
    pub rejected_rows: u64,
    /// Requests refused, by reason.
    pub refused: [(Reason, u64); Reason::ALL.len()],
}

impl ReceiverMetrics {
    /// Appends the counters as Prometheus text.
    pub fn write_prometheus(&self, out: &mut String) {
        type Reading = fn(&Series) -> u64;
        let counters: [(&str, &str, Reading); 4] = [
            ("requests_total", "OTLP requests acknowledged", |series| {
                series.requests
            }),
            (
                "rows_total",
                "Spans, data points and log records accepted",
                |series| series.rows,
            ),
            (
                "bytes_total",
                "Decompressed bytes of acknowledged requests",
                |series| series.bytes,
            ),
            (
                "rejected_rows_total",
                "Rows rejected in acknowledged requests",
                |series| series.rejected_rows,
            ),
        ];
        // Writing to a String cannot fail.
        for (name, help, reading) in counters {
            let _ = writeln!(
                out,
                "# HELP pyflare_otlp_{name} {help}.\n# TYPE pyflare_otlp_{name} counter"
            );
            for series in &self.series {
                let (signal, transport) = (series.signal, series.transport.name());
                let value = reading(series);
                let _ = writeln!(
                    out,
                    "pyflare_otlp_{name}{{signal=\"{signal}\",transport=\"{transport}\"}} {value}"
                );
            }
        }
        let name = "pyflare_otlp_refused_requests_total";
        let _ = writeln!(
            out,
            "# HELP {name} OTLP requests refused, by reason.\n# TYPE {name} counter"
        );
        for series in &self.series {
            let (signal, transport) = (series.signal, series.transport.name());
            for (reason, value) in series.refused {
                let reason = reason.name();
                let _ = writeln!(
                    out,
                    "{name}{{signal=\"{signal}\",transport=\"{transport}\",reason=\"{reason}\"}} {value}"
                );
            }
        }
        for (name, help, value) in [
            (
                "pyflare_otlp_in_flight_bytes",
                "Bytes of OTLP bodies in progress",
                self.in_flight_bytes,
            ),
            (
                "pyflare_otlp_connections",
                "Open OTLP connections",
                self.connections,
            ),
        ] {
            let _ = writeln!(out, "# HELP {name} {help}.\n# TYPE {name} gauge\n{name} {value}");
        }
    }

    /// The series of a signal and transport.
    pub fn of(&self, signal: Signal, transport: Transport) -> Option<&Series> {
        self.series
            .iter()
            .find(|series| series.signal == signal && series.transport == transport)
    }
}
