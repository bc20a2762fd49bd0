//! What can be wrong with a request body, with a code and a sentence for its sender.
use thiserror::Error;

/// Why a body cannot be decoded. A rejected *row* is not an error: it is counted in [`super::Decoded`].
#[derive(Debug, Error)]
pub enum DecodeError {
    /// The protobuf wire format is broken.
    #[error(
        "PF-1101: the body is not a valid OTLP {message} message ({cause}); check that the exporter speaks \
         OTLP protobuf and that nothing on the way cuts or rewrites its bodies"
    )]
    Malformed {
        /// The OTLP request the body should have been.
        message: &'static str,
        /// What the walk met.
        cause: WireError,
    },
    /// The body is larger than a view can address.
    #[error("PF-1102: the body has {bytes} bytes, more than {limit}; send smaller batches")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The greatest length accepted.
        limit: usize,
    },
    /// The body is not JSON, or not OTLP's JSON.
    #[error(
        "PF-1103: the body is not valid OTLP/JSON: {detail}; check the exporter's encoding and Content-Type"
    )]
    Json {
        /// What the parser met, with its position.
        detail: String,
    },
    /// A batch would hold more rows than a row number can count.
    #[error("PF-1104: a batch holds at most {limit} rows; finish the batch before decoding more")]
    TooManyRows {
        /// The greatest number of rows.
        limit: usize,
    },
    /// A name that no stream or column has.
    #[error("PF-1105: {stream} has no column {column}; see the field reference for its columns")]
    NoSuchColumn {
        /// The stream asked for.
        stream: String,
        /// The column asked for.
        column: String,
    },
    /// Arrow refused an array; only possible if an invariant of this module is broken.
    #[error("PF-1106: the decoded columns do not make a batch: {0}; please report this")]
    Arrow(#[from] arrow::error::ArrowError),
}

/// What is wrong with the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// A field ends beyond its message.
    #[error("a field ends beyond its message")]
    Truncated,
    /// A varint is longer than 64 bits.
    #[error("a varint has more than 64 bits")]
    Varint,
    /// A tag with field number 0, an unknown wire type, or more than 32 bits.
    #[error("a tag is not valid")]
    Tag,
    /// A known field has another wire type than its declaration.
    #[error("a field has the wrong wire type")]
    WireType,
    /// A group, which OTLP does not have.
    #[error("it contains a group, which OTLP does not have")]
    Group,
    /// Messages are nested too deeply.
    #[error("messages are nested more than 100 levels deep")]
    TooDeep,
    /// The attributes of some rows are more text than an array can hold.
    #[error("the rows have more than 2 GiB of attributes")]
    TooMuchText,
}
