//! Maps being made: the keys and JSON texts of row after row, straight into the buffers of the array.
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, MapArray, StringArray, StructArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields};
use arrow::error::ArrowError;

use super::error::WireError;
use super::value::{Value, write_display};

/// Keys and values, each one text after the other.
pub(crate) struct Entries {
    keys: Texts,
    values: Texts,
    /// For each row the number of entries up to its end; begins with 0.
    rows: Vec<i32>,
}

struct Texts {
    bytes: Vec<u8>,
    /// Where each text ends; begins with 0.
    ends: Vec<i32>,
}

impl Entries {
    pub(crate) fn with_rows(rows: usize) -> Entries {
        let mut ends = Vec::with_capacity(rows + 1);
        ends.push(0);
        Entries {
            keys: Texts::new(),
            values: Texts::new(),
            rows: ends,
        }
    }

    /// Appends an entry to the row being made. What is not UTF-8 becomes U+FFFD.
    pub(crate) fn add(&mut self, key: &[u8], value: &Value<'_>) -> Result<(), WireError> {
        self.add_prefixed("", key, value)
    }

    pub(crate) fn add_prefixed(
        &mut self,
        prefix: &str,
        key: &[u8],
        value: &Value<'_>,
    ) -> Result<(), WireError> {
        self.keys.bytes.extend_from_slice(prefix.as_bytes());
        match String::from_utf8_lossy(key) {
            Cow::Borrowed(_) => self.keys.bytes.extend_from_slice(key),
            Cow::Owned(mended) => self.keys.bytes.extend_from_slice(mended.as_bytes()),
        }
        self.keys.end()?;
        value.write_json(&mut self.values.bytes)?;
        self.values.end()
    }

    /// Appends a number, unless it is zero.
    pub(crate) fn add_count(&mut self, key: &str, count: u64) -> Result<(), WireError> {
        if count == 0 {
            return Ok(());
        }
        self.keys.bytes.extend_from_slice(key.as_bytes());
        self.keys.end()?;
        write_display(&mut self.values.bytes, count);
        self.values.end()
    }

    /// Ends the row being made.
    pub(crate) fn end_row(&mut self) {
        self.rows.push((self.keys.ends.len() - 1) as i32);
    }

    /// Another row equal to the last one.
    pub(crate) fn repeat_row(&mut self) -> Result<(), WireError> {
        let [.., from, to] = self.rows[..] else {
            return Ok(());
        };
        let entries = from as usize..to as usize;
        self.keys.repeat(entries.clone())?;
        self.values.repeat(entries)?;
        self.end_row();
        Ok(())
    }

    /// The rows as an array of `Map<Utf8, Utf8>`.
    pub(crate) fn finish(self) -> Result<ArrayRef, ArrowError> {
        let fields = Fields::from(vec![
            Field::new("keys", DataType::Utf8, false),
            Field::new("values", DataType::Utf8, true),
        ]);
        let entries = StructArray::try_new(
            fields,
            vec![Arc::new(self.keys.finish()?), Arc::new(self.values.finish()?)],
            None,
        )?;
        let field = Arc::new(Field::new("entries", entries.data_type().clone(), false));
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.rows));
        Ok(Arc::new(MapArray::try_new(field, offsets, entries, None, false)?))
    }
}

impl Texts {
    fn new() -> Texts {
        Texts {
            bytes: Vec::new(),
            ends: vec![0],
        }
    }

    fn end(&mut self) -> Result<(), WireError> {
        let end = i32::try_from(self.bytes.len()).map_err(|_| WireError::TooMuchText)?;
        self.ends.push(end);
        Ok(())
    }

    fn repeat(&mut self, texts: Range<usize>) -> Result<(), WireError> {
        for text in texts {
            let range = self.ends[text] as usize..self.ends[text + 1] as usize;
            self.bytes.extend_from_within(range);
            self.end()?;
        }
        Ok(())
    }

    fn finish(self) -> Result<StringArray, ArrowError> {
        let ends = OffsetBuffer::new(ScalarBuffer::from(self.ends));
        StringArray::try_new(ends, Buffer::from_vec(self.bytes), None)
    }
}
