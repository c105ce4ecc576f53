//! Amounts of resources: exact decimal numbers with a suffix, down to nano, printed in
//! the one canonical form that the server stores.
//!
//! Source: apimachinery/pkg/api/resource.

use std::{
    cmp::Ordering,
    fmt,
    ops::{Add, AddAssign, Neg, Sub, SubAssign},
    str::FromStr,
};

use crate::k8s;

/// One unit, in the nano units that a quantity counts.
const NANO_PER_UNIT: i128 = 1_000_000_000;
const NANO_PER_MILLI: i128 = 1_000_000;
/// The power of ten of one unit, counted in nano.
const NANO_DIGITS: i32 = 9;
/// Quantities with a binary suffix are capped here when they are parsed.
const BINARY_MAX: i128 = i64::MAX as i128 * NANO_PER_UNIT;
/// The largest power of 1024 that has a suffix (Ei).
const BINARY_SUFFIX_MAX: u32 = 6;
const BINARY_SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// Suffixes of the powers of 1000 from -3 (nano) to 6 (exa).
const DECIMAL_SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

/// A fixed-point number, kept in nano units. Equality and order ignore the suffix family.
///
/// Magnitudes beyond 1.7e29 are refused by [`Quantity::parse`] and saturate in arithmetic.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nano: i128,
    family: Family,
}

/// The family of suffixes that a quantity was written with, and is printed with again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// `12e6`
    DecimalExponent,
    /// `12M`
    #[default]
    Decimal,
    /// `12Mi`
    Binary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    pub const ZERO: Quantity = Quantity { nano: 0, family: Family::Decimal };

    /// Reads any legal spelling; amounts finer than nano are rounded up, away from zero.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let spelling = Spelling::split(text)?;
        let (scale, family) = suffix(spelling.suffix).ok_or(ParseError::Suffix)?;
        let (digits, places) = spelling.number()?;
        let nano = match scale {
            Scale::Ten(exponent) => shift_up(digits, exponent.saturating_sub(places).saturating_add(NANO_DIGITS)),
            Scale::Two(exponent) => digits
                .checked_mul(1 << exponent)
                .and_then(|digits| shift_up(digits, NANO_DIGITS.saturating_sub(places))),
        };
        let mut nano = nano.ok_or(ParseError::Numeric)?;
        let mut family = family;
        if family == Family::Binary {
            nano = nano.min(BINARY_MAX);
            if (1..NANO_PER_UNIT).contains(&nano) {
                family = Family::Decimal;
            }
        }
        Ok(Self { nano: if spelling.negative { -nano } else { nano }, family })
    }

    pub const fn from_units(units: i64, family: Family) -> Self {
        Self { nano: units as i128 * NANO_PER_UNIT, family }
    }
    pub const fn from_milli(milli: i64, family: Family) -> Self {
        Self { nano: milli as i128 * NANO_PER_MILLI, family }
    }
    /// Whole units, rounded up; saturates at the bounds of `i64`.
    pub fn value(self) -> i64 {
        ceil(self.nano, NANO_PER_UNIT)
    }
    /// Thousandths, rounded up; saturates at the bounds of `i64`.
    pub fn milli(self) -> i64 {
        ceil(self.nano, NANO_PER_MILLI)
    }
    /// Loses precision; for ratios only.
    pub fn as_f64(self) -> f64 {
        self.nano as f64 / NANO_PER_UNIT as f64
    }
    pub fn is_zero(self) -> bool {
        self.nano == 0
    }
    pub fn is_negative(self) -> bool {
        self.nano < 0
    }
    pub fn is_integer(self) -> bool {
        self.nano % NANO_PER_UNIT == 0
    }
    pub fn family(self) -> Family {
        self.family
    }
    /// The same family, with fractions of a thousandth rounded up, away from zero. Resource lists are kept so.
    pub fn rounded_to_milli(self) -> Self {
        let rest = self.nano % NANO_PER_MILLI;
        let up = if rest == 0 { 0 } else { rest.signum() * NANO_PER_MILLI - rest };
        Self { nano: self.nano + up, ..self }
    }
    /// `factor` times as much; saturates.
    pub fn times(self, factor: i64) -> Self {
        Self { nano: self.nano.saturating_mul(i128::from(factor)), ..self }
    }
}

/// Rounded up for positive numbers, towards zero for negative ones.
fn ceil(nano: i128, unit: i128) -> i64 {
    let whole = nano / unit + i128::from(nano > 0 && nano % unit != 0);
    i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
}

/// `digits * 10^exponent`, a fraction rounded up; `None` if it does not fit.
fn shift_up(digits: i128, exponent: i32) -> Option<i128> {
    if digits == 0 {
        return Some(0);
    }
    match 10i128.checked_pow(exponent.unsigned_abs()) {
        Some(power) if exponent >= 0 => digits.checked_mul(power),
        Some(power) => Some(digits / power + i128::from(digits % power != 0)),
        None if exponent >= 0 => None,
        None => Some(1),
    }
}

/// A quantity's text in its parts, without leading zeros.
struct Spelling<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Spelling<'a> {
    fn split(text: &'a str) -> Result<Self, ParseError> {
        let negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        if text.is_empty() {
            return Err(ParseError::Format);
        }
        let (whole, rest) = digits(unsigned);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => digits(rest),
            None => ("", rest),
        };
        let letters = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
        let exponent = letters.strip_prefix(['-', '+']).unwrap_or(letters);
        if !exponent.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseError::Format);
        }
        Ok(Self { negative, whole: whole.trim_start_matches('0'), fraction: fraction.trim_end_matches('0'), suffix })
    }

    /// The digits as one number, and how many of them are behind the point.
    fn number(&self) -> Result<(i128, i32), ParseError> {
        let mut number = 0i128;
        for digit in self.whole.bytes().chain(self.fraction.bytes()) {
            let next = number.checked_mul(10).and_then(|n| n.checked_add(i128::from(digit - b'0')));
            number = next.ok_or(ParseError::Numeric)?;
        }
        Ok((number, i32::try_from(self.fraction.len()).map_err(|_| ParseError::Numeric)?))
    }
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

enum Scale {
    Ten(i32),
    Two(u32),
}

fn suffix(suffix: &str) -> Option<(Scale, Family)> {
    if let Some(power) = DECIMAL_SUFFIXES.iter().position(|known| *known == suffix) {
        return Some((Scale::Ten(power as i32 * 3 - NANO_DIGITS), Family::Decimal));
    }
    if let Some(power) = BINARY_SUFFIXES.iter().position(|known| *known == suffix) {
        return Some((Scale::Two(power as u32 * 10), Family::Binary));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    Some((Scale::Ten(exponent), Family::DecimalExponent))
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let units = self.nano / NANO_PER_UNIT;
        // Small or broken amounts would lose precision as binary multiples.
        if self.family == Family::Binary && units.abs() >= 1024 && self.is_integer() {
            let mut mantissa = units;
            let mut power = 0;
            while mantissa % 1024 == 0 && power < BINARY_SUFFIX_MAX {
                mantissa /= 1024;
                power += 1;
            }
            return write!(f, "{mantissa}{}", BINARY_SUFFIXES[power as usize]);
        }
        let mut mantissa = self.nano;
        let mut exponent = -NANO_DIGITS;
        while mantissa % 1000 == 0 {
            mantissa /= 1000;
            exponent += 3;
        }
        let suffix = usize::try_from((exponent + NANO_DIGITS) / 3).ok().and_then(|power| DECIMAL_SUFFIXES.get(power));
        match (self.family, suffix) {
            (Family::DecimalExponent, _) if exponent == 0 => write!(f, "{mantissa}"),
            (Family::Decimal | Family::Binary, Some(suffix)) => write!(f, "{mantissa}{suffix}"),
            (Family::DecimalExponent, _) | (_, None) => write!(f, "{mantissa}e{exponent}"),
        }
    }
}

impl FromStr for Quantity {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Quantity {
    /// A zero takes over the family of what is added to it, as upstream has it.
    fn with(self, nano: i128, other: Quantity) -> Quantity {
        Quantity { nano, family: if self.is_zero() { other.family } else { self.family } }
    }
}
impl Add for Quantity {
    type Output = Quantity;
    fn add(self, other: Quantity) -> Quantity {
        self.with(self.nano.saturating_add(other.nano), other)
    }
}
impl Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Quantity) -> Quantity {
        self.with(self.nano.saturating_sub(other.nano), other)
    }
}
impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}
impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}
impl Neg for Quantity {
    type Output = Quantity;
    fn neg(self) -> Quantity {
        Quantity { nano: -self.nano, ..self }
    }
}
impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(amounts: I) -> Quantity {
        amounts.fold(Quantity::ZERO, Add::add)
    }
}

impl TryFrom<&k8s::Quantity> for Quantity {
    type Error = ParseError;
    fn try_from(wire: &k8s::Quantity) -> Result<Self, ParseError> {
        Self::parse(&wire.0)
    }
}
impl From<Quantity> for k8s::Quantity {
    fn from(quantity: Quantity) -> Self {
        k8s::Quantity(quantity.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_the_canonical_form() {
        for (text, canonical) in [
            ("0", "0"),
            ("0.0", "0"),
            ("-0", "0"),
            ("0Ki", "0"),
            ("+1", "1"),
            ("1.", "1"),
            (".5", "500m"),
            ("1000m", "1"),
            ("100m", "100m"),
            ("0.5", "500m"),
            ("1.500", "1500m"),
            ("1e3", "1e3"),
            ("1000", "1k"),
            ("1E3", "1e3"),
            ("12e6", "12e6"),
            ("1500000", "1500k"),
            ("1.5e3", "1500"),
            ("1e-3", "1e-3"),
            ("0.5Gi", "512Mi"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("1024Mi", "1Gi"),
            ("1000Mi", "1000Mi"),
            ("1023Ki", "1023Ki"),
            ("0.9Ki", "921600m"),
            ("1Ki", "1Ki"),
            ("0.001Ki", "1024m"),
            ("0.00001Ki", "10240u"),
            ("1.2345", "1234500u"),
            ("0.9n", "1n"),
            ("-0.9n", "-1n"),
            ("1e-20", "1e-9"),
            ("100Ei", "9223372036854775807"),
            ("8Ei", "9223372036854775807"),
            ("7Ei", "7Ei"),
            ("-1.5Gi", "-1536Mi"),
            ("18446744073709551616", "18446744073709551616"),
            ("1000E", "1e21"),
            ("10E", "10E"),
            ("007", "7"),
            ("1u", "1u"),
            ("1001m", "1001m"),
        ] {
            assert_eq!(Quantity::parse(text).map(|quantity| quantity.to_string()), Ok(canonical.to_owned()), "{text}");
        }
    }

    #[test]
    fn refuses_what_upstream_refuses() {
        for (text, error) in [
            ("", ParseError::Format),
            ("1 ", ParseError::Format),
            ("1.1.1", ParseError::Format),
            ("1+1.0m", ParseError::Format),
            ("abc", ParseError::Format),
            ("1i", ParseError::Suffix),
            ("1mi", ParseError::Suffix),
            ("1ki", ParseError::Suffix),
            ("1K", ParseError::Suffix),
            ("1e", ParseError::Suffix),
            ("1e1.5", ParseError::Format),
            ("1e40", ParseError::Numeric),
        ] {
            assert_eq!(Quantity::parse(text).map(|quantity| quantity.to_string()), Err(error), "{text}");
        }
    }

    #[test]
    fn rounds_up_when_asked_for_integers() {
        for (text, value, milli) in [
            ("1", 1, 1000),
            ("1500m", 2, 1500),
            ("1n", 1, 1),
            ("-1500m", -1, -1500),
            ("1Ki", 1024, 1_024_000),
            ("100Ei", i64::MAX, i64::MAX),
            ("0.0001", 1, 1),
        ] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!((quantity.value(), quantity.milli()), (value, milli), "{text}");
        }
    }

    #[test]
    fn adds_compares_and_keeps_the_family() {
        let parse = |text| Quantity::parse(text).unwrap();
        assert_eq!((parse("1Gi") + parse("1Gi")).to_string(), "2Gi");
        assert_eq!((parse("0") + parse("1Gi")).to_string(), "1Gi");
        assert_eq!((parse("1") - parse("100m")).to_string(), "900m");
        assert_eq!([parse("1Gi"), parse("512Mi")].into_iter().sum::<Quantity>().to_string(), "1536Mi");
        assert_eq!(parse("1000m"), parse("1"));
        assert!(parse("1Mi") > parse("1M"));
        assert_eq!(parse("1n").rounded_to_milli().to_string(), "1m");
        assert_eq!(parse("-1001u").rounded_to_milli().to_string(), "-2m");
        assert_eq!(parse("2Gi").rounded_to_milli().to_string(), "2Gi");
        assert_eq!(parse("100m").times(3).to_string(), "300m");
    }
}
