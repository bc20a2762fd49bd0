//! The metrics page: Prometheus text (format 0.0.4) of what the binary measures and of the API's own traffic.
//!
//! Names begin with `pyflare_`, counters end in `_total`, units are seconds and bytes; each family is written once with
//! HELP and TYPE, whatever its source. Labels of the HTTP families are routes and never paths, so their number is
//! bounded.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use parking_lot::Mutex;
use pyflare_live::Live;

/// What a family measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

impl MetricKind {
    fn word(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        }
    }
}

/// One number.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Appended to the family's name: `_bucket`, `_sum` and `_count` of a histogram, else empty.
    pub suffix: &'static str,
    pub labels: Vec<(Cow<'static, str>, String)>,
    pub value: f64,
}

/// A family of samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    pub name: Cow<'static, str>,
    pub help: Cow<'static, str>,
    pub kind: MetricKind,
    pub samples: Vec<Sample>,
}

impl Family {
    pub fn new(kind: MetricKind, name: &'static str, help: &'static str) -> Family {
        Family {
            name: name.into(),
            help: help.into(),
            kind,
            samples: Vec::new(),
        }
    }

    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Family {
        Family::new(MetricKind::Counter, name, help).with(&[], value as f64)
    }

    pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Family {
        Family::new(MetricKind::Gauge, name, help).with(&[], value)
    }

    /// Adds a sample.
    pub fn with(mut self, labels: &[(&'static str, &str)], value: f64) -> Family {
        let labels = labels
            .iter()
            .map(|(name, text)| (Cow::Borrowed(*name), (*text).to_string()))
            .collect();
        self.samples.push(Sample {
            suffix: "",
            labels,
            value,
        });
        self
    }
}

/// Where the binary's families come from; a closure will do.
pub trait MetricsSource: Send + Sync + 'static {
    fn families(&self) -> Vec<Family>;

    /// Appends families that their own room has written as Prometheus text already; none of them is in
    /// [`families`](MetricsSource::families) too.
    fn write_text(&self, out: &mut String) {
        let _ = out;
    }
}

impl<F: Fn() -> Vec<Family> + Send + Sync + 'static> MetricsSource for F {
    fn families(&self) -> Vec<Family> {
        self()
    }
}

/// The page. Families of one name are merged; the first one's help and kind hold.
pub(crate) fn render(families: Vec<Family>) -> String {
    let mut by_name: BTreeMap<String, Family> = BTreeMap::new();
    for mut family in families {
        match by_name.get_mut(family.name.as_ref()) {
            Some(known) => known.samples.append(&mut family.samples),
            None => {
                by_name.insert(family.name.to_string(), family);
            }
        }
    }
    let mut out = String::new();
    for (name, family) in &by_name {
        let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {}", family.kind.word());
        for sample in &family.samples {
            let _ = write!(out, "{name}{}", sample.suffix);
            for (index, (label, value)) in sample.labels.iter().enumerate() {
                let value = value
                    .replace('\\', "\\\\")
                    .replace('"', "\\\"")
                    .replace('\n', "\\n");
                let _ = write!(out, "{}{label}=\"{value}\"", if index == 0 { '{' } else { ',' });
            }
            out.push_str(if sample.labels.is_empty() { " " } else { "} " });
            write_value(&mut out, sample.value);
            out.push('\n');
        }
    }
    out
}

fn write_value(out: &mut String, value: f64) {
    let _ = if value.is_nan() {
        write!(out, "NaN")
    } else if value.is_infinite() {
        write!(out, "{}Inf", if value > 0.0 { '+' } else { '-' })
    } else {
        write!(out, "{value}")
    };
}

/// Upper bounds of the latency histogram, in seconds.
const BOUNDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// The API's own traffic.
#[derive(Default)]
pub(crate) struct HttpMetrics {
    routes: Mutex<BTreeMap<(String, String), Route>>,
}

#[derive(Default)]
struct Route {
    by_status: BTreeMap<u16, u64>,
    buckets: [u64; BOUNDS.len()],
    seconds: f64,
}

impl HttpMetrics {
    pub fn record(&self, route: &str, method: &str, status: u16, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let mut routes = self.routes.lock();
        let entry = routes.entry((route.to_string(), method.to_string())).or_default();
        *entry.by_status.entry(status).or_default() += 1;
        entry.seconds += seconds;
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            entry.buckets[bucket] += 1;
        }
    }

    pub fn families(&self) -> Vec<Family> {
        let mut requests = Family::new(
            MetricKind::Counter,
            "pyflare_http_requests_total",
            "Requests answered by the API.",
        );
        let mut seconds = Family::new(
            MetricKind::Histogram,
            "pyflare_http_request_duration_seconds",
            "Time from a request's head to its answer's head.",
        );
        for ((route, method), entry) in self.routes.lock().iter() {
            for (status, count) in &entry.by_status {
                let status = status.to_string();
                requests = requests.with(
                    &[("route", route), ("method", method), ("status", &status)],
                    *count as f64,
                );
            }
            let mut sample = |suffix, bound: Option<String>, value: f64| {
                let mut labels: Vec<(Cow<'static, str>, String)> =
                    vec![("route".into(), route.clone()), ("method".into(), method.clone())];
                labels.extend(bound.map(|bound| (Cow::Borrowed("le"), bound)));
                seconds.samples.push(Sample {
                    suffix,
                    labels,
                    value,
                });
            };
            let mut below = 0;
            for (bound, count) in BOUNDS.iter().zip(entry.buckets) {
                below += count;
                sample("_bucket", Some(bound.to_string()), below as f64);
            }
            let all: u64 = entry.by_status.values().sum();
            sample("_bucket", Some("+Inf".to_string()), all as f64);
            sample("_sum", None, entry.seconds);
            sample("_count", None, all as f64);
        }
        vec![requests, seconds]
    }
}

/// The families of the live service.
pub(crate) fn live_families(live: &Live) -> Vec<Family> {
    use std::sync::atomic::{AtomicU64, Ordering};
    let counters = live.counters();
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    vec![
        Family::gauge(
            "pyflare_live_open_connections",
            "WebSockets that are open.",
            live.open_connections() as f64,
        ),
        Family::counter(
            "pyflare_live_connections_total",
            "WebSockets opened.",
            read(&counters.connections),
        ),
        Family::counter(
            "pyflare_live_subscriptions_total",
            "Subscriptions begun.",
            read(&counters.subscriptions),
        ),
        Family::counter(
            "pyflare_live_frames_total",
            "Frames sent.",
            read(&counters.frames),
        ),
        Family::counter(
            "pyflare_live_resets_total",
            "Frames sent that were resets.",
            read(&counters.resets),
        ),
        Family::counter(
            "pyflare_live_rows_total",
            "Rows sent in frames.",
            read(&counters.rows),
        ),
        Family::counter(
            "pyflare_live_sent_bytes_total",
            "Bytes of messages sent.",
            read(&counters.sent_bytes),
        ),
        Family::counter(
            "pyflare_live_refused_messages_total",
            "Messages of clients that were refused.",
            read(&counters.refused_messages),
        ),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn families_of_one_name_are_written_once_and_values_are_escaped() {
        let rows = || Family::new(MetricKind::Counter, "pyflare_rows_total", "Rows\nadmitted \\.");
        let text = render(vec![
            rows().with(&[("stream", "a\"\\\n")], 1.0),
            Family::gauge("pyflare_lag_seconds", "Lag.", f64::NAN),
            rows().with(&[("stream", "logs")], 1e15),
        ]);
        assert_eq!(
            text,
            "# HELP pyflare_lag_seconds Lag.\n# TYPE pyflare_lag_seconds gauge\npyflare_lag_seconds NaN\n\
             # HELP pyflare_rows_total Rows\\nadmitted \\\\.\n# TYPE pyflare_rows_total counter\n\
             pyflare_rows_total{stream=\"a\\\"\\\\\\n\"} 1\npyflare_rows_total{stream=\"logs\"} 1000000000000000\n"
        );
    }

    #[test]
    fn the_histogram_adds_up() {
        let metrics = HttpMetrics::default();
        for millis in [0, 1, 30, 99_000] {
            metrics.record("/r", "GET", 200, Duration::from_millis(millis));
        }
        metrics.record("/r", "GET", 404, Duration::from_millis(30));
        let text = render(metrics.families());
        let line = |start: &str| {
            text.lines()
                .find(|line| line.starts_with(start))
                .unwrap()
                .to_string()
        };
        let bucket = |bound: &str| {
            line(&format!(
                "pyflare_http_request_duration_seconds_bucket{{route=\"/r\",method=\"GET\",le=\"{bound}\"}}"
            ))
        };
        assert!(bucket("0.001").ends_with(" 2"), "{text}");
        assert!(
            bucket("0.05").ends_with(" 4") && bucket("10").ends_with(" 4") && bucket("+Inf").ends_with(" 5")
        );
        assert!(line("pyflare_http_request_duration_seconds_count").ends_with(" 5"));
        assert!(
            line("pyflare_http_requests_total{route=\"/r\",method=\"GET\",status=\"404\"}").ends_with(" 1")
        );
    }
}
