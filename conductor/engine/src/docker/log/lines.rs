//! Puts lines together again that Docker has cut: its log keeps parts of 16 KiB, each with its own time. Pure.

use bytes::{Bytes, BytesMut};

use crate::{LogChunk, OutputStream};

/// Docker cuts a line into parts of so many bytes. What is shorter and has no newline is the end of a process's output.
const PART: usize = 16 * 1024;
/// Longer lines are given out in pieces.
const LONGEST: usize = 1 << 20;

/// Parts of which a line can have so many.
pub(super) const PARTS: u32 = (LONGEST / PART) as u32;

/// Lines whose ends have not come yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    stdout: Open,
    stderr: Open,
    /// The time of the last line that was given out.
    last: i64,
}

/// The beginning of a line, and when it was written.
#[derive(Debug, Default)]
struct Open {
    bytes: BytesMut,
    at: i64,
}

impl Lines {
    /// The line that is whole with this part, if one is.
    pub(super) fn push(&mut self, part: LogChunk) -> Option<LogChunk> {
        let LogChunk { stream, at, bytes } = part;
        let goes_on = bytes.len() >= PART && !bytes.ends_with(b"\n");
        let open = self.open(stream);
        if !goes_on && open.bytes.is_empty() {
            return Some(self.give_out(stream, at, bytes));
        }
        if open.bytes.is_empty() {
            open.at = at;
        }
        open.bytes.extend_from_slice(&bytes);
        if goes_on && open.bytes.len() < LONGEST {
            return None;
        }
        let (at, bytes) = (open.at, open.bytes.split().freeze());
        Some(self.give_out(stream, at, bytes))
    }

    /// What has no end when the log ends.
    pub(super) fn rest(&mut self) -> Option<LogChunk> {
        [OutputStream::Stdout, OutputStream::Stderr]
            .into_iter()
            .find_map(|stream| {
                let open = self.open(stream);
                let (at, bytes) = (open.at, open.bytes.split().freeze());
                (!bytes.is_empty()).then(|| self.give_out(stream, at, bytes))
            })
    }

    fn open(&mut self, stream: OutputStream) -> &mut Open {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }

    /// Its time is that of its beginning, and never before that of a line before it: who reads on goes by that.
    fn give_out(&mut self, stream: OutputStream, at: i64, bytes: Bytes) -> LogChunk {
        self.last = self.last.max(at);
        LogChunk {
            stream,
            at: self.last,
            bytes,
        }
    }
}

/// How many of these parts make the last `lines` lines; none if that can't be told, because they may begin earlier.
pub(super) fn parts_of_last(parts: Vec<LogChunk>, lines: u32, all: bool) -> Option<u32> {
    let mut whole = Lines::default();
    let mut ends = Vec::new();
    let count = parts.len();
    for (index, part) in parts.into_iter().enumerate() {
        if whole.push(part).is_some() {
            ends.push(index + 1);
        }
    }
    if whole.rest().is_some() {
        ends.push(count);
    }
    let before = ends.len().checked_sub(lines as usize);
    match before {
        Some(before) if before > 0 => Some((count - ends[before - 1]) as u32),
        _ if all => Some(count as u32),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(stream: OutputStream, at: i64, length: usize, newline: bool) -> LogChunk {
        let mut bytes = vec![b'x'; length];
        if newline {
            bytes.push(b'\n');
        }
        LogChunk {
            stream,
            at,
            bytes: bytes.into(),
        }
    }

    fn out(at: i64, length: usize, newline: bool) -> LogChunk {
        part(OutputStream::Stdout, at, length, newline)
    }

    /// The lines of a log: stream, time and length.
    fn lines(parts: impl IntoIterator<Item = LogChunk>) -> Vec<(OutputStream, i64, usize)> {
        let mut lines = Lines::default();
        let mut all: Vec<LogChunk> = parts.into_iter().filter_map(|p| lines.push(p)).collect();
        all.extend(std::iter::from_fn(|| lines.rest()));
        all.into_iter()
            .map(|line| (line.stream, line.at, line.bytes.len()))
            .collect()
    }

    #[test]
    fn parts_are_one_line_with_the_time_of_the_first() {
        use OutputStream::{Stderr, Stdout};
        let parts = [
            out(1, 3, true),
            out(2, PART, false),
            out(3, PART, false),
            out(4, 10, true),
            // Whole parts only, and a newline of its own.
            out(5, PART, false),
            out(6, 0, true),
        ];
        let whole = [
            (Stdout, 1, 4),
            (Stdout, 2, 2 * PART + 11),
            (Stdout, 5, PART + 1),
        ];
        assert_eq!(lines(parts), whole);

        // Each stream by itself; no line has a time before that of one that was given out.
        let mixed = [
            out(1, PART, false),
            part(Stderr, 2, 5, true),
            out(3, 5, true),
            part(Stderr, 4, PART, false),
        ];
        let whole = [(Stderr, 2, 6), (Stdout, 2, PART + 6), (Stderr, 4, PART)];
        assert_eq!(lines(mixed), whole);
    }

    #[test]
    fn what_a_process_wrote_last_without_a_newline_is_a_line() {
        use OutputStream::Stdout;
        // Then it was started again.
        let parts = [out(1, 5, false), out(2, 5, true), out(3, 4, false)];
        assert_eq!(
            lines(parts),
            [(Stdout, 1, 5), (Stdout, 2, 6), (Stdout, 3, 4)]
        );
    }

    #[test]
    fn a_line_without_end_comes_in_pieces() {
        let endless = (0..130).map(|at| out(at, PART, false));
        let lengths: Vec<usize> = lines(endless).into_iter().map(|line| line.2).collect();
        assert_eq!(lengths, [LONGEST, LONGEST, 2 * PART]);
    }

    #[test]
    fn the_last_lines_are_counted_in_parts() {
        let parts = || {
            vec![
                out(1, PART, false),
                out(2, 1, true),
                out(3, 1, true),
                out(4, PART, false),
                out(5, PART, false),
                out(6, 1, false),
            ]
        };
        let count = |lines, all| parts_of_last(parts(), lines, all);
        assert_eq!(count(0, false), Some(0));
        assert_eq!(count(1, false), Some(3));
        assert_eq!(count(2, false), Some(4));
        // The third may have begun before what was read.
        assert_eq!(count(3, false), None);
        assert_eq!(count(3, true), Some(6));
        assert_eq!(count(9, true), Some(6));
    }
}
