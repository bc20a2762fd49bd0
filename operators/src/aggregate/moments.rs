//! Sums of squares and products of doubles: what variances, covariances and regressions are read from.
//!
//! A value enters as it enters a [`FloatSum`]: as a whole number of units of 2^-128, below 2^87. Its square is a whole
//! number of units of 2^-256 below 2^174, so 512 bits hold the squares of 2^40 rows exactly. With the count `n` and
//! the sums `S`, `n · Σx² − S²` is an exact integer too, never below zero, and a statistic divides and rounds it once.
//! So nothing cancels, however large the mean is against the spread, and any order and retraction gives equal bits.

use super::sums::{FloatSum, on_grid};
use super::wide;
use serde::{Deserialize, Serialize};

/// Units of a sum of squares: 2^-256.
const SQUARE_EXPONENT: i32 = -256;
/// Units of a product of three sums: 2^-384.
const CUBE_EXPONENT: i32 = -384;

/// Exact sum and sum of squares of doubles.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moments {
    sum: FloatSum,
    squares: [u64; 8],
}

/// Exact sums, sums of squares and sum of products of pairs of doubles.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Comoments {
    /// The first of each pair: what is explained in a regression.
    y: Moments,
    /// The second of each pair: what explains.
    x: Moments,
    products: [u64; 8],
}

/// What is read from the values of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// Squared distance from the mean, divided by `n`.
    VariancePopulation,
    /// Squared distance from the mean, divided by `n − 1`: NULL for one value.
    VarianceSample,
    /// The square root of [`Spread::VariancePopulation`].
    DeviationPopulation,
    /// The square root of [`Spread::VarianceSample`].
    DeviationSample,
}

/// What is read from the pairs `(y, x)` of a group. `Sxx`, `Syy` and `Sxy` are the sums of squares and products of the
/// distances from the means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relationship {
    /// `Sxy / n`.
    CovariancePopulation,
    /// `Sxy / (n − 1)`: NULL for one pair.
    CovarianceSample,
    /// `Sxy / √(Sxx · Syy)`, Pearson's; NULL for one pair and where a side has no spread.
    Correlation,
    /// `Sxy / Sxx`; NULL for one pair and where x has no spread.
    Slope,
    /// `mean(y) − slope · mean(x)`; NULL as the slope.
    Intercept,
    /// The number of pairs.
    Pairs,
    /// The square of the correlation.
    Determination,
    MeanX,
    MeanY,
    SquaresX,
    SquaresY,
    Products,
}

impl Moments {
    /// Adds `diff` copies of a value that a float sum can take.
    pub(super) fn insert(&mut self, value: f64, diff: i64) {
        self.sum.insert(value, diff);
        if value.is_finite() {
            let (mantissa, shift) = on_grid(value);
            let square = u128::from(mantissa) * u128::from(mantissa);
            insert_term(&mut self.squares, square, shift * 2, false, diff);
        }
    }

    pub(super) fn count(&self) -> i64 {
        self.sum.count
    }

    /// The statistic; `None` without values, and for a sample of one.
    pub fn read(&self, spread: Spread) -> Option<f64> {
        let count = positive(self.sum.count)?;
        let divisors: &[u64] = match spread {
            Spread::VariancePopulation | Spread::DeviationPopulation => &[count, count],
            Spread::VarianceSample | Spread::DeviationSample if count > 1 => &[count, count - 1],
            _ => return None,
        };
        if !self.sum.is_finite() {
            return Some(f64::NAN);
        }
        let variance = divided(&self.scatter(), divisors);
        Some(match spread {
            Spread::VariancePopulation | Spread::VarianceSample => variance,
            Spread::DeviationPopulation | Spread::DeviationSample => variance.sqrt(),
        })
    }

    /// `n · Σx² − (Σx)²`.
    fn scatter(&self) -> [u64; 8] {
        scatter(self.sum.count, &self.squares, &self.sum, &self.sum)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.sum.add(&other.sum);
        wide::add(&mut self.squares, &other.squares);
    }

    pub(super) fn scale(&mut self, factor: i64) {
        self.sum.scale(factor);
        wide::scale(&mut self.squares, factor);
    }

    pub(super) fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

impl Comoments {
    /// Adds `diff` copies of a pair whose values a float sum can take.
    pub(super) fn insert(&mut self, y: f64, x: f64, diff: i64) {
        self.y.insert(y, diff);
        self.x.insert(x, diff);
        if y.is_finite() && x.is_finite() {
            let ((one, shift), (other, further)) = (on_grid(y), on_grid(x));
            let negative = y.is_sign_negative() != x.is_sign_negative();
            let product = u128::from(one) * u128::from(other);
            insert_term(&mut self.products, product, shift + further, negative, diff);
        }
    }

    /// The number of pairs.
    pub fn count(&self) -> i64 {
        self.x.sum.count
    }

    /// The statistic; `None` where it has no value, see [`Relationship`].
    pub fn read(&self, relationship: Relationship) -> Option<f64> {
        let count = positive(self.count())?;
        match relationship {
            Relationship::Pairs => return Some(count as f64),
            Relationship::MeanX => return self.x.sum.mean(),
            Relationship::MeanY => return self.y.sum.mean(),
            _ => {}
        }
        let finite = (self.y.sum.is_finite(), self.x.sum.is_finite());
        let of = |moments: &Moments, finite: bool| match finite {
            true => divided(&moments.scatter(), &[count]),
            false => f64::NAN,
        };
        let products = |divisors: &[u64]| match finite {
            (true, true) => {
                let sum = scatter(count as i64, &self.products, &self.y.sum, &self.x.sum);
                divided(&sum, divisors)
            }
            _ => f64::NAN,
        };
        let (yy, xx) = (of(&self.y, finite.0), of(&self.x, finite.1));
        match relationship {
            Relationship::SquaresX => Some(xx),
            Relationship::SquaresY => Some(yy),
            Relationship::Products => Some(products(&[count])),
            Relationship::CovariancePopulation => Some(products(&[count, count])),
            _ if count < 2 => None,
            Relationship::CovarianceSample => Some(products(&[count, count - 1])),
            Relationship::Slope => (xx != 0.0).then(|| products(&[count]) / xx),
            Relationship::Intercept if xx == 0.0 => None,
            Relationship::Intercept => Some(match finite {
                (true, true) => self.intercept(count),
                _ => f64::NAN,
            }),
            _ if xx == 0.0 || yy == 0.0 => None,
            Relationship::Determination => {
                let xy = products(&[count]);
                Some(((xy / xx) * (xy / yy)).min(1.0))
            }
            _ => Some((products(&[count]) / (xx.sqrt() * yy.sqrt())).clamp(-1.0, 1.0)),
        }
    }

    /// `(Σy · nSxx − Σx · nSxy) / (n · nSxx)`, whose numerator is exact.
    fn intercept(&self, count: u64) -> f64 {
        let xx = self.x.scatter();
        let xy = scatter(count as i64, &self.products, &self.y.sum, &self.x.sum);
        let mut numerator: [u64; 16] = wide::product(&wide::widened(&self.y.sum.sum), &wide::widened(&xx));
        let mut subtracted = wide::product(&wide::widened(&self.x.sum.sum), &wide::widened(&xy));
        wide::negate(&mut subtracted);
        wide::add(&mut numerator, &subtracted);
        let (negative, magnitude) = wide::absolute(&numerator);
        let numerator = wide::round(negative, &magnitude, false, CUBE_EXPONENT);
        let (_, magnitude) = wide::absolute(&xx);
        numerator / (wide::round(false, &magnitude, false, SQUARE_EXPONENT) * count as f64)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.y.add(&other.y);
        self.x.add(&other.x);
        wide::add(&mut self.products, &other.products);
    }

    pub(super) fn scale(&mut self, factor: i64) {
        self.y.scale(factor);
        self.x.scale(factor);
        wide::scale(&mut self.products, factor);
    }

    pub(super) fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

fn positive(count: i64) -> Option<u64> {
    u64::try_from(count).ok().filter(|count| *count > 0)
}

/// Adds `diff` times `±product · 2^shift`; the shift is at most 324.
fn insert_term(sum: &mut [u64; 8], product: u128, shift: u32, negative: bool, diff: i64) {
    let (limb, offset) = ((shift / 64) as usize, shift % 64);
    let (low, high) = (product as u64, (product >> 64) as u64);
    let mut term = [0; 8];
    term[limb] = low << offset;
    term[limb + 1] = high << offset;
    term[limb + 2] = 0;
    if offset > 0 {
        term[limb + 1] |= low >> (64 - offset);
        term[limb + 2] = high >> (64 - offset);
    }
    if diff != 1 {
        wide::scale(&mut term, diff);
    }
    if negative {
        wide::negate(&mut term);
    }
    wide::add(sum, &term);
}

/// `count · products − one · other`, in units of 2^-256.
fn scatter(count: i64, products: &[u64; 8], one: &FloatSum, other: &FloatSum) -> [u64; 8] {
    let mut scatter = *products;
    wide::scale(&mut scatter, count);
    let mut means = wide::product(&wide::widened(&one.sum), &wide::widened(&other.sum));
    wide::negate(&mut means);
    wide::add(&mut scatter, &means);
    scatter
}

/// A number of units of 2^-256 divided by all of the divisors (at most two), rounded once.
fn divided(value: &[u64; 8], divisors: &[u64]) -> f64 {
    let (negative, magnitude) = wide::absolute(value);
    // 192 more bits leave at least 66 in the quotient by two 63-bit divisors, enough to round once.
    let mut quotient = [0; 11];
    quotient[3..].copy_from_slice(&magnitude);
    let mut inexact = false;
    for divisor in divisors {
        inexact |= wide::divide_by(&mut quotient, *divisor);
    }
    wide::round(negative, &quotient, inexact, SQUARE_EXPONENT - 192)
}

impl Relationship {
    /// In the words of SQL.
    pub fn name(self) -> &'static str {
        match self {
            Relationship::CovariancePopulation => "covar_pop",
            Relationship::CovarianceSample => "covar_samp",
            Relationship::Correlation => "corr",
            Relationship::Slope => "regr_slope",
            Relationship::Intercept => "regr_intercept",
            Relationship::Pairs => "regr_count",
            Relationship::Determination => "regr_r2",
            Relationship::MeanX => "regr_avgx",
            Relationship::MeanY => "regr_avgy",
            Relationship::SquaresX => "regr_sxx",
            Relationship::SquaresY => "regr_syy",
            Relationship::Products => "regr_sxy",
        }
    }
}
