//! What commands print: text, JSON and tables that fit the terminal, without colour.
//!
//! Every byte to standard output goes through `print`. A reader that has gone
//! (`dokkaa ps | head -1`) ends the command cleanly.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::error::CommandError;

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

/// Rows under headings. On a terminal cells are wrapped to fit; in a pipe a row is a line.
pub(crate) fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(if is_terminal() {
            ContentArrangement::Dynamic
        } else {
            ContentArrangement::Disabled
        })
        .set_header(headings.iter().copied());
    for row in rows {
        // A reason may quote several lines; in a table it is one.
        table.add_row(row.into_iter().map(|cell| one_line(&cell)));
    }
    let last = headings.len().saturating_sub(1);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if at == last { 0 } else { 2 }));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Without line ends and control characters, which a log line may carry to the terminal.
pub(crate) fn one_line(text: &str) -> String {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.trim().to_owned()
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
        let text = table(&["NAME", "REASON"], rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], "NAME  REASON");
        assert_eq!(lines[2], "bbb   two lines [31m");
    }

    #[test]
    fn ages_and_sizes() {
        assert_eq!(age(90), "90s");
        assert_eq!(age(150), "2m");
        assert_eq!(age(86_400), "24h");
        assert_eq!(age(400_000), "4d");
        assert_eq!(size(512 << 20), "512M");
        assert_eq!(size(3 << 29), "1.5G");
    }
}
