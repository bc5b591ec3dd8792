//! What commands print: text, JSON and tables that fit the terminal, without colour.
//!
//! Every byte to standard output goes through `print`. A reader that has gone
//! (`dokkaa ps | head -1`) ends the command cleanly.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::error::CommandError;

/// Between two columns.
const GAP: usize = 2;
/// Before what is put below its row.
const INDENT: &str = "    ";
/// A last column narrower than this is put below its row.
const NARROW: usize = 24;

/// Writes text to standard output.
pub(crate) fn print(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => CommandError::Closed,
            _ => CommandError::Failed(format!("standard output: {error}")),
        })
}

/// Says something beside the output. Nobody may be listening.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Columns of the terminal; none in a pipe, and where the terminal does not know.
fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// A value as JSON for programs, indented.
pub(crate) fn json(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| CommandError::Failed(error.to_string()))?;
    print(&(text + "\n"))
}

/// A value as one line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), CommandError> {
    let text =
        serde_json::to_string(value).map_err(|error| CommandError::Failed(error.to_string()))?;
    print(&(text + "\n"))
}

/// Rows under headings; the last column is free text. In a pipe a row is a line; on a terminal a last cell that
/// does not fit goes below its row.
pub(crate) fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    lay_out(headings, rows, width())
}

fn lay_out(headings: &[&str], rows: Vec<Vec<String>>, width: Option<usize>) -> String {
    // A reason may quote several lines; in a table it is one.
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|row| row.iter().map(|cell| one_line(cell)).collect())
        .collect();
    let headings: Vec<String> = headings.iter().map(|&text| text.to_owned()).collect();
    let length = |text: &String| text.chars().count();
    let last = headings.len().saturating_sub(1);
    let widths: Vec<usize> = (0..last)
        .map(|at| {
            let cells = rows.iter().filter_map(|row| row.get(at));
            cells.chain(headings.get(at)).map(length).max().unwrap_or(0)
        })
        .collect();
    let left: usize = widths.iter().map(|width| width + GAP).sum();
    let longest = rows
        .iter()
        .filter_map(|row| row.get(last))
        .map(length)
        .max();
    let fits = width.is_none_or(|width| left + longest.unwrap_or(0) <= width);
    let beside = width.map_or(usize::MAX, |width| width.saturating_sub(left));
    let mut text = String::new();
    let head = std::iter::once((true, &headings));
    for (is_heading, row) in head.chain(rows.iter().map(|row| (false, row))) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}{:GAP$}", "", width = *width);
        }
        let tail = row.get(last).map_or("", String::as_str);
        if fits || (beside >= NARROW && (is_heading || tail.chars().count() <= beside)) {
            line.push_str(tail);
            push_line(&mut text, &line);
            continue;
        }
        push_line(&mut text, &line);
        if is_heading || tail.is_empty() {
            continue;
        }
        let room = width.unwrap_or(usize::MAX).saturating_sub(INDENT.len());
        for piece in wrapped(tail, room.max(NARROW)) {
            push_line(&mut text, &format!("{INDENT}{piece}"));
        }
    }
    text
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}

/// In lines of at most so many characters, cut between words where that is possible.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut length = 0;
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        if length > 0 && length + 1 + word.len() > room {
            lines.push(std::mem::take(&mut line));
            length = 0;
        }
        while word.len() > room {
            let rest = word.split_off(room);
            lines.push(word.into_iter().collect());
            word = rest;
        }
        if length > 0 {
            line.push(' ');
            length += 1;
        }
        length += word.len();
        line.extend(word);
    }
    lines.push(line);
    lines
}

/// Without line ends and control characters, which a log line may carry to the terminal.
pub(crate) fn one_line(text: &str) -> String {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.trim().to_owned()
}

/// So many of them: `1 slot`, `2 slots`.
pub(crate) fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Seconds as people say them: `42s`, `5m`, `3h`, `2d`.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A time as this machine's clock shows it, to the second.
pub(crate) fn local_time(time: Timestamp, zone: &TimeZone) -> String {
    let local = time.to_zoned(zone.clone());
    local.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// With 12 digits of each digest, as Docker prints ids.
pub(crate) fn short_digests(text: &str) -> String {
    const KEPT: usize = 12;
    let mut short = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("sha256:") {
        let (before, digest) = rest.split_at(at + "sha256:".len());
        let length = digest
            .find(|c: char| !c.is_ascii_hexdigit())
            .unwrap_or(digest.len());
        short.push_str(before);
        short.push_str(&digest[..length.min(KEPT)]);
        rest = &digest[length..];
    }
    short.push_str(rest);
    short
}

/// Bytes as people say them.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0 => "-".to_owned(),
        b if b < 1 << 30 => format!("{}M", b >> 20),
        b => format!("{:.1}G", b as f64 / f64::from(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_in_a_pipe_is_one_line_a_row_without_trailing_blanks() {
        let rows = vec![
            vec!["a".to_owned(), "x".repeat(300)],
            vec!["bbb".to_owned(), "two\nlines\u{1b}[31m".to_owned()],
        ];
        let text = lay_out(&["NAME", "REASON"], rows, None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], "NAME  REASON");
        assert_eq!(lines[2], "bbb   two lines [31m");
    }

    #[test]
    fn what_does_not_fit_goes_below_its_row() {
        let rows = || {
            vec![
                vec!["a".to_owned(), "ready".to_owned(), String::new()],
                vec![
                    "bbb".to_owned(),
                    "waiting".to_owned(),
                    "no host is eligible: h1: it is paused".to_owned(),
                ],
                vec!["c".to_owned(), "waiting".to_owned(), "short".to_owned()],
            ]
        };
        let headings = ["NAME", "STATUS", "REASON"];
        let text = lay_out(&headings, rows(), Some(42));
        assert_eq!(
            text,
            "NAME  STATUS   REASON\n\
             a     ready\n\
             bbb   waiting\n    no host is eligible: h1: it is paused\n\
             c     waiting  short\n"
        );
        // Too narrow for a last column at all.
        let text = lay_out(&headings, rows(), Some(30));
        assert_eq!(
            text,
            "NAME  STATUS\n\
             a     ready\n\
             bbb   waiting\n    no host is eligible: h1:\n    it is paused\n\
             c     waiting\n    short\n"
        );
        assert_eq!(lay_out(&headings, rows(), Some(80)).lines().count(), 4);
    }

    #[test]
    fn long_words_are_cut() {
        assert_eq!(wrapped("ab cdefgh i", 3), ["ab", "cde", "fgh", "i"]);
        assert_eq!(wrapped("", 3), [""]);
    }

    #[test]
    fn digests_are_short() {
        let digest = "0123456789abcdef".repeat(4);
        assert_eq!(
            short_digests(&format!(
                "a@sha256:{digest}, local:sha256:{digest}: sha256:12"
            )),
            "a@sha256:0123456789ab, local:sha256:0123456789ab: sha256:12"
        );
    }

    #[test]
    fn counts_ages_and_sizes() {
        assert_eq!(count(1, "slot"), "1 slot");
        assert_eq!(count(0, "slot"), "0 slots");
        assert_eq!(age(90), "90s");
        assert_eq!(age(150), "2m");
        assert_eq!(age(86_400), "24h");
        assert_eq!(age(400_000), "4d");
        assert_eq!(size(512 << 20), "512M");
        assert_eq!(size(3 << 29), "1.5G");
    }
}
