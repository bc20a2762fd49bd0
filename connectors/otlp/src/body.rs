//! Collecting a request body within bounds of size, memory and patience.
//!
//! A body that arrives in one piece is passed on without copying; more pieces are joined once.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use crate::in_flight::Held;
use crate::refusal::Refusal;

/// What a length that a client merely claims may reserve; beyond, memory grows with what arrives.
const TRUSTED_RESERVE: usize = 1 << 20;
/// How much of a refused HTTP/1 body is read so that the client, still writing, sees the answer.
const LINGER_BYTES: usize = 256 << 20;
const LINGER_TIME: Duration = Duration::from_secs(5);

/// The five bytes before a gRPC message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessagePrefix {
    pub compressed: bool,
    pub len: usize,
}

pub(crate) const PREFIX_BYTES: usize = 5;

impl MessagePrefix {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<MessagePrefix>, Refusal> {
        let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        if prefix[0] > 1 {
            return Err(Refusal::Framing {
                detail: "the compressed flag is neither 0 nor 1",
            });
        }
        let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        Ok(Some(MessagePrefix {
            compressed: prefix[0] == 1,
            len,
        }))
    }
}

async fn next_frame(body: &mut Incoming, idle: Duration) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        let frame = timeout(idle, frame).await.map_err(|_| Refusal::Incomplete {
            detail: format!("nothing came for {} seconds", idle.as_secs()),
        })?;
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => {
                // Trailers of a request say nothing here.
                if let Ok(data) = Frame::into_data(frame)
                    && !data.is_empty()
                {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => {
                return Err(Refusal::Incomplete {
                    detail: error.to_string(),
                });
            }
        }
    }
}

/// Reads the whole body; `framed` says that a gRPC prefix comes first and bounds it.
async fn collect(
    body: &mut Incoming,
    framed: bool,
    limit: usize,
    idle: Duration,
    held: &mut Held,
) -> Result<Bytes, Refusal> {
    let too_large = || Refusal::TooLarge { limit_bytes: limit };
    let most = if framed {
        limit.saturating_add(PREFIX_BYTES)
    } else {
        limit
    };
    let claimed = body
        .size_hint()
        .exact()
        .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if claimed.is_some_and(|bytes| bytes > most) {
        return Err(too_large());
    }
    let Some(first) = next_frame(body, idle).await? else {
        return Ok(Bytes::new());
    };
    held.grow(first.len())?;
    if first.len() > most {
        return Err(too_large());
    }
    let mut prefix = if framed {
        MessagePrefix::parse(&first)?
    } else {
        None
    };
    if prefix.is_some_and(|prefix| prefix.len > limit) {
        return Err(too_large());
    }
    if body.is_end_stream() {
        return Ok(first);
    }
    let Some(second) = next_frame(body, idle).await? else {
        return Ok(first);
    };

    let expected = prefix.map(|prefix| prefix.len + PREFIX_BYTES).or(claimed);
    let reserve = expected.unwrap_or(first.len() * 2).min(most).min(TRUSTED_RESERVE);
    let mut joined = BytesMut::with_capacity(reserve.max(first.len() + second.len()));
    joined.extend_from_slice(&first);
    drop(first);
    let mut next = Some(second);
    while let Some(chunk) = next {
        held.grow(chunk.len())?;
        if joined.len() + chunk.len() > most {
            return Err(too_large());
        }
        joined.extend_from_slice(&chunk);
        if framed && prefix.is_none() {
            prefix = MessagePrefix::parse(&joined)?;
            if prefix.is_some_and(|prefix| prefix.len > limit) {
                return Err(too_large());
            }
        }
        next = next_frame(body, idle).await?;
    }
    Ok(joined.freeze())
}

/// Reads a plain body of at most `limit` bytes.
pub(crate) async fn collect_plain(
    body: &mut Incoming,
    limit: usize,
    idle: Duration,
    held: &mut Held,
) -> Result<Bytes, Refusal> {
    collect(body, false, limit, idle, held).await
}

/// Reads the one message of a unary gRPC call, of at most `limit` bytes.
pub(crate) async fn collect_message(
    body: &mut Incoming,
    limit: usize,
    idle: Duration,
    held: &mut Held,
) -> Result<(bool, Bytes), Refusal> {
    let mut bytes = collect(body, true, limit, idle, held).await?;
    let Some(prefix) = MessagePrefix::parse(&bytes)? else {
        return Err(Refusal::Framing {
            detail: "the call has no message",
        });
    };
    bytes.advance(PREFIX_BYTES);
    match bytes.len().cmp(&prefix.len) {
        std::cmp::Ordering::Less => Err(Refusal::Framing {
            detail: "the message is shorter than its prefix says",
        }),
        std::cmp::Ordering::Greater => Err(Refusal::Framing {
            detail: "the call has more than one message",
        }),
        std::cmp::Ordering::Equal => Ok((prefix.compressed, bytes)),
    }
}

/// Reads and forgets what an HTTP/1 client is still sending: if the connection were closed with unread bytes,
/// the answer could be lost on its way.
pub(crate) async fn linger(body: &mut Incoming) {
    let until = Instant::now() + LINGER_TIME;
    let mut left = LINGER_BYTES;
    while !body.is_end_stream() && left > 0 {
        match timeout(
            until.saturating_duration_since(Instant::now()),
            next_frame(body, LINGER_TIME),
        )
        .await
        {
            Ok(Ok(Some(chunk))) => left = left.saturating_sub(chunk.len()),
            _ => return,
        }
    }
}
