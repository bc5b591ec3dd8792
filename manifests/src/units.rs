//! Durations, sizes and CPUs as text: the one grammar for manifests, flags and queries.
//!
//! `parse_*` and `format_*` are inverse: formatted text parses to the same value.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Serialize as _, Serializer};

/// Milliseconds of each unit, longest first.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];
/// Bytes of each unit, largest first.
const SIZE_UNITS: [(&str, u64); 4] = [("g", 1 << 30), ("m", 1 << 20), ("k", 1 << 10), ("b", 1)];

/// Error of parsing a duration, a size or CPUs; reads on from the quoted text: `"30" has no unit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// An empty string.
    #[error("is empty")]
    Empty,
    /// A number alone.
    #[error("has no unit")]
    NoUnit,
    /// An unknown unit, a unit out of order, or no number.
    #[error("is not a number with a unit")]
    Malformed,
    /// No number of CPUs in thousandths.
    #[error("is not a number with at most three decimals")]
    NotDecimal,
    /// An overflow.
    #[error("is too large")]
    TooLarge,
}

/// Parses `30s`, `1m30s`, `2d`, `500ms`: whole numbers, each with a unit, longest unit first.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let mut left = &DURATION_UNITS[..];
    let mut rest = text;
    let mut millis: u64 = 0;
    if text.is_empty() {
        return Err(UnitError::Empty);
    }
    while !rest.is_empty() {
        let (number, unit, after) = number_and_unit(rest)?;
        if unit.is_empty() {
            return Err(UnitError::NoUnit);
        }
        let position = left
            .iter()
            .position(|(name, _)| *name == unit)
            .ok_or(UnitError::Malformed)?;
        millis = number
            .checked_mul(left[position].1)
            .and_then(|part| millis.checked_add(part))
            .ok_or(UnitError::TooLarge)?;
        left = &left[position + 1..];
        rest = after;
    }
    Ok(Duration::from_millis(millis))
}

/// Formats a duration of whole milliseconds: `1m30s`.
///
/// Hours are the longest unit: hashes of containers cover this text, and days came later.
pub fn format_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for &(unit, factor) in &DURATION_UNITS[1..] {
        if millis >= factor {
            let _ = write!(text, "{}{unit}", millis / factor);
            millis %= factor;
        }
    }
    if text.is_empty() {
        text.push_str("0s");
    }
    text
}

/// Parses `512m`, `10k`, `1g`, `100b`, in either case, and like Docker also `512MB` and `512MiB`; each unit is 1024
/// times the one before.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    if text.is_empty() {
        return Err(UnitError::Empty);
    }
    let (number, unit, after) = number_and_unit(text)?;
    if unit.is_empty() {
        return Err(UnitError::NoUnit);
    }
    let lower = unit.to_ascii_lowercase();
    // `k`, `KB` and `KiB` all mean 1024 bytes, as in Docker.
    let name = match lower.split_at(1) {
        (name @ ("k" | "m" | "g"), "" | "b" | "i" | "ib") => name,
        _ => &lower,
    };
    let (_, factor) = SIZE_UNITS
        .iter()
        .find(|(known, _)| *known == name && after.is_empty())
        .ok_or(UnitError::Malformed)?;
    number.checked_mul(*factor).ok_or(UnitError::TooLarge)
}

/// Formats a size in its largest whole unit: `512m`.
pub fn format_size(bytes: u64) -> String {
    SIZE_UNITS
        .iter()
        .find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor))
        .map_or_else(
            || format!("{bytes}b"),
            |(unit, factor)| format!("{}{unit}", bytes / factor),
        )
}

/// Parses CPUs with at most three decimals, `2`, `0.5`, `5e-1`, as thousandths.
pub fn parse_cpus(text: &str) -> Result<u32, UnitError> {
    if text.is_empty() {
        return Err(UnitError::Empty);
    }
    let numeric = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | 'e' | 'E');
    let number: f64 = text
        .parse()
        .ok()
        .filter(|_| text.chars().all(numeric))
        .ok_or(UnitError::NotDecimal)?;
    let millis = (number * 1000.0).round();
    if !(0.0..=f64::from(u32::MAX)).contains(&millis) {
        return Err(UnitError::TooLarge);
    }
    // 0.3 has no exact binary form; the closest double to 300/1000 is the same one.
    if (millis / 1000.0).to_bits() != number.to_bits() {
        return Err(UnitError::NotDecimal);
    }
    Ok(millis as u32)
}

/// Formats thousandths of CPUs: `0.5`.
pub fn format_cpus(millis: u32) -> String {
    (f64::from(millis) / 1000.0).to_string()
}

/// The leading number, the letters behind it, and the rest.
fn number_and_unit(text: &str) -> Result<(u64, &str, &str), UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return Err(UnitError::Malformed);
    }
    let (number, rest) = text.split_at(digits);
    let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (unit, after) = rest.split_at(letters);
    if unit.is_empty() && !after.is_empty() {
        return Err(UnitError::Malformed);
    }
    let number = number.parse().map_err(|_| UnitError::TooLarge)?;
    Ok((number, unit, after))
}

/// Serializes a duration, or none, as its text.
pub(crate) fn duration<S: Serializer>(
    duration: &(impl Copy + Into<Option<Duration>>),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let duration = (*duration).into();
    duration.map(format_duration).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("2h", 7_200_000),
            ("2d", 172_800_000),
            ("1d12h", 129_600_000),
            ("1h1ms", 3_600_001),
            ("90s", 90_000),
            ("0s", 0),
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        assert_eq!(format_duration(Duration::from_secs(48 * 3600)), "48h");
        for (text, error) in [
            ("", UnitError::Empty),
            ("30", UnitError::NoUnit),
            ("1m30", UnitError::NoUnit),
            ("s", UnitError::Malformed),
            ("-1s", UnitError::Malformed),
            ("1.5s", UnitError::Malformed),
            ("1 s", UnitError::Malformed),
            ("1s1m", UnitError::Malformed),
            ("1s1s", UnitError::Malformed),
            ("1h1d", UnitError::Malformed),
            ("1w", UnitError::Malformed),
            ("1S", UnitError::Malformed),
            ("99999999999999999999s", UnitError::TooLarge),
            ("9999999999999999h", UnitError::TooLarge),
        ] {
            assert_eq!(parse_duration(text), Err(error), "{text}");
        }
    }

    #[test]
    fn cpus() {
        for (text, millis) in [
            ("0.01", 10),
            ("0.3", 300),
            ("0.5", 500),
            ("1", 1_000),
            ("1.001", 1_001),
            ("1024", 1_024_000),
        ] {
            assert_eq!(parse_cpus(text), Ok(millis), "{text}");
            assert_eq!(format_cpus(millis), text);
        }
        assert_eq!(parse_cpus("1.0"), Ok(1_000));
        assert_eq!(parse_cpus("5e-1"), Ok(500));
        for (text, error) in [
            ("", UnitError::Empty),
            ("500m", UnitError::NotDecimal),
            ("0.0005", UnitError::NotDecimal),
            ("1.2.3", UnitError::NotDecimal),
            ("inf", UnitError::NotDecimal),
            ("NaN", UnitError::NotDecimal),
            (" 1", UnitError::NotDecimal),
            ("1e300", UnitError::TooLarge),
            ("-1", UnitError::TooLarge),
        ] {
            assert_eq!(parse_cpus(text), Err(error), "{text}");
        }
        for millis in 0..20_000 {
            assert_eq!(parse_cpus(&format_cpus(millis)), Ok(millis));
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("512m", 512 << 20),
            ("10k", 10 << 10),
            ("1g", 1 << 30),
            ("7b", 7),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(format_size(bytes), text);
        }
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("512Mi", 512 << 20),
            ("512MB", 512 << 20),
            ("512mib", 512 << 20),
            ("1G", 1 << 30),
            ("10K", 10 << 10),
            ("7B", 7),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for (text, error) in [
            ("", UnitError::Empty),
            ("10", UnitError::NoUnit),
            ("10x", UnitError::Malformed),
            ("10m5k", UnitError::Malformed),
            ("10bb", UnitError::Malformed),
            ("10i", UnitError::Malformed),
            ("10mm", UnitError::Malformed),
            ("10 m", UnitError::Malformed),
            ("99999999999999g", UnitError::TooLarge),
        ] {
            assert_eq!(parse_size(text), Err(error), "{text}");
        }
    }
}
