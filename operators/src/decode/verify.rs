//! The structural check at the door: the walk of decoding, without output.
use super::error::{DecodeError, WireError};
use super::otlp;
use super::request::ITEM_DEPTH;
use super::spans::ids;
use super::wire;
use super::{BodyEncoding, MAX_BODY, OtlpSignal, Rejection, json, logs, metrics};

/// What a body would come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Rows that decoding will add.
    pub rows: u64,
    /// Rows that decoding will reject.
    pub rejected: u64,
    /// Why the first of them is rejected.
    pub reason: Option<String>,
}

/// Checks a body as decoding would: an error for a body that is not a valid message, counted rejections for
/// rows without valid ids (OTLP's partial success).
pub fn check(signal: OtlpSignal, encoding: BodyEncoding, body: &[u8]) -> Result<Checked, DecodeError> {
    if body.len() > MAX_BODY {
        return Err(DecodeError::TooLarge {
            bytes: body.len(),
            limit: MAX_BODY,
        });
    }
    let transcoded;
    let body = match encoding {
        BodyEncoding::Protobuf => body,
        BodyEncoding::Json => {
            transcoded = json::transcode(signal.message(), body)?;
            &transcoded
        }
    };
    let mut tally = Tally::default();
    walk(signal, body, &mut tally).map_err(|cause| DecodeError::Malformed {
        message: signal.request(),
        cause,
    })?;
    Ok(Checked {
        rows: tally.rows,
        rejected: tally.rejected,
        reason: tally.reason.map(|reason| reason.to_string()),
    })
}

#[derive(Default)]
struct Tally {
    rows: u64,
    rejected: u64,
    reason: Option<Rejection>,
}

impl Tally {
    fn count(&mut self, row: Result<(), Rejection>) {
        match row {
            Ok(()) => self.rows += 1,
            Err(reason) => {
                self.rejected += 1;
                self.reason.get_or_insert(reason);
            }
        }
    }
}

fn walk(signal: OtlpSignal, mut request: &[u8], tally: &mut Tally) -> Result<(), WireError> {
    while !request.is_empty() {
        match wire::tag(&mut request)? {
            0x0a => walk_resource(signal, wire::bytes(&mut request)?, tally)?,
            other => wire::other(other, &[1], &mut request)?,
        }
    }
    Ok(())
}

fn walk_resource(signal: OtlpSignal, mut rest: &[u8], tally: &mut Tally) -> Result<(), WireError> {
    while !rest.is_empty() {
        match wire::tag(&mut rest)? {
            0x0a => otlp::check(&otlp::RESOURCE, wire::bytes(&mut rest)?, 2)?,
            0x12 => walk_scope(signal, wire::bytes(&mut rest)?, tally)?,
            0x1a => drop(wire::bytes(&mut rest)?),
            other => wire::other(other, &[1, 2, 3], &mut rest)?,
        }
    }
    Ok(())
}

fn walk_scope(signal: OtlpSignal, mut rest: &[u8], tally: &mut Tally) -> Result<(), WireError> {
    while !rest.is_empty() {
        match wire::tag(&mut rest)? {
            0x12 => {
                let item = wire::bytes(&mut rest)?;
                match signal {
                    OtlpSignal::Traces => walk_span(item, tally)?,
                    OtlpSignal::Metrics => {
                        otlp::check(&otlp::METRIC, item, ITEM_DEPTH)?;
                        tally.rows += metrics::points(item)?;
                    }
                    OtlpSignal::Logs => walk_log(item, tally)?,
                }
            }
            0x0a => otlp::check(&otlp::SCOPE, wire::bytes(&mut rest)?, 3)?,
            0x1a => drop(wire::bytes(&mut rest)?),
            other => wire::other(other, &[1, 2, 3], &mut rest)?,
        }
    }
    Ok(())
}

fn walk_span(mut rest: &[u8], tally: &mut Tally) -> Result<(), WireError> {
    let (mut trace, mut span, mut parent): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
    while !rest.is_empty() {
        match wire::tag(&mut rest)? {
            0x4a => loop {
                otlp::check_key_value(wire::bytes(&mut rest)?, ITEM_DEPTH + 1)?;
                match rest {
                    [0x4a, after @ ..] => rest = after,
                    _ => break,
                }
            },
            0x0a => trace = wire::bytes(&mut rest)?,
            0x12 => span = wire::bytes(&mut rest)?,
            0x22 => parent = wire::bytes(&mut rest)?,
            other => otlp::check_field(&otlp::SPAN, other, &mut rest, ITEM_DEPTH)?,
        }
    }
    tally.count(ids(trace, span, parent).map(drop));
    Ok(())
}

fn walk_log(mut rest: &[u8], tally: &mut Tally) -> Result<(), WireError> {
    let (mut trace, mut span): (&[u8], &[u8]) = (&[], &[]);
    while !rest.is_empty() {
        match wire::tag(&mut rest)? {
            0x4a => trace = wire::bytes(&mut rest)?,
            0x52 => span = wire::bytes(&mut rest)?,
            other => otlp::check_field(&otlp::LOG_RECORD, other, &mut rest, ITEM_DEPTH)?,
        }
    }
    tally.count(logs::log_ids(trace, span));
    Ok(())
}
