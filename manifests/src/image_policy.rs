//! `image_policy`: which newer image a registry may have for a container, and how often it is asked.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::image::Reference;
use crate::units::duration;

/// Longest tag, and so the longest pattern that can match one.
const MAX_TAG: usize = 128;

/// Whether, and how often, the registry is asked for a newer image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImagePolicy {
    /// Time between two questions.
    #[serde(serialize_with = "duration")]
    pub check: Duration,
    /// The tags of which the newest is run; none: the tag of the manifest, whatever digest it has.
    #[serde(rename = "match")]
    pub tags: Option<TagPattern>,
}

impl Default for ImagePolicy {
    fn default() -> Self {
        Self {
            check: Duration::from_secs(5 * 60),
            tags: None,
        }
    }
}

/// A pattern over tags: each `*` in it is one whole number, and everything else is as it is written.
///
/// So all tags that one pattern matches have the same shape, and are in the order of their numbers, from left to
/// right: `1.27.*` has 1.27.9 before 1.27.10, and matches neither `1.27.3-alpine` nor the pre-release `1.28.0-rc1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagPattern(String);

/// Error of parsing a pattern; reads on from the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing in it may differ.
    #[error("has no `*`, so it can only be one tag")]
    Fixed,
    /// Two numbers side by side are one.
    #[error("has a `*` beside a digit or another `*`; each is one whole number")]
    Adjacent,
    /// No tag looks like that.
    #[error("can't be a tag: letters, digits, `_`, `.`, `-` and `*`, at most 128")]
    NoTag,
}

impl TagPattern {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The numbers of a tag at the places of the `*`; none if it does not match.
    fn numbers<'t>(&self, tag: &'t str) -> Option<Vec<Number<'t>>> {
        let mut literals = self.0.split('*');
        let mut rest = tag.strip_prefix(literals.next()?)?;
        let mut numbers = Vec::new();
        for literal in literals {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            if number.is_empty() {
                return None;
            }
            numbers.push(Number(number));
            rest = after.strip_prefix(literal)?;
        }
        rest.is_empty().then_some(numbers)
    }

    /// The tag matches.
    pub fn matches(&self, tag: &str) -> bool {
        self.numbers(tag).is_some()
    }

    /// The newest of these tags, if it is not older than `present`.
    pub fn newest<'t>(
        &self,
        present: Option<&'t str>,
        tags: impl IntoIterator<Item = &'t str>,
    ) -> Option<&'t str> {
        let known = tags.into_iter().chain(present);
        let matching = known.filter_map(|tag| Some((self.numbers(tag)?, tag)));
        matching.max().map(|(_, tag)| tag)
    }
}

/// A whole number in decimal digits, as long as it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Number<'t>(&'t str);

impl Ord for Number<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let [one, two] = [self.0, other.0].map(|digits| digits.trim_start_matches('0'));
        let by_value = one.len().cmp(&two.len()).then(one.cmp(two));
        by_value.then(other.0.len().cmp(&self.0.len()))
    }
}

impl PartialOrd for Number<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for TagPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let example = text.replace('*', "0");
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let is_tag = example.len() <= MAX_TAG
            && example.bytes().next().is_some_and(is_word)
            && example
                .bytes()
                .all(|b| is_word(b) || matches!(b, b'.' | b'-'));
        if !is_tag {
            return Err(PatternError::NoTag);
        }
        if !text.contains('*') {
            return Err(PatternError::Fixed);
        }
        let is_number = |b: u8| b == b'*' || b.is_ascii_digit();
        let mut pairs = text.as_bytes().windows(2);
        if pairs.any(|pair| pair.contains(&b'*') && pair.iter().all(|b| is_number(*b))) {
            return Err(PatternError::Adjacent);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for TagPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// This image with another tag, and no digest.
pub fn with_tag(image: &Reference, tag: &str) -> Reference {
    Reference {
        tag: Some(tag.to_owned()),
        digest: None,
        ..image.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest<'t>(pattern: &str, present: Option<&'t str>, tags: &[&'t str]) -> Option<&'t str> {
        let pattern: TagPattern = pattern.parse().expect(pattern);
        pattern.newest(present, tags.iter().copied())
    }

    #[test]
    fn the_newest_is_that_of_the_highest_numbers_from_left_to_right() {
        let tags = [
            "latest",
            "1.27.9",
            "1.27.10",
            "1.27.10-alpine",
            "1.27.11-rc1",
            "1.28.0",
            "1.27",
            "1.27.x",
            "v1.27.99",
            "1.27.8.1",
            "",
        ];
        for (pattern, expected) in [
            ("1.27.*", Some("1.27.10")),
            ("1.*.*", Some("1.28.0")),
            ("*.*", Some("1.27")),
            ("*.*.*-alpine", Some("1.27.10-alpine")),
            ("1.27.*-rc*", Some("1.27.11-rc1")),
            ("v*.*.*", Some("v1.27.99")),
            ("2.*", None),
        ] {
            assert_eq!(newest(pattern, None, &tags), expected, "{pattern}");
        }
        // Numbers have no longest one, and zeros before them count for nothing.
        let builds = ["b-20260101000000000000000000", "b-9", "b-007", "b-0"];
        assert_eq!(newest("b-*", None, &builds), Some(builds[0]));
        assert_eq!(newest("b-*", None, &["b-010", "b-9", "b-10"]), Some("b-10"));
    }

    #[test]
    fn nothing_older_than_the_present_one_is_newer() {
        assert_eq!(newest("1.*", Some("1.9"), &["1.2", "1.8"]), Some("1.9"));
        assert_eq!(newest("1.*", Some("1.9"), &["1.10", "1.8"]), Some("1.10"));
        // One that does not match is no measure.
        assert_eq!(newest("1.*", Some("2.0"), &["1.10"]), Some("1.10"));
    }

    #[test]
    fn a_pattern_has_one_meaning_or_is_refused() {
        for (text, error) in [
            ("", PatternError::NoTag),
            ("1.27 *", PatternError::NoTag),
            ("a/b:*", PatternError::NoTag),
            (".*", PatternError::NoTag),
            ("1.27.3", PatternError::Fixed),
            ("1.27.**", PatternError::Adjacent),
            ("1*", PatternError::Adjacent),
            ("*5", PatternError::Adjacent),
        ] {
            assert_eq!(text.parse::<TagPattern>(), Err(error), "{text}");
        }
        let pattern: TagPattern = "1.27.*".parse().expect("a pattern");
        assert_eq!(pattern.to_string().parse(), Ok(pattern));
    }

    #[test]
    fn an_image_gets_another_tag() {
        let image: Reference = "r.example:5000/a/b:1".parse().expect("a reference");
        assert_eq!(with_tag(&image, "2").to_string(), "r.example:5000/a/b:2");
    }
}
