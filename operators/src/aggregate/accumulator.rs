//! What a group's rows add up to, and the group laws over it.
//!
//! Equality is equality of content: no two different representations stand for the same rows. `Ord` is some
//! total order, for sorting; it says nothing about the values.

use super::{Comoments, DecimalSum, Extremes, FloatSum, Histogram, IntegerSum, Moments};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// What a cell keeps. Part of a plan, so its encoding is part of the plan's fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CellKind {
    /// The number of rows whose input is not NULL (of all rows, without an input).
    Count,
    /// Exact sum and count of integers.
    SumInt,
    /// Exact sum and count of decimals of one scale.
    SumDecimal { scale: i8 },
    /// Exact sum and count of doubles.
    SumFloat,
    /// Exact sum, sum of squares and count of doubles.
    Moments,
    /// The same of both sides of pairs of doubles, and their exact sum of products.
    Comoments,
    /// Counts by logarithmic bucket, for quantiles within 1 %.
    Quantiles,
    /// All values with their counts, for exact minimum and maximum.
    Extremes,
}

impl CellKind {
    /// The kind in the words of an error message.
    pub fn name(self) -> &'static str {
        match self {
            CellKind::Count => "a count",
            CellKind::SumInt => "an integer sum",
            CellKind::SumDecimal { .. } => "a decimal sum",
            CellKind::SumFloat => "a float sum",
            CellKind::Moments => "a sum of squares",
            CellKind::Comoments => "sums of products",
            CellKind::Quantiles => "a histogram",
            CellKind::Extremes => "minimum and maximum",
        }
    }
}

/// One aggregate's share of an accumulator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cell {
    Count(i64),
    SumInt(IntegerSum),
    /// Boxed, as all that is larger than an integer's sum.
    SumDecimal(Box<DecimalSum>),
    SumFloat(Box<FloatSum>),
    Moments(Box<Moments>),
    Comoments(Box<Comoments>),
    Quantiles(Histogram),
    Extremes(Extremes),
}

/// State is mostly cells: whoever makes one larger makes every group larger.
const _: () = assert!(size_of::<Cell>() == 32);

impl Cell {
    /// The neutral element.
    pub fn zero(kind: CellKind) -> Self {
        match kind {
            CellKind::Count => Cell::Count(0),
            CellKind::SumInt => Cell::SumInt(IntegerSum::default()),
            CellKind::SumDecimal { .. } => Cell::SumDecimal(Box::default()),
            CellKind::SumFloat => Cell::SumFloat(Box::default()),
            CellKind::Moments => Cell::Moments(Box::default()),
            CellKind::Comoments => Cell::Comoments(Box::default()),
            CellKind::Quantiles => Cell::Quantiles(Histogram::default()),
            CellKind::Extremes => Cell::Extremes(Extremes::default()),
        }
    }

    pub fn is_zero(&self) -> bool {
        match self {
            Cell::Count(count) => *count == 0,
            Cell::SumInt(sum) => sum.is_zero(),
            Cell::SumDecimal(sum) => sum.is_zero(),
            Cell::SumFloat(sum) => sum.is_zero(),
            Cell::Moments(moments) => moments.is_zero(),
            Cell::Comoments(moments) => moments.is_zero(),
            Cell::Quantiles(histogram) => histogram.is_zero(),
            Cell::Extremes(extremes) => extremes.is_zero(),
        }
    }

    /// Adds a cell of the same kind.
    pub fn add(&mut self, other: &Cell) {
        match (self, other) {
            (Cell::Count(a), Cell::Count(b)) => *a = a.wrapping_add(*b),
            (Cell::SumInt(a), Cell::SumInt(b)) => a.add(b),
            (Cell::SumDecimal(a), Cell::SumDecimal(b)) => a.add(b),
            (Cell::SumFloat(a), Cell::SumFloat(b)) => a.add(b),
            (Cell::Moments(a), Cell::Moments(b)) => a.add(b),
            (Cell::Comoments(a), Cell::Comoments(b)) => a.add(b),
            (Cell::Quantiles(a), Cell::Quantiles(b)) => a.add(b),
            (Cell::Extremes(a), Cell::Extremes(b)) => a.add(b),
            _ => debug_assert!(false, "cells of different kinds are not added"),
        }
    }

    /// The sum of `factor` copies.
    pub fn scale(&mut self, factor: i64) {
        match self {
            Cell::Count(count) => *count = count.wrapping_mul(factor),
            Cell::SumInt(sum) => sum.scale(factor),
            Cell::SumDecimal(sum) => sum.scale(factor),
            Cell::SumFloat(sum) => sum.scale(factor),
            Cell::Moments(moments) => moments.scale(factor),
            Cell::Comoments(moments) => moments.scale(factor),
            Cell::Quantiles(histogram) => histogram.scale(factor),
            Cell::Extremes(extremes) => extremes.scale(factor),
        }
    }
}

/// The number of a group's rows and a cell per aggregate, in plan order.
///
/// Accumulators that meet have the same kinds of cells; anything else is a mistake of the program. The one
/// exception is an accumulator without cells, which takes the cells of what is added to it: so
/// `Accumulator::default()` is a zero that fits all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Accumulator {
    pub rows: i64,
    pub cells: SmallVec<[Cell; 1]>,
}

impl Accumulator {
    /// The neutral element.
    pub fn zero(kinds: &[CellKind]) -> Self {
        Self {
            rows: 0,
            cells: kinds.iter().map(|kind| Cell::zero(*kind)).collect(),
        }
    }

    /// Whether nothing is left, rows included. Differences may be zero in rows and not in cells.
    pub fn is_zero(&self) -> bool {
        self.rows == 0 && self.cells.iter().all(Cell::is_zero)
    }

    pub fn add(&mut self, other: &Accumulator) {
        self.rows = self.rows.wrapping_add(other.rows);
        if self.cells.is_empty() {
            self.cells.clone_from(&other.cells);
            return;
        }
        debug_assert!(
            other.cells.is_empty() || other.cells.len() == self.cells.len(),
            "accumulators of different shapes are not added"
        );
        for (cell, other) in self.cells.iter_mut().zip(&other.cells) {
            cell.add(other);
        }
    }

    /// The inverse element.
    pub fn negate(&mut self) {
        self.scale(-1);
    }

    /// The sum of `factor` copies.
    pub fn scale(&mut self, factor: i64) {
        self.rows = self.rows.wrapping_mul(factor);
        for cell in &mut self.cells {
            cell.scale(factor);
        }
    }
}
