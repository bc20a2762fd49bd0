//! OTLP bytes into Arrow against a full `prost` decode, in one run with one allocator.
//!
//! `cargo bench -p pyflare-operators --bench decode` measures each case with criterion and then prints the
//! ratios, from alternating rounds so that a drifting host hits both sides alike.
use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use pyflare_operators::corpus::{Generator, Traffic};
use pyflare_operators::decode::{BodyEncoding, Decoder, Origin, OtlpSignal, check};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SPANS: usize = 500;
const REQUESTS: usize = 16;
/// Requests decoded into one batch.
const BATCH: usize = 4;

struct Case {
    name: &'static str,
    bodies: Vec<Bytes>,
    bytes: usize,
}

impl Case {
    fn new(name: &'static str, shuffled: bool, make: fn(&mut Generator, usize) -> Vec<u8>) -> Case {
        let mut generator = Generator::new(
            7,
            Traffic {
                shuffled,
                ..Traffic::default()
            },
        );
        let bodies: Vec<Bytes> = (0..REQUESTS)
            .map(|_| Bytes::from(make(&mut generator, SPANS)))
            .collect();
        let bytes = bodies.iter().map(Bytes::len).sum();
        Case { name, bodies, bytes }
    }

    fn spans(&self) -> usize {
        SPANS * self.bodies.len()
    }
}

fn decode_all(decoder: &mut Decoder, bodies: &[Bytes]) {
    let origin = Origin {
        project: "default",
        received_us: 1_790_000_000_000_000,
        tick: 1_800_000_000_000,
        mark_us: Some(1_790_000_000_000_000),
        partition: 0,
        offset: 7,
    };
    for (number, body) in bodies.iter().enumerate() {
        decoder
            .decode(&origin, BodyEncoding::Protobuf, body)
            .expect("the corpus decodes");
        if (number + 1) % BATCH == 0 {
            black_box(decoder.finish().expect("a batch"));
        }
    }
}

fn prost_all(bodies: &[Bytes]) {
    for body in bodies {
        black_box(ExportTraceServiceRequest::decode(&body[..]).expect("the corpus decodes"));
    }
}

fn check_all(bodies: &[Bytes]) {
    for body in bodies {
        black_box(check(OtlpSignal::Traces, BodyEncoding::Protobuf, body).expect("the corpus passes"));
    }
}

fn best(rounds: usize, mut run: impl FnMut()) -> Duration {
    (0..rounds)
        .map(|_| {
            let begin = Instant::now();
            run();
            begin.elapsed()
        })
        .min()
        .unwrap_or_default()
}

fn report(case: &Case) {
    let mut decoder = Decoder::new(OtlpSignal::Traces);
    let (mut ours, mut prost, mut door) = (Duration::MAX, Duration::MAX, Duration::MAX);
    for _ in 0..8 {
        ours = ours.min(best(3, || decode_all(&mut decoder, &case.bodies)));
        prost = prost.min(best(2, || prost_all(&case.bodies)));
        door = door.min(best(2, || check_all(&case.bodies)));
    }
    let per_span = |time: Duration| time.as_nanos() as f64 / case.spans() as f64;
    println!(
        "{:<16} {:>5} B/span  decode {:>6.0} ns/span {:>5.2} M spans/s {:>5.2} GB/s   prost {:>6.0} ns/span   ratio {:>4.2}   check {:>5.0} ns/span",
        case.name,
        case.bytes / case.spans(),
        per_span(ours),
        1e3 / per_span(ours),
        case.bytes as f64 / ours.as_secs_f64() / 1e9,
        per_span(prost),
        prost.as_secs_f64() / ours.as_secs_f64(),
        per_span(door),
    );
}

fn main() {
    let cases = [
        Case::new("small", false, Generator::small_request),
        Case::new("small, shuffled", true, Generator::small_request),
        Case::new("real", false, Generator::real_request),
    ];
    if !std::env::args().any(|argument| argument == "--ratios") {
        let mut criterion = Criterion::default().configure_from_args();
        for case in &cases {
            let mut group = criterion.benchmark_group(case.name);
            group.throughput(Throughput::Bytes(case.bytes as u64));
            let mut decoder = Decoder::new(OtlpSignal::Traces);
            group.bench_function("decode", |bench| {
                bench.iter(|| decode_all(&mut decoder, &case.bodies))
            });
            group.bench_function("prost", |bench| bench.iter(|| prost_all(&case.bodies)));
            group.bench_function("check", |bench| bench.iter(|| check_all(&case.bodies)));
            group.finish();
        }
        criterion.final_summary();
    }
    for case in &cases {
        report(case);
    }
}
