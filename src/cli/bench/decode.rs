//! OTLP bytes into Arrow against a full `prost` decode, both in this process with its allocator, on one thread.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use pyflare_operators::corpus::{Generator, Traffic};
use pyflare_operators::decode::{BodyEncoding, Decoder, Origin, OtlpSignal};

use super::{Figure, REAL, SMALL, Target, figure};

const SPANS: usize = 500;
const REQUESTS: usize = 16;
/// Requests decoded into one batch.
const BATCH: usize = 4;

const ORIGIN: Origin<'static> = Origin {
    project: "default",
    received_us: 1_790_000_000_000_000,
    tick: 1_800_000_000_000,
    mark_us: Some(1_790_000_000_000_000),
    partition: 0,
    offset: 7,
};

pub fn measure(seconds: f64) -> Vec<Figure> {
    let small = bodies(false, Generator::small_request);
    let shuffled = bodies(true, Generator::small_request);
    let real = bodies(false, Generator::real_request);
    let each = Duration::from_secs_f64(seconds / 3.0);
    let mut figures = Vec::new();
    for (name, bodies, ratio, bytes_rate, corpus) in [
        ("small", &small, Target::AtLeast(4.0), Target::None, SMALL),
        (
            "shuffled",
            &shuffled,
            Target::AtLeast(2.0),
            Target::None,
            "small, attributes in random order",
        ),
        ("real", &real, Target::None, Target::AtLeast(1.5), REAL),
    ] {
        let (ours, prost) = alternate(bodies, each);
        let spans = (SPANS * bodies.len()) as f64;
        let bytes: usize = bodies.iter().map(Bytes::len).sum();
        figures.push(figure(
            format!("decode {name}"),
            spans / ours,
            "spans/s",
            Target::None,
            corpus,
        ));
        figures.push(figure(
            format!("decode {name}, bytes"),
            bytes as f64 / ours / 1e9,
            "GB/s",
            bytes_rate,
            corpus,
        ));
        figures.push(figure(
            format!("decode {name} / prost"),
            prost / ours,
            "×",
            ratio,
            corpus,
        ));
    }
    figures
}

fn bodies(shuffled: bool, make: fn(&mut Generator, usize) -> Vec<u8>) -> Vec<Bytes> {
    let mut generator = Generator::new(
        7,
        Traffic {
            shuffled,
            ..Traffic::default()
        },
    );
    (0..REQUESTS)
        .map(|_| Bytes::from(make(&mut generator, SPANS)))
        .collect()
}

/// The best seconds of each side from alternating rounds.
fn alternate(bodies: &[Bytes], time: Duration) -> (f64, f64) {
    let mut decoder = Decoder::new(OtlpSignal::Traces);
    let (mut ours, mut prost) = (f64::INFINITY, f64::INFINITY);
    let begin = Instant::now();
    while begin.elapsed() < time || prost.is_infinite() {
        let round = Instant::now();
        for (number, body) in bodies.iter().enumerate() {
            decoder
                .decode(&ORIGIN, BodyEncoding::Protobuf, body)
                .expect("invariant: the corpus is valid OTLP");
            if (number + 1) % BATCH == 0 {
                black_box(
                    decoder
                        .finish()
                        .expect("invariant: rows of one schema make a batch"),
                );
            }
        }
        ours = ours.min(round.elapsed().as_secs_f64());
        let round = Instant::now();
        for body in bodies {
            black_box(
                ExportTraceServiceRequest::decode(&body[..]).expect("invariant: the corpus is valid OTLP"),
            );
        }
        prost = prost.min(round.elapsed().as_secs_f64());
    }
    (ours, prost)
}
