//! Streams of JSON values, one a line; an empty line is a heartbeat. Pure.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest line: a log line of 1 MiB, as JSON with its escapes.
const LONGEST: usize = 8 << 20;

/// Errors of a stream.
#[derive(Debug, thiserror::Error)]
pub enum NdjsonError {
    /// A line is not a value of the expected type.
    #[error("a line could not be read")]
    Line(#[source] serde_json::Error),
    /// A line is too long.
    #[error("a line is longer than {LONGEST} bytes")]
    TooLong,
}

/// A value as one line.
pub fn line(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// Incremental parser.
#[derive(Debug)]
pub struct Reader<T> {
    rest: Vec<u8>,
    of: PhantomData<fn() -> T>,
}

impl<T> Default for Reader<T> {
    fn default() -> Self {
        Self {
            rest: Vec::new(),
            of: PhantomData,
        }
    }
}

impl<T: DeserializeOwned> Reader<T> {
    /// Values completed by this piece.
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<T>, NdjsonError> {
        let mut values = Vec::new();
        let mut pieces = piece.split_inclusive(|byte| *byte == b'\n');
        for part in pieces.by_ref() {
            self.rest.extend_from_slice(part);
            if !part.ends_with(b"\n") {
                break;
            }
            let text = self.rest.trim_ascii();
            if !text.is_empty() {
                values.push(serde_json::from_slice(text).map_err(NdjsonError::Line)?);
            }
            self.rest.clear();
        }
        if self.rest.len() > LONGEST {
            return Err(NdjsonError::TooLong);
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn values_come_whole_however_the_stream_is_cut() {
        let text = b"{\"a\":1}\n\n{\"a\":2}\n";
        for at in 0..text.len() {
            let mut reader = Reader::<serde_json::Value>::default();
            let mut values = reader.push(&text[..at]).unwrap();
            values.extend(reader.push(&text[at..]).unwrap());
            let numbers: Vec<_> = values.iter().map(|v| v["a"].as_i64()).collect();
            assert_eq!(numbers, [Some(1), Some(2)], "cut at {at}");
        }
    }

    #[test]
    fn what_is_no_value_and_what_never_ends_are_errors() {
        let mut reader = Reader::<u32>::default();
        assert!(matches!(reader.push(b"x\n"), Err(NdjsonError::Line(_))));
        let mut reader = Reader::<u32>::default();
        let piece = vec![b'1'; LONGEST + 1];
        assert!(matches!(reader.push(&piece), Err(NdjsonError::TooLong)));
    }
}
