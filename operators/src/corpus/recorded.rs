//! The corpus *real*: spans recorded from instrumented LLM clients, made distinct as they are handed out.
//!
//! `recorded.pb` holds request bodies of five instrumentations (OpenTelemetry GenAI and OpenInference for the
//! OpenAI client, OpenInference for LangChain, Pydantic AI, Langfuse) with prompts and answers of a few hundred
//! words, one body behind the other, which is one valid request. `tests/clients/python/record_corpus.py` made it.
//!
//! Invariants: every span keeps its bytes save those that make it another one, which keep their length: trace and
//! span ids (a mask per request and lap, so that parents stay parents), start and end (durations stay), and the reference
//! number within its texts.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem;

use crate::decode::WireError;
use crate::decode::encode::put_bytes;
use crate::decode::walk::{bytes, skip, tag};

static RECORDED: LazyLock<Vec<Group>> = LazyLock::new(|| {
    groups(include_bytes!("recorded.pb")).expect("invariant: the recorded corpus is one valid request")
});

/// Stands before the digits that are replaced.
const REFERENCE: &[u8] = b"ref#";
const REFERENCE_DIGITS: usize = 12;

/// Spans that share a resource and a scope.
struct Group {
    resource: Vec<u8>,
    scope: Vec<u8>,
    spans: Vec<Span>,
}

/// A recorded span and where it is patched.
struct Span {
    bytes: Vec<u8>,
    trace_id: Option<Range<usize>>,
    /// Of the span and of its parent.
    span_ids: Vec<Range<usize>>,
    start: Option<Range<usize>>,
    end: Option<Range<usize>>,
    references: Vec<Range<usize>>,
}

/// What makes a span of a request another one.
pub(super) struct Patch {
    pub ids: u128,
    pub start_unix_nano: u64,
    pub number: u64,
}

/// Where a generator stands in the recording.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    group: usize,
    span: usize,
    /// How often the recording was gone through.
    lap: u64,
}

/// A request of the next `count` recorded spans, from the beginning again after the last; `patch` is asked for each
/// and told the lap, in which no recorded id comes twice.
pub(super) fn request(cursor: &mut Cursor, count: usize, mut patch: impl FnMut(u64) -> Patch) -> Vec<u8> {
    let groups = &*RECORDED;
    let mut request = Vec::with_capacity(count * 6_200);
    let (mut scope_spans, mut resource_spans, mut scratch) = (Vec::new(), Vec::new(), Vec::new());
    let mut left = count;
    while left > 0 {
        let group = &groups[cursor.group];
        scope_spans.clear();
        put_bytes(&mut scope_spans, 1, &group.scope);
        let taken = left.min(group.spans.len() - cursor.span);
        for span in &group.spans[cursor.span..cursor.span + taken] {
            span.write(&patch(cursor.lap), &mut scratch);
            put_bytes(&mut scope_spans, 2, &scratch);
        }
        left -= taken;
        cursor.span += taken;
        if cursor.span == group.spans.len() {
            *cursor = match cursor.group + 1 {
                next if next < groups.len() => Cursor {
                    group: next,
                    span: 0,
                    lap: cursor.lap,
                },
                _ => Cursor {
                    group: 0,
                    span: 0,
                    lap: cursor.lap + 1,
                },
            };
        }
        resource_spans.clear();
        put_bytes(&mut resource_spans, 1, &group.resource);
        put_bytes(&mut resource_spans, 2, &scope_spans);
        put_bytes(&mut request, 1, &resource_spans);
    }
    request
}

impl Span {
    fn read(recorded: &[u8]) -> Result<Span, WireError> {
        let mut span = Span {
            bytes: recorded.to_vec(),
            trace_id: None,
            span_ids: Vec::new(),
            start: None,
            end: None,
            references: Vec::new(),
        };
        let mut rest = recorded;
        while !rest.is_empty() {
            let tag = tag(&mut rest)?;
            let before = recorded.len() - rest.len();
            skip(tag & 7, &mut rest)?;
            let after = recorded.len() - rest.len();
            // The values of ids follow one byte of length.
            match (tag >> 3, after - before) {
                (1, 17) => span.trace_id = Some(before + 1..after),
                (2 | 4, 9) => span.span_ids.push(before + 1..after),
                (7, 8) => span.start = Some(before..after),
                (8, 8) => span.end = Some(before..after),
                _ => {}
            }
        }
        for found in memmem::find_iter(recorded, REFERENCE) {
            let digits = found + REFERENCE.len()..found + REFERENCE.len() + REFERENCE_DIGITS;
            if recorded
                .get(digits.clone())
                .is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
            {
                span.references.push(digits);
            }
        }
        Ok(span)
    }

    fn time(&self, at: &Range<usize>) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.bytes[at.clone()]);
        u64::from_le_bytes(word)
    }

    fn write(&self, patch: &Patch, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.bytes);
        let mask = patch.ids.to_le_bytes();
        for id in self.trace_id.iter().chain(&self.span_ids) {
            for (byte, mask) in out[id.clone()].iter_mut().zip(mask) {
                *byte ^= mask;
            }
        }
        if let (Some(start), Some(end)) = (&self.start, &self.end) {
            let duration = self.time(end).saturating_sub(self.time(start));
            out[start.clone()].copy_from_slice(&patch.start_unix_nano.to_le_bytes());
            out[end.clone()].copy_from_slice(&(patch.start_unix_nano + duration).to_le_bytes());
        }
        if self.references.is_empty() {
            return;
        }
        let mut digits = [b'0'; REFERENCE_DIGITS];
        let mut number = patch.number;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        for reference in &self.references {
            out[reference.clone()].copy_from_slice(&digits);
        }
    }
}

fn groups(mut request: &[u8]) -> Result<Vec<Group>, WireError> {
    let mut found = Vec::new();
    while let Some((number, resource_spans)) = field(&mut request)? {
        if number != 1 {
            continue;
        }
        let (mut resource, mut rest) = (Vec::new(), resource_spans);
        while let Some((number, value)) = field(&mut rest)? {
            match number {
                1 => resource = value.to_vec(),
                2 => found.push(group(resource.clone(), value)?),
                _ => {}
            }
        }
    }
    found.retain(|group| !group.spans.is_empty());
    if found.is_empty() {
        return Err(WireError::Truncated);
    }
    Ok(found)
}

fn group(resource: Vec<u8>, mut scope_spans: &[u8]) -> Result<Group, WireError> {
    let mut group = Group {
        resource,
        scope: Vec::new(),
        spans: Vec::new(),
    };
    while let Some((number, value)) = field(&mut scope_spans)? {
        match number {
            1 => group.scope = value.to_vec(),
            2 => group.spans.push(Span::read(value)?),
            _ => {}
        }
    }
    Ok(group)
}

/// The next field with bytes; others are passed over.
fn field<'a>(rest: &mut &'a [u8]) -> Result<Option<(u32, &'a [u8])>, WireError> {
    while !rest.is_empty() {
        let tag = tag(rest)?;
        if tag & 7 == 2 {
            return Ok(Some((tag >> 3, bytes(rest)?)));
        }
        skip(tag & 7, rest)?;
    }
    Ok(None)
}
