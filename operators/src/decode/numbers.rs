//! Numbers and times that senders write as text.
use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;

/// One unit of money in a `Decimal128(38, 12)`.
pub(crate) const MONEY_UNIT: i128 = 1_000_000_000_000;
/// Greatest value of a decimal of 38 digits.
const MONEY_LIMIT: i128 = 10i128.pow(38);

/// A whole number: digits, or a double without a fraction.
pub(crate) fn whole(text: &str) -> Option<i64> {
    let text = text.trim();
    text.parse().ok().or_else(|| whole_double(text.parse().ok()?))
}

/// A double without a fraction, below 2^63.
pub(crate) fn whole_double(value: f64) -> Option<i64> {
    (value.fract() == 0.0 && value.abs() < 9_223_372_036_854_775_808.0).then_some(value as i64)
}

/// Money from a double: its shortest decimal form, rounded to twelve decimals, half away from zero.
pub(crate) fn money_of(value: f64) -> Option<i128> {
    value.is_finite().then(|| money(&format!("{value:e}")))?
}

/// Money from decimal text, with or without an exponent, rounded to twelve decimals, half away from zero.
pub(crate) fn money(text: &str) -> Option<i128> {
    let text = text.trim();
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() || mantissa.len() > 400 {
        return None;
    }
    let mut digits = 0i128;
    // Power of ten of the last digit kept, relative to a twelfth decimal.
    let mut power = exponent
        .checked_add(12)?
        .checked_sub(i32::try_from(fraction.len()).ok()?)?;
    for digit in whole.bytes().chain(fraction.bytes()) {
        if !digit.is_ascii_digit() {
            return None;
        }
        if digits < MONEY_LIMIT / 10 {
            digits = digits * 10 + i128::from(digit - b'0');
        } else {
            // Beyond 38 digits only the power counts: half is rounded away from zero, so what follows the
            // kept digits cannot change the rounding.
            power += 1;
        }
    }
    let magnitude = if digits == 0 {
        0
    } else if power >= 0 {
        digits.checked_mul(10i128.checked_pow(u32::try_from(power).ok()?)?)?
    } else {
        match 10i128.checked_pow(power.unsigned_abs()) {
            Some(divisor) => (digits + divisor / 2) / divisor,
            None => 0,
        }
    };
    (magnitude < MONEY_LIMIT).then_some(if negative { -magnitude } else { magnitude })
}

/// A time in RFC 3339, as nanoseconds since 1970.
pub(crate) fn instant(text: &str) -> Option<i64> {
    string_to_timestamp_nanos(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_exact_to_twelve_decimals() {
        assert_eq!(money("0.000123"), Some(123_000_000));
        assert_eq!(money("-1.5"), Some(-1_500_000_000_000));
        assert_eq!(money("1e-3"), Some(1_000_000_000));
        assert_eq!(money("0.0000000000005"), Some(1));
        assert_eq!(money("0.00000000000049"), Some(0));
        assert_eq!(money("1e30"), None);
        assert_eq!(money("1e-400"), Some(0));
        assert_eq!(
            money("99999999999999999999999999"),
            Some(99_999_999_999_999_999_999_999_999 * MONEY_UNIT)
        );
        assert_eq!(
            money("0.33333333333333333333333333333333333333333333333333"),
            Some(333_333_333_333)
        );
        for broken in ["", ".", "-", "NaN", "1.2.3", "0x10", "1e", "1e99999999999"] {
            assert_eq!(money(broken), None, "{broken}");
        }
        assert_eq!(money_of(0.1), Some(100_000_000_000));
        assert_eq!(money_of(f64::INFINITY), None);
    }

    #[test]
    fn whole_numbers() {
        assert_eq!(whole(" 42 "), Some(42));
        assert_eq!(whole("42.0"), Some(42));
        assert_eq!(whole("42.5"), None);
        assert_eq!(whole("1e30"), None);
        assert_eq!(whole_double(f64::NAN), None);
    }
}
