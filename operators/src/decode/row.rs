//! The row under construction: attributes into columns by the alias table.
//!
//! Each column remembers the rank of the alias that filled it, so that the better alias wins whatever the
//! order on the wire; of one key repeated, the first meaningful value wins. A value is *exact* if the column
//! gives back just what was sent; an attribute that filled its column exactly is not repeated in
//! `attributes`, every other one is.
//!
//! Usual shapes (a scalar under a known key) are read straight from the wire. Everything else goes through
//! [`Value`], after the structural walk.
use super::aliases::{AliasTable, Kind, Reading};
use super::columns::Columns;
use super::dialects::{self, Class, unquoted};
use super::error::WireError;
use super::memo::{Meaning, Memo};
use super::numbers;
use super::otlp::{self, Scalar};
use super::text::{Body, TextStore, inline_view, is_inline};
use super::value::{KeyValue, Value};
use super::wire;

/// Set in a column's winner if the attribute is exactly what the column holds.
pub(crate) const EXACT: u32 = 1 << 31;
/// Rank of a column that nothing has filled.
pub(crate) const UNFILLED: u8 = u8::MAX;

/// A part of the body, by offset, for what is read when the row is closed.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub offset: usize,
    pub length: usize,
}

impl Part {
    pub(crate) fn of<'a>(self, body: Body<'a>) -> &'a [u8] {
        &body.base[self.offset..self.offset + self.length]
    }
}

/// The last word brought to one form, and what became of it.
#[derive(Clone, Copy, Default)]
struct Word {
    raw: u128,
    normal: u128,
}

pub(crate) struct RowBuilder {
    pub columns: Columns,
    pub text: TextStore,
    pub table: &'static AliasTable,
    memo: Memo,
    /// Nullable columns the row has.
    pub mask: u64,
    rank: [u8; 64],
    winner: [u32; 64],
    /// Number of the attribute being read, from 1.
    attribute: u32,
    pub class: Option<Class>,
    class_rank: u8,
    pub hint: Option<Class>,
    hint_rank: u8,
    pub entity_name: Option<u128>,
    /// A time that counts from the row's start, and its rank: nanoseconds since 1970.
    pub instant: Option<(i64, Reading)>,
    /// Attributes that are JSON documents, by entry.
    pub documents: Vec<(u16, Part)>,
    /// Attributes that belong to a flattened list, by list.
    pub flattened: Vec<(u8, Part)>,
    words: [[Word; 8]; 3],
    class_word: (u128, Option<Kind>, Option<Class>),
}

impl RowBuilder {
    pub(crate) fn new(columns: Columns, table: &'static AliasTable) -> RowBuilder {
        RowBuilder {
            columns,
            text: TextStore::default(),
            table,
            memo: Memo::new(table),
            mask: 0,
            rank: [UNFILLED; 64],
            winner: [0; 64],
            attribute: 0,
            class: None,
            class_rank: UNFILLED,
            hint: None,
            hint_rank: UNFILLED,
            entity_name: None,
            instant: None,
            documents: Vec::new(),
            flattened: Vec::new(),
            words: [[Word::default(); 8]; 3],
            class_word: (0, None, None),
        }
    }

    /// Begins a row.
    #[inline(always)]
    pub(crate) fn start(&mut self) {
        self.memo.start();
        self.mask = 0;
        self.attribute = 0;
        self.class = None;
        self.class_rank = UNFILLED;
        self.hint = None;
        self.hint_rank = UNFILLED;
        self.entity_name = None;
        self.instant = None;
        self.documents.clear();
        self.flattened.clear();
    }

    /// Forgets what pointed into the batch that has been taken.
    pub(crate) fn forget(&mut self) {
        self.words = [[Word::default(); 8]; 3];
    }

    /// Whether the row has a value in this column.
    #[inline(always)]
    pub(crate) fn has(&self, column: usize) -> bool {
        self.mask >> column & 1 == 1
    }

    /// The rank of the alias that filled a column.
    pub(crate) fn rank(&self, column: usize) -> u8 {
        if self.has(column) {
            self.rank[column]
        } else {
            UNFILLED
        }
    }

    /// Calls `each` with the number (from 1) of every attribute that fills a column exactly.
    pub(crate) fn each_exact_winner(&self, mut each: impl FnMut(u32)) {
        let mut columns = self.mask;
        while columns != 0 {
            let winner = self.winner[columns.trailing_zeros() as usize];
            if winner & EXACT != 0 {
                each(winner & !EXACT);
            }
            columns &= columns - 1;
        }
    }

    /// Says that a column no longer holds what its attribute said.
    pub(crate) fn inexact(&mut self, column: usize) {
        self.winner[column] &= !EXACT;
    }

    #[inline(always)]
    fn wins(&self, reading: Reading) -> bool {
        let column = usize::from(reading.column) & 63;
        self.mask >> column & 1 == 0 || reading.rank < self.rank[column]
    }

    #[inline(always)]
    fn won(&mut self, reading: Reading, exact: bool) {
        let column = usize::from(reading.column) & 63;
        self.mask |= 1 << column;
        self.rank[column] = reading.rank;
        self.winner[column] = self.attribute | if exact { EXACT } else { 0 };
    }

    /// Sets a text column from something that is not an attribute of its own.
    #[inline(always)]
    pub(crate) fn set_view(&mut self, column: usize, view: u128) {
        self.columns.set_wide(column, view);
        self.mask |= 1 << column;
        self.winner[column & 63] = 0;
    }

    #[inline(always)]
    pub(crate) fn set_int(&mut self, column: usize, value: i64) {
        self.columns.set_narrow(column, value);
        self.mask |= 1 << column;
        self.winner[column & 63] = 0;
    }

    /// Reads one attribute; `pair` is a `KeyValue` message at level `depth`.
    #[inline(always)]
    pub(crate) fn attribute(&mut self, body: Body<'_>, pair: &[u8], depth: u32) -> Result<(), WireError> {
        self.attribute += 1;
        if let Some((meaning, mut value)) = self.memo.read(pair)
            && let Ok(length) = wire::varint(&mut value)
            && length == value.len() as u64
        {
            match meaning {
                Meaning::Unmapped => return otlp::check_value(value, depth + 1),
                Meaning::Flattened(list) => {
                    otlp::check_value(value, depth + 1)?;
                    self.flattened.push((
                        list,
                        Part {
                            offset: body.offset(pair),
                            length: pair.len(),
                        },
                    ));
                    return Ok(());
                }
                Meaning::Alias(number) => {
                    if let Some(scalar) = Scalar::read(value) {
                        self.scalar(body, pair, number, scalar);
                        return Ok(());
                    }
                    if let Some(text) = otlp::list_of_one_text(value)
                        && let [reading] = self.table.entries[usize::from(number)].readings.as_slice()
                        && reading.kind == Kind::FinishReason
                    {
                        self.read_first_reason(body, *reading, text);
                        return Ok(());
                    }
                }
            }
        }
        self.attribute_of_any_shape(body, pair, depth)
    }

    #[inline(never)]
    fn attribute_of_any_shape(&mut self, body: Body<'_>, pair: &[u8], depth: u32) -> Result<(), WireError> {
        otlp::check_key_value(pair, depth)?;
        let read = KeyValue::read(pair)?;
        let part = Part {
            offset: body.offset(pair),
            length: pair.len(),
        };
        match self.memo.meaning(read.key) {
            Meaning::Unmapped => {}
            Meaning::Flattened(list) => self.flattened.push((list, part)),
            Meaning::Alias(number) => match read.value()? {
                Value::Text(text) => self.scalar(body, pair, number, Scalar::Text(text)),
                Value::Int(value) => self.scalar(body, pair, number, Scalar::Int(value)),
                Value::Double(value) => self.scalar(body, pair, number, Scalar::Double(value)),
                value => {
                    let table = self.table;
                    for reading in &table.entries[usize::from(number)].readings {
                        match reading.kind {
                            Kind::Document => self.documents.push((number, part)),
                            _ => self.compound(body, *reading, &value)?,
                        }
                    }
                }
            },
        }
        Ok(())
    }

    #[inline(always)]
    fn scalar(&mut self, body: Body<'_>, pair: &[u8], number: u16, scalar: Scalar<'_>) {
        let table = self.table;
        for reading in &table.entries[usize::from(number)].readings {
            if reading.kind == Kind::Document {
                self.documents.push((
                    number,
                    Part {
                        offset: body.offset(pair),
                        length: pair.len(),
                    },
                ));
                continue;
            }
            match scalar {
                Scalar::Text(text) => self.read_text(body, *reading, text),
                Scalar::Int(value) => self.read_int(body, *reading, value),
                Scalar::Double(value) => self.read_double(*reading, value),
            }
        }
    }

    /// Fills a column from text.
    #[inline(always)]
    pub(crate) fn read_text(&mut self, body: Body<'_>, reading: Reading, text: &[u8]) {
        match reading.kind {
            Kind::Text => {
                if !text.is_empty() && self.wins(reading) {
                    let repaired = self.text.repaired;
                    let view = self.text.view(body, text);
                    self.columns.set_wide(usize::from(reading.column), view);
                    self.won(reading, self.text.repaired == repaired);
                }
            }
            Kind::Provider => self.read_word(body, reading, text, 0, dialects::provider),
            Kind::Operation => self.read_word(body, reading, text, 1, dialects::operation),
            Kind::Class(_) => self.read_class(body, reading, text),
            _ => self.read_other_text(body, reading, text),
        }
    }

    #[inline(never)]
    fn read_other_text(&mut self, body: Body<'_>, reading: Reading, text: &[u8]) {
        let utf8 = simdutf8::basic::from_utf8(text);
        match reading.kind {
            Kind::FinishReason => match utf8 {
                Ok(list) if list.starts_with('[') => {
                    let first = serde_json::from_str::<Vec<serde_json::Value>>(list)
                        .ok()
                        .and_then(|items| items.into_iter().next());
                    if let Some(serde_json::Value::String(first)) = first {
                        self.read_first_reason(body, reading, first.as_bytes());
                    }
                }
                _ => self.read_word(body, reading, text, 2, dialects::finish_reason),
            },
            Kind::Unquoted => match utf8
                .ok()
                .and_then(|text| serde_json::from_str::<String>(text).ok())
            {
                Some(inner) => self.own_text(reading, &inner),
                None => self.read_text(
                    body,
                    Reading {
                        kind: Kind::Text,
                        ..reading
                    },
                    text,
                ),
            },
            Kind::EntityName => {
                if !text.is_empty() && self.entity_name.is_none() {
                    self.entity_name = Some(self.text.view(body, text));
                }
            }
            Kind::ClassHint(class) => self.suggest(reading, class),
            _ => {
                let Ok(text) = utf8 else { return };
                match reading.kind {
                    Kind::Count => self.own_count(reading, numbers::whole(text), false),
                    Kind::Number => self.own_number(reading, text.trim().parse().ok(), false),
                    Kind::Money => self.own_money(reading, numbers::money(text)),
                    Kind::Seconds => self.own_nanos(reading, text.trim().parse().ok(), 1e9),
                    Kind::Millis => self.own_nanos(reading, text.trim().parse().ok(), 1e6),
                    Kind::Instant => {
                        if self.instant.is_none()
                            && let Some(at) = numbers::instant(unquoted(text))
                        {
                            self.instant = Some((at, reading));
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    #[inline(always)]
    fn read_int(&mut self, body: Body<'_>, reading: Reading, value: i64) {
        if reading.kind == Kind::Count {
            self.own_count(reading, Some(value), true);
        } else {
            self.read_other_int(body, reading, value);
        }
    }

    #[inline(never)]
    fn read_other_int(&mut self, body: Body<'_>, reading: Reading, value: i64) {
        match reading.kind {
            Kind::Number => self.own_number(reading, Some(value as f64), false),
            Kind::Money => self.own_money(reading, i128::from(value).checked_mul(numbers::MONEY_UNIT)),
            Kind::Seconds => self.own_nanos(reading, Some(value as f64), 1e9),
            Kind::Millis => self.own_nanos(reading, Some(value as f64), 1e6),
            Kind::Instant => {}
            _ => self.read_written(body, reading, value.to_string().as_bytes()),
        }
    }

    #[inline(never)]
    fn read_double(&mut self, reading: Reading, value: f64) {
        match reading.kind {
            Kind::Number => {
                let exact = value.to_bits() == super::columns::normal(value).to_bits();
                self.own_number(reading, Some(value), exact);
            }
            Kind::Count => self.own_count(reading, numbers::whole_double(value), false),
            Kind::Money => self.own_money(reading, numbers::money_of(value)),
            Kind::Seconds => self.own_nanos(reading, Some(value), 1e9),
            Kind::Millis => self.own_nanos(reading, Some(value), 1e6),
            Kind::Instant => {}
            _ => {
                let mut written = Vec::new();
                super::value::write_double(&mut written, value);
                self.read_written(Body { base: &[], buffer: 0 }, reading, &written);
            }
        }
    }

    /// Fills a column from a truth value, a list, a map or bytes.
    pub(crate) fn compound(
        &mut self,
        body: Body<'_>,
        reading: Reading,
        value: &Value<'_>,
    ) -> Result<(), WireError> {
        match reading.kind {
            Kind::FinishReason if matches!(value, Value::Array(_)) => {
                if let Some(Value::Text(first)) = value.items()?.first() {
                    self.read_first_reason(body, reading, first);
                }
            }
            Kind::ClassHint(class) if !matches!(value, Value::Empty) => self.suggest(reading, class),
            Kind::Text
            | Kind::Unquoted
            | Kind::Provider
            | Kind::Operation
            | Kind::FinishReason
            | Kind::EntityName => {
                if let Some(text) = value.text()? {
                    self.read_written(body, reading, &text);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Fills a column from the first of a list of reasons to finish.
    pub(crate) fn read_first_reason(&mut self, body: Body<'_>, reading: Reading, first: &[u8]) {
        if !first.is_empty() && self.wins(reading) {
            self.read_word(body, reading, first, 2, dialects::finish_reason);
            self.inexact(usize::from(reading.column));
        }
    }

    /// Fills a column from text that was written here, so that it is never exact.
    fn read_written(&mut self, body: Body<'_>, reading: Reading, text: &[u8]) {
        if !text.is_empty() && reading.kind != Kind::EntityName && self.wins(reading) {
            self.read_text(body, reading, text);
            self.inexact(usize::from(reading.column));
        } else if reading.kind == Kind::EntityName {
            self.read_text(body, reading, text);
        }
    }

    /// Fills a column with one of the words of a dialect, brought to one form.
    fn read_word(
        &mut self,
        body: Body<'_>,
        reading: Reading,
        text: &[u8],
        kind: usize,
        normal: fn(&str) -> Option<&'static str>,
    ) {
        if text.is_empty() || !self.wins(reading) {
            return;
        }
        let repaired = self.text.repaired;
        let raw = self.text.view(body, text);
        let slot = ((raw >> 32) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61;
        let known = self.words[kind][slot as usize];
        let view = if is_inline(raw) && known.raw == raw {
            known.normal
        } else {
            let word = std::str::from_utf8(text).unwrap_or("");
            let view = match normal(word) {
                Some(normal) => self.text.own(normal),
                None if unquoted(word).len() != word.len() && !unquoted(word).is_empty() => {
                    self.text.own(unquoted(word))
                }
                None => raw,
            };
            self.words[kind][slot as usize] = Word { raw, normal: view };
            view
        };
        self.columns.set_wide(usize::from(reading.column), view);
        self.won(reading, view == raw && self.text.repaired == repaired);
    }

    fn read_class(&mut self, body: Body<'_>, reading: Reading, text: &[u8]) {
        let Kind::Class(dialect) = reading.kind else {
            return;
        };
        if reading.rank >= self.class_rank {
            return;
        }
        let window = body
            .base
            .get(body.offset(text)..)
            .and_then(|after| after.first_chunk::<16>());
        let raw = match window {
            Some(window) if text.len() <= 12 => {
                (u128::from_le_bytes(*window) & ((1u128 << (8 * text.len())) - 1)) << 32 | text.len() as u128
            }
            _ => u128::MAX,
        };
        let class = if raw != u128::MAX && self.class_word.0 == raw && self.class_word.1 == Some(reading.kind)
        {
            self.class_word.2
        } else {
            let class = std::str::from_utf8(text)
                .ok()
                .and_then(|word| dialect.class(word));
            self.class_word = (raw, Some(reading.kind), class);
            class
        };
        if class.is_some() {
            self.class = class;
            self.class_rank = reading.rank;
        }
    }

    fn suggest(&mut self, reading: Reading, class: Class) {
        if reading.rank < self.hint_rank {
            self.hint = Some(class);
            self.hint_rank = reading.rank;
        }
    }

    /// Fills a text column with text that is not in the body.
    pub(crate) fn own_text(&mut self, reading: Reading, text: &str) {
        if !text.is_empty() && self.wins(reading) {
            let view = self.text.own(text);
            self.columns.set_wide(usize::from(reading.column), view);
            self.won(reading, false);
        }
    }

    #[inline(always)]
    pub(crate) fn own_count(&mut self, reading: Reading, value: Option<i64>, exact: bool) {
        if let Some(value) = value
            && value >= 0
            && self.wins(reading)
        {
            self.columns.set_narrow(usize::from(reading.column), value);
            self.won(reading, exact);
        }
    }

    pub(crate) fn own_number(&mut self, reading: Reading, value: Option<f64>, exact: bool) {
        if let Some(value) = value
            && self.wins(reading)
        {
            self.columns.set_double(usize::from(reading.column), value);
            self.won(reading, exact);
        }
    }

    pub(crate) fn own_money(&mut self, reading: Reading, value: Option<i128>) {
        if let Some(value) = value
            && self.wins(reading)
        {
            self.columns.set_wide(usize::from(reading.column), value as u128);
            self.won(reading, false);
        }
    }

    /// Fills a column from an attribute of an event, which `attributes` does not hold.
    pub(crate) fn read_event_text(&mut self, body: Body<'_>, reading: Reading, text: &[u8]) {
        self.read_written(body, reading, text);
    }

    fn own_nanos(&mut self, reading: Reading, value: Option<f64>, unit: f64) {
        if let Some(value) = value
            && value.is_finite()
            && value >= 0.0
            && self.wins(reading)
        {
            self.columns
                .set_narrow(usize::from(reading.column), (value * unit).round() as i64);
            self.won(reading, false);
        }
    }

    /// Fills a column that counts nanoseconds.
    pub(crate) fn own_duration(&mut self, reading: Reading, value: i64) {
        if value >= 0 && self.wins(reading) {
            self.columns.set_narrow(usize::from(reading.column), value);
            self.won(reading, false);
        }
    }

    /// View of a class' name.
    #[inline(always)]
    pub(crate) fn class_view(class: Class) -> u128 {
        const VIEWS: [u128; 12] = {
            let mut views = [0; 12];
            let mut at = 0;
            while at < 12 {
                views[at] = inline_view(Class::ALL[at].name());
                at += 1;
            }
            views
        };
        VIEWS[class as usize]
    }
}
