//! A metric into rows of the stream `metrics`, one for each data point.
//!
//! The points of the five types number their fields differently, so a row keeps its attributes and exemplars
//! in one form of its own: a message with the attributes in field 1 and the exemplars in field 2.
use smallvec::SmallVec;

use super::aliases::AliasTable;
use super::columns::Columns;
use super::error::WireError;
use super::otlp;
use super::request::{Clock, ITEM_DEPTH, Rows, Shared};
use super::row::RowBuilder;
use super::select::Object;
use super::spans::saturated;
use super::text::{Body, inline_view};
use super::value::{Pieces, each_field, separate, write_display, write_double};
use super::wire::{self, FIXED64, LENGTH};
use crate::fields::{METRICS, ordinal};

const NAME: usize = ordinal(METRICS, "metric_name");
const TYPE: usize = ordinal(METRICS, "metric_type");
const UNIT: usize = ordinal(METRICS, "unit");
const DESCRIPTION: usize = ordinal(METRICS, "description");
const TEMPORALITY: usize = ordinal(METRICS, "temporality");
const MONOTONIC: usize = ordinal(METRICS, "is_monotonic");
const EVENT_TIME: usize = ordinal(METRICS, "event_time");
const TIME: usize = ordinal(METRICS, "time");
const START_TIME: usize = ordinal(METRICS, "start_time");
const TIME_NANO: usize = ordinal(METRICS, "time_unix_nano");
const VALUE: usize = ordinal(METRICS, "value");
const VALUE_INT: usize = ordinal(METRICS, "value_int");
const COUNT: usize = ordinal(METRICS, "count");
const SUM: usize = ordinal(METRICS, "sum");
const MIN: usize = ordinal(METRICS, "min");
const MAX: usize = ordinal(METRICS, "max");
const BUCKETS: usize = ordinal(METRICS, "buckets");
const QUANTILES: usize = ordinal(METRICS, "quantiles");
const ATTRIBUTES: usize = ordinal(METRICS, "attributes");
const RESOURCE: usize = ordinal(METRICS, "resource");
const EXEMPLARS: usize = ordinal(METRICS, "exemplars");
const FLAGS: usize = ordinal(METRICS, "flags");
const ROW: usize = ordinal(METRICS, "_row");

/// Columns that stay raw bytes in memory.
pub(crate) const RAW: u64 = 1 << ATTRIBUTES | 1 << RESOURCE | 1 << EXEMPLARS;
const OWN_BYTES: u64 = 1 << ATTRIBUTES | 1 << EXEMPLARS;
/// Level of a point's attributes: request, resource, scope, metric, data, point.
const PAIR_DEPTH: u32 = ITEM_DEPTH + 3;

/// Type of a metric: the field of its `oneof`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Gauge,
    Sum,
    Histogram,
    Exponential,
    Summary,
}

impl Type {
    fn of_tag(tag: u32) -> Option<Type> {
        match tag {
            0x2a => Some(Type::Gauge),
            0x3a => Some(Type::Sum),
            0x4a => Some(Type::Histogram),
            0x52 => Some(Type::Exponential),
            0x5a => Some(Type::Summary),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Type::Gauge => "gauge",
            Type::Sum => "sum",
            Type::Histogram => "histogram",
            Type::Exponential => "exponential_histogram",
            Type::Summary => "summary",
        }
    }
}

/// A metric's head and its data, the last type of the `oneof` winning.
#[derive(Default)]
struct Metric<'a> {
    name: &'a [u8],
    description: &'a [u8],
    unit: &'a [u8],
    data: Option<(Type, Pieces<'a>)>,
}

impl<'a> Metric<'a> {
    fn read(mut rest: &'a [u8]) -> Result<Metric<'a>, WireError> {
        let mut metric = Metric::default();
        while !rest.is_empty() {
            let tag = wire::tag(&mut rest)?;
            match (tag, Type::of_tag(tag)) {
                (0x0a, _) => metric.name = wire::bytes(&mut rest)?,
                (0x12, _) => metric.description = wire::bytes(&mut rest)?,
                (0x1a, _) => metric.unit = wire::bytes(&mut rest)?,
                (_, Some(kind)) => {
                    let piece = wire::bytes(&mut rest)?;
                    match &mut metric.data {
                        Some((known, pieces)) if *known == kind => pieces.push(piece),
                        data => *data = Some((kind, SmallVec::from_slice(&[piece]))),
                    }
                }
                _ => wire::skip(tag & 7, &mut rest)?,
            }
        }
        Ok(metric)
    }
}

/// How many rows a metric that has passed the structural walk becomes.
pub(crate) fn points(message: &[u8]) -> Result<u64, WireError> {
    let mut points = 0;
    if let Some((_, pieces)) = Metric::read(message)?.data {
        each_field(&pieces, 0x0a, |_| {
            points += 1;
            Ok(())
        })?;
    }
    Ok(points)
}

/// Rows of the stream `metrics`.
pub(crate) struct MetricRows {
    builder: RowBuilder,
    clock: Clock,
    own: Vec<u8>,
}

/// What all types of points have, and where the rest is.
#[derive(Default)]
struct Point<'a> {
    start: u64,
    time: u64,
    flags: u64,
    double: Option<f64>,
    int: Option<i64>,
    count: Option<u64>,
    sum: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    counts: Vec<u64>,
    bounds: Vec<f64>,
    quantiles: Vec<&'a [u8]>,
    scale: u64,
    zero_count: u64,
    zero_threshold: f64,
    positive: Pieces<'a>,
    negative: Pieces<'a>,
}

impl MetricRows {
    pub(crate) fn new() -> MetricRows {
        MetricRows {
            builder: RowBuilder::new(Columns::new(METRICS, RAW, OWN_BYTES), AliasTable::metrics()),
            clock: Clock::default(),
            own: Vec::new(),
        }
    }

    /// Reads the attributes a row kept, without making a row.
    pub(crate) fn read_own(&mut self, own: &[u8]) -> Result<(), WireError> {
        self.builder.start();
        let body = Body { base: own, buffer: 0 };
        each_field(&[own], 0x0a, |pair| {
            self.builder.attribute(body, pair, PAIR_DEPTH)
        })
    }

    fn point(
        &mut self,
        body: Body<'_>,
        metric: &Metric<'_>,
        kind: Type,
        shape: (u64, u64),
        message: &[u8],
    ) -> Result<(), WireError> {
        let number = self.clock.next_row();
        self.builder.start();
        self.own.clear();
        let mut point = Point::default();
        let mut exemplars = false;
        let mut rest = message;
        while !rest.is_empty() {
            let tag = wire::tag(&mut rest)?;
            match (kind, tag) {
                (Type::Gauge | Type::Sum | Type::Summary, 0x3a)
                | (Type::Histogram, 0x4a)
                | (Type::Exponential, 0x0a) => {
                    let pair = wire::bytes(&mut rest)?;
                    self.builder.attribute(body, pair, PAIR_DEPTH)?;
                    wire::put_bytes(&mut self.own, 1, pair);
                }
                (Type::Gauge | Type::Sum, 0x2a) | (Type::Histogram, 0x42) | (Type::Exponential, 0x5a) => {
                    wire::put_bytes(&mut self.own, 2, wire::bytes(&mut rest)?);
                    exemplars = true;
                }
                _ => point.read(kind, tag, &mut rest)?,
            }
        }
        let event_time = self.clock.event_time(&[point.time]);
        let builder = &mut self.builder;
        for (column, text) in [(UNIT, metric.unit), (DESCRIPTION, metric.description)] {
            if !text.is_empty() {
                let view = builder.text.view(body, text);
                builder.set_view(column, view);
            }
        }
        if matches!(kind, Type::Sum | Type::Histogram | Type::Exponential) && matches!(shape.0, 1 | 2) {
            builder.set_view(
                TEMPORALITY,
                if shape.0 == 1 {
                    inline_view("delta")
                } else {
                    inline_view("cumulative")
                },
            );
        }
        if kind == Type::Sum {
            builder.set_int(MONOTONIC, i64::from(shape.1 != 0));
        }
        for (column, nanos) in [(TIME, point.time), (START_TIME, point.start)] {
            if nanos != 0 {
                builder.set_int(column, saturated(nanos) / 1000);
            }
        }
        point.fill(builder, kind)?;
        if exemplars {
            builder.mask |= 1 << EXEMPLARS;
        }
        let name = builder.text.view(body, metric.name);
        let kind_name = builder.text.own(kind.name());
        let own = builder.text.own_raw(&self.own);
        let columns = &mut builder.columns;
        columns.set_wide(NAME, name);
        columns.set_wide(TYPE, kind_name);
        columns.set_narrow(EVENT_TIME, event_time);
        columns.set_narrow(TIME_NANO, saturated(point.time));
        columns.set_wide(ATTRIBUTES, own);
        columns.set_narrow(FLAGS, i64::from(point.flags as u32));
        columns.set_narrow(ROW, number);
        columns.close_row(builder.mask);
        Ok(())
    }
}

impl<'a> Point<'a> {
    fn read(&mut self, kind: Type, tag: u32, rest: &mut &'a [u8]) -> Result<(), WireError> {
        let double = |rest: &mut &'a [u8]| wire::fixed64(rest).map(f64::from_bits);
        let numbers = matches!(kind, Type::Gauge | Type::Sum);
        let histogram = kind == Type::Histogram;
        let exponential = kind == Type::Exponential;
        match tag {
            0x11 => self.start = wire::fixed64(rest)?,
            0x19 => self.time = wire::fixed64(rest)?,
            0x21 if numbers => (self.double, self.int) = (Some(double(rest)?), None),
            0x31 if numbers => (self.double, self.int) = (None, Some(wire::fixed64(rest)? as i64)),
            0x40 if numbers || kind == Type::Summary => self.flags = wire::varint(rest)?,
            0x50 if histogram || exponential => self.flags = wire::varint(rest)?,
            0x21 => self.count = Some(wire::fixed64(rest)?),
            0x29 if !numbers => self.sum = Some(double(rest)?),
            0x31 | 0x32 if histogram => repeated(tag, rest, &mut self.counts, |bits| bits)?,
            0x39 | 0x3a if histogram => repeated(tag, rest, &mut self.bounds, f64::from_bits)?,
            0x59 if histogram => self.min = Some(double(rest)?),
            0x61 if histogram => self.max = Some(double(rest)?),
            0x61 if exponential => self.min = Some(double(rest)?),
            0x69 if exponential => self.max = Some(double(rest)?),
            0x30 if exponential => self.scale = wire::varint(rest)?,
            0x39 if exponential => self.zero_count = wire::fixed64(rest)?,
            0x71 if exponential => self.zero_threshold = double(rest)?,
            0x42 if exponential => self.positive.push(wire::bytes(rest)?),
            0x4a if exponential => self.negative.push(wire::bytes(rest)?),
            0x32 if kind == Type::Summary => self.quantiles.push(wire::bytes(rest)?),
            _ => wire::skip(tag & 7, rest)?,
        }
        Ok(())
    }

    fn fill(&self, builder: &mut RowBuilder, kind: Type) -> Result<(), WireError> {
        let double = |builder: &mut RowBuilder, column: usize, value: Option<f64>| {
            if let Some(value) = value {
                builder.columns.set_double(column, value);
                builder.mask |= 1 << column;
            }
        };
        if let Some(int) = self.int {
            builder.set_int(VALUE_INT, int);
        }
        double(builder, VALUE, self.double.or(self.int.map(|int| int as f64)));
        if matches!(kind, Type::Gauge | Type::Sum) {
            return Ok(());
        }
        builder.set_int(COUNT, saturated(self.count.unwrap_or(0)));
        let sum = if kind == Type::Summary {
            Some(self.sum.unwrap_or(0.0))
        } else {
            self.sum
        };
        double(builder, SUM, sum);
        double(builder, MIN, self.min);
        double(builder, MAX, self.max);
        let mut json = Vec::new();
        let column = match kind {
            Type::Histogram => {
                let mut object = Object::new(&mut json);
                write_list(object.member("bounds"), &self.bounds, |out, bound| {
                    write_double(out, *bound)
                });
                write_list(object.member("counts"), &self.counts, |out, count| {
                    write_display(out, count)
                });
                object.close();
                BUCKETS
            }
            Type::Exponential => {
                self.write_exponential(&mut json)?;
                BUCKETS
            }
            _ => {
                let mut first = true;
                json.push(b'[');
                for quantile in &self.quantiles {
                    separate(&mut json, &mut first);
                    write_quantile(&mut json, quantile)?;
                }
                json.push(b']');
                QUANTILES
            }
        };
        let view = builder.text.own(&String::from_utf8_lossy(&json));
        builder.set_view(column, view);
        Ok(())
    }

    fn write_exponential(&self, json: &mut Vec<u8>) -> Result<(), WireError> {
        let mut object = Object::new(json);
        write_display(object.member("scale"), zigzag(self.scale));
        write_display(object.member("zero_count"), self.zero_count);
        write_double(object.member("zero_threshold"), self.zero_threshold);
        for (name, pieces) in [("positive", &self.positive), ("negative", &self.negative)] {
            let (mut offset, mut counts) = (0, Vec::new());
            for piece in pieces {
                let mut rest = *piece;
                while !rest.is_empty() {
                    let tag = wire::tag(&mut rest)?;
                    match tag {
                        0x08 => offset = wire::varint(&mut rest)?,
                        0x10 => counts.push(wire::varint(&mut rest)?),
                        0x12 => {
                            let mut packed = wire::bytes(&mut rest)?;
                            while !packed.is_empty() {
                                counts.push(wire::varint(&mut packed)?);
                            }
                        }
                        _ => wire::skip(tag & 7, &mut rest)?,
                    }
                }
            }
            let mut inner = Object::new(object.member(name));
            write_display(inner.member("offset"), zigzag(offset));
            write_list(inner.member("counts"), &counts, |out, count| {
                write_display(out, count)
            });
            inner.close();
        }
        object.close();
        Ok(())
    }
}

fn repeated<T>(
    tag: u32,
    rest: &mut &[u8],
    values: &mut Vec<T>,
    read: impl Fn(u64) -> T,
) -> Result<(), WireError> {
    if tag & 7 == FIXED64 {
        values.push(read(wire::fixed64(rest)?));
        return Ok(());
    }
    debug_assert_eq!(tag & 7, LENGTH);
    let mut packed = wire::bytes(rest)?;
    while !packed.is_empty() {
        values.push(read(wire::fixed64(&mut packed)?));
    }
    Ok(())
}

fn zigzag(varint: u64) -> i32 {
    let bits = varint as u32;
    (bits >> 1) as i32 ^ -((bits & 1) as i32)
}

fn write_list<T>(out: &mut Vec<u8>, values: &[T], write: fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    let mut first = true;
    for value in values {
        separate(out, &mut first);
        write(out, value);
    }
    out.push(b']');
}

fn write_quantile(out: &mut Vec<u8>, mut rest: &[u8]) -> Result<(), WireError> {
    let (mut quantile, mut value) = (0.0, 0.0);
    while !rest.is_empty() {
        let tag = wire::tag(&mut rest)?;
        match tag {
            0x09 => quantile = f64::from_bits(wire::fixed64(&mut rest)?),
            0x11 => value = f64::from_bits(wire::fixed64(&mut rest)?),
            _ => wire::skip(tag & 7, &mut rest)?,
        }
    }
    let mut object = Object::new(out);
    write_double(object.member("quantile"), quantile);
    write_double(object.member("value"), value);
    object.close();
    Ok(())
}

impl Rows for MetricRows {
    fn item(&mut self, body: Body<'_>, message: &[u8]) -> Result<(), WireError> {
        otlp::check(&otlp::METRIC, message, ITEM_DEPTH)?;
        let metric = Metric::read(message)?;
        let Some((kind, pieces)) = &metric.data else {
            return Ok(());
        };
        let mut shape = (0, 0);
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let tag = wire::tag(&mut rest)?;
                match tag {
                    0x10 if matches!(kind, Type::Sum | Type::Histogram | Type::Exponential) => {
                        shape.0 = wire::varint(&mut rest)?;
                    }
                    0x18 if *kind == Type::Sum => shape.1 = wire::varint(&mut rest)?,
                    _ => wire::skip(tag & 7, &mut rest)?,
                }
            }
        }
        shape.0 = u64::from(shape.0 as u32);
        each_field(pieces, 0x0a, |point| {
            self.point(body, &metric, *kind, shape, point)
        })
    }

    fn builder(&mut self) -> &mut RowBuilder {
        &mut self.builder
    }

    fn built(&self) -> &RowBuilder {
        &self.builder
    }

    fn clock(&mut self) -> &mut Clock {
        &mut self.clock
    }

    fn shared(&self) -> Shared {
        const SHARED: Shared = Shared::of(METRICS);
        SHARED
    }
}
