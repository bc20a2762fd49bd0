//! Streams that users declare: their definition, and how rows come out of a request.
//!
//! * [`StreamDefinition`] is what `CREATE STREAM` says: columns with types, which of them is the event time;
//! * [`RowDecoder`] turns request bodies (NDJSON or an Arrow IPC stream) into batches of the stream's schema. The door
//!   runs it to answer, the worker to admit: both reject the same rows, because the body is kept unchanged.
//!
//! What is refused and what is kept: a row that does not fit the declaration is rejected by its number and reason, all
//! others go on; an Arrow stream whose columns do not fit, or that is damaged, is refused whole.
mod arrow_rows;
mod cells;
mod definition;
mod json_rows;
mod rows;

pub use definition::{
    DEFAULT_TIME, MOST_COLUMNS, ORIGIN_COLUMNS, RESERVED_COLUMNS, StreamColumn, StreamDefinition,
    StreamTopic, TopicStart,
};
pub use rows::{Admitted, FUTURE_LIMIT_US, Rejected, RowDecoder, RowEncoding, StreamError};
