//! What commands print: text and JSON, without colour.
//!
//! Every byte to standard output goes through `print`. A reader that has gone
//! (`dokkaa ps | head -1`) ends the command cleanly.

use std::io::{self, IsTerminal, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::error::CommandError;

/// Of a terminal that says 0, as those of `docker exec` and serial lines do.
pub(crate) const USUAL_COLUMNS: usize = 80;
const USUAL_ROWS: usize = 24;

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

/// `--quiet`, once for the process: notices come from every part of a command.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Takes over `--quiet`.
pub(super) fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// `--quiet` was given.
pub(super) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Progress, a notice or a warning on stderr, unless `--quiet`. Nobody may be listening.
pub(crate) fn note(text: &str) {
    if !is_quiet() {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// Standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Columns of the terminal, 80 where it does not know them; none in a pipe.
pub(crate) fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(match usize::from(size.ws_col) {
        0 => USUAL_COLUMNS,
        columns => columns,
    })
}

/// Text for people on standard output: on a terminal no line is wider than it, cut between words, and what follows is set
/// below the first word of its line.
pub(super) fn print_lines(text: &str) -> Result<(), CommandError> {
    match columns() {
        Some(columns) => print(&folded(text, columns)),
        None => print(text),
    }
}

/// An error as standard error shows it: on a terminal in lines that fit.
pub(crate) fn error_text(text: String) -> String {
    if io::stderr().is_terminal() {
        folded(&text, screen().0).trim_end().to_owned()
    } else {
        text
    }
}

fn folded(text: &str, columns: usize) -> String {
    let mut folded = String::with_capacity(text.len());
    for line in text.lines() {
        let words = line.trim_start_matches(' ');
        let indent = line.len() - words.len();
        let below = indent + 2;
        // One that fits is left as it is.
        let room = if line.chars().count() <= columns {
            usize::MAX
        } else {
            columns.saturating_sub(below)
        };
        for (at, part) in wrapped(words, room).into_iter().enumerate() {
            folded.push_str(&" ".repeat(if at == 0 { indent } else { below }));
            folded.push_str(&part);
            folded.push('\n');
        }
    }
    folded
}

/// In lines of at most so many characters, cut between words only.
pub(super) fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Columns and rows of the terminal of standard error, as usual where it does not know them.
pub(super) fn screen() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok();
    let or = |known: Option<u16>, usual| match usize::from(known.unwrap_or_default()) {
        0 => usual,
        known => known,
    };
    (
        or(size.map(|size| size.ws_col), USUAL_COLUMNS),
        or(size.map(|size| size.ws_row), USUAL_ROWS),
    )
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

/// Replaces line ends and control characters, which a log line may carry to the terminal.
pub(crate) fn one_line(text: &str) -> String {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.trim().to_owned()
}

/// `1 slot`, `2 slots`.
pub(crate) fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// `42s`, `5m`, `3h`, `2d`.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A time in this machine's zone, to the second.
pub(crate) fn local_time(time: Timestamp, zone: &TimeZone) -> String {
    let local = time.to_zoned(zone.clone());
    local.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Shortens each digest to 12 digits, as Docker prints ids.
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

/// `512M`, `1.5G`.
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
    fn long_lines_go_on_below_their_first_word() {
        let text = "agent  1 on h1\nproblems\n  h1: its engine does not answer\n\nend\n";
        let expected =
            "agent  1 on h1\nproblems\n  h1: its\n    engine does\n    not answer\n\nend\n";
        assert_eq!(folded(text, 15), expected);
        assert_eq!(folded(text, 80), text);
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
