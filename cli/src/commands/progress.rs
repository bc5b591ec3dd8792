//! Progress on a terminal: lines that are drawn anew in their place. Elsewhere there is none.

use std::io::{self, IsTerminal, Write as _};

use super::output;

/// Clears from the cursor to the end of the screen.
const CLEAR: &str = "\u{1b}[J";

/// A block of lines at the end of standard error.
pub(super) struct Progress {
    is_on: bool,
    drawn: usize,
}

impl Progress {
    /// Nothing is drawn yet.
    pub(super) fn new() -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            is_on: io::stderr().is_terminal() && !is_dumb && !output::is_quiet(),
            drawn: 0,
        }
    }

    /// There is a terminal to draw on.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Draws these lines in place of those before, cut where the terminal ends.
    pub(super) fn show(&mut self, lines: &[String]) {
        if !self.is_on {
            return;
        }
        let (columns, rows) = output::screen();
        // The cursor is on the line below the block.
        let most = rows.saturating_sub(1).max(1);
        let mut shown: Vec<String> = lines.iter().take(most).cloned().collect();
        if let (true, Some(last)) = (lines.len() > most, shown.last_mut()) {
            *last = format!("and {} more", lines.len() + 1 - most);
        }
        let mut text = self.back();
        for line in &shown {
            let line: String = output::one_line(line).chars().take(columns).collect();
            text.push_str(&line);
            text.push('\n');
        }
        self.drawn = shown.len();
        write(&text);
    }

    /// Takes the block away, so that other lines can be written.
    pub(super) fn clear(&mut self) {
        if self.drawn > 0 {
            let text = self.back();
            self.drawn = 0;
            write(&text);
        }
    }

    fn back(&self) -> String {
        match self.drawn {
            0 => String::new(),
            lines => format!("\u{1b}[{lines}A\r{CLEAR}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Nobody may be listening.
fn write(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
