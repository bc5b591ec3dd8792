//! Tables: a row is a line in a pipe, and fits on a terminal.
//!
//! No word and no address is broken. Where the columns are wider than the
//! terminal, lists of addresses are stacked; then whole columns are left out,
//! the least important first. Free text that does not fit beside its row goes
//! below it.

use std::fmt::Write as _;

use super::output::{self, one_line, wrapped};
use crate::args::Format;

/// Between two columns.
const GAP: usize = 2;
/// Before text that is put below its row.
const INDENT: &str = "    ";
/// Text below its row is never wrapped narrower than this.
const NARROWEST: usize = 24;

/// A heading, and when its column is shown.
pub(super) struct Column(pub(super) &'static str, pub(super) Shown);

/// When a column is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Always,
    /// Where it fits; the lowest rank is left out first.
    IfFits(u8),
    /// As `IfFits`, after its words were put one below the other.
    Stacked(u8),
    /// With `-o wide`.
    Wide,
    /// Free text; the last column.
    Text,
}

/// A table of which rows come one after the other.
pub(super) struct Table {
    columns: &'static [Column],
    /// Widest cell and longest word of each column so far.
    widths: Vec<(usize, usize)>,
    /// Width of the terminal; none in a pipe.
    pub(super) room: Option<usize>,
    is_wide: bool,
}

/// A column as it is laid out.
#[derive(Clone, Copy)]
struct Place {
    at: usize,
    width: usize,
}

/// A complete table, under its headings.
pub(super) fn table(
    columns: &'static [Column],
    format: Format,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    complete(Table::new(columns, format), rows)
}

fn complete(mut table: Table, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let headings = table.columns.iter().map(|column| column.0.to_owned());
    let rows: Vec<Vec<String>> = std::iter::once(headings.collect())
        .chain(rows.into_iter().map(clean))
        .collect();
    for row in &rows {
        table.widen(row);
    }
    let (places, left_out) = table.fit();
    let mut text = String::new();
    for (n, row) in rows.iter().enumerate() {
        text.push_str(&table.lay_out(row, &places, n == 0));
    }
    if !left_out.is_empty() {
        let _ = writeln!(text, "(-o wide shows {}, too)", left_out.join(", "));
    }
    text
}

impl Table {
    pub(super) fn new(columns: &'static [Column], format: Format) -> Self {
        Self {
            columns,
            widths: vec![(0, 0); columns.len()],
            room: output::columns(),
            is_wide: format == Format::Wide,
        }
    }

    /// Columns are at least so wide.
    pub(super) fn at_least(mut self, widths: &[usize]) -> Self {
        for ((width, _), least) in self.widths.iter_mut().zip(widths) {
            *width = (*width).max(*least);
        }
        self
    }

    /// The next row, in columns that are as wide as the widest cell so far.
    pub(super) fn row(&mut self, cells: Vec<String>) -> String {
        let cells = clean(cells);
        self.widen(&cells);
        self.lay_out(&cells, &self.fit().0, false)
    }

    fn widen(&mut self, row: &[String]) {
        for ((width, word), cell) in self.widths.iter_mut().zip(row) {
            *width = length(cell).max(*width);
            *word = cell.split(' ').map(length).fold(*word, usize::max);
        }
    }

    /// The columns but the text, and the headings of those that there is no room for.
    fn fit(&self) -> (Vec<Place>, Vec<&'static str>) {
        let shown = |at: usize| self.columns[at].1;
        let mut places: Vec<Place> = (0..self.columns.len())
            .filter(|at| shown(*at) != Shown::Text && (self.is_wide || shown(*at) != Shown::Wide))
            .map(|at| Place {
                at,
                width: self.widths[at].0,
            })
            .collect();
        let mut left_out = Vec::new();
        let room = self.room.filter(|_| !self.is_wide);
        let is_over = |places: &[Place]| room.is_some_and(|room| left(places) > room + GAP);
        if is_over(&places) {
            for place in &mut places {
                if matches!(shown(place.at), Shown::Stacked(_)) {
                    place.width = self.widths[place.at].1;
                }
            }
        }
        while is_over(&places) {
            let ranked = places.iter().enumerate().filter_map(|(n, place)| {
                let (Shown::IfFits(rank) | Shown::Stacked(rank)) = shown(place.at) else {
                    return None;
                };
                Some((rank, n))
            });
            let Some((_, n)) = ranked.min() else { break };
            left_out.push(places.remove(n).at);
        }
        left_out.sort_unstable();
        (
            places,
            left_out.iter().map(|at| self.columns[*at].0).collect(),
        )
    }

    fn lay_out(&self, row: &[String], places: &[Place], is_heading: bool) -> String {
        let mut lines = stacked(row, places);
        let text = match self.columns.last() {
            Some(Column(_, Shown::Text)) => row.last().map_or("", String::as_str),
            _ => "",
        };
        let beside = self.room.map(|room| room.saturating_sub(left(places)));
        if beside.is_none_or(|beside| length(text) <= beside) {
            lines[0].push_str(text);
        } else if !is_heading {
            let room = self.room.unwrap_or(usize::MAX).saturating_sub(INDENT.len());
            let below = wrapped(text, room.max(NARROWEST));
            lines.extend(below.iter().map(|piece| format!("{INDENT}{piece}")));
        }
        let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
        lines.join("\n") + "\n"
    }
}

/// Width of the columns and the gaps behind them.
fn left(places: &[Place]) -> usize {
    places.iter().map(|place| place.width + GAP).sum()
}

/// The lines of a row: one, unless a cell is wider than its column.
fn stacked(row: &[String], places: &[Place]) -> Vec<String> {
    let cells: Vec<Vec<String>> = places
        .iter()
        .map(|place| match row.get(place.at) {
            Some(cell) if length(cell) > place.width => wrapped(cell, place.width),
            cell => vec![cell.cloned().unwrap_or_default()],
        })
        .collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(1);
    (0..height)
        .map(|n| {
            let line = cells.iter().zip(places).map(|(cell, place)| {
                let piece = cell.get(n).map_or("", String::as_str);
                format!("{piece:width$}{:GAP$}", "", width = place.width)
            });
            line.collect()
        })
        .collect()
}

/// A reason may quote several lines; in a table it is one.
fn clean(row: Vec<String>) -> Vec<String> {
    row.iter().map(|cell| one_line(cell)).collect()
}

fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        Column("NAME", Shown::Always),
        Column("STATUS", Shown::Always),
        Column("REASON", Shown::Text),
    ];
    const PORTS: &[Column] = &[
        Column("NAME", Shown::Always),
        Column("HOST", Shown::IfFits(2)),
        Column("AGE", Shown::IfFits(1)),
        Column("PORTS", Shown::Stacked(3)),
        Column("ID", Shown::Wide),
    ];

    fn laid_out(columns: &'static [Column], room: Option<usize>, rows: &[&[&str]]) -> String {
        shown(columns, Format::Table, room, rows)
    }

    fn shown(
        columns: &'static [Column],
        format: Format,
        room: Option<usize>,
        rows: &[&[&str]],
    ) -> String {
        let rows = rows.iter();
        let rows = rows.map(|row| row.iter().map(|&cell| cell.to_owned()).collect());
        let table = Table {
            room,
            ..Table::new(columns, format)
        };
        complete(table, rows)
    }

    #[test]
    fn a_row_in_a_pipe_is_a_line_without_trailing_blanks() {
        let long = "x".repeat(300);
        let rows: [&[&str]; 2] = [
            &["a", "ready", &long],
            &["bbb", "ready", "two\nlines\u{1b}[31m"],
        ];
        let text = laid_out(COLUMNS, None, &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], "NAME  STATUS  REASON");
        assert_eq!(lines[2], "bbb   ready   two lines [31m");
    }

    #[test]
    fn text_that_does_not_fit_goes_below_its_row() {
        let rows: [&[&str]; 3] = [
            &["a", "ready", ""],
            &["bbb", "waiting", "no host is eligible: h1: it is paused"],
            &["c", "waiting", "short"],
        ];
        assert_eq!(
            laid_out(COLUMNS, Some(42), &rows),
            "NAME  STATUS   REASON\n\
             a     ready\n\
             bbb   waiting\n    no host is eligible: h1: it is paused\n\
             c     waiting  short\n"
        );
        assert_eq!(
            laid_out(COLUMNS, Some(19), &rows),
            "NAME  STATUS\n\
             a     ready\n\
             bbb   waiting\n    no host is eligible: h1:\n    it is paused\n\
             c     waiting\n    short\n"
        );
        assert_eq!(laid_out(COLUMNS, Some(80), &rows).lines().count(), 4);
    }

    #[test]
    fn columns_without_room_are_left_out_and_no_address_is_broken() {
        let row: [&[&str]; 1] = [&["web", "h1", "3h", "a=10.0.0.1:1 b=10.0.0.1:2", "cafe"]];
        let table = |room| laid_out(PORTS, Some(room), &row);
        assert_eq!(
            table(80),
            "NAME  HOST  AGE  PORTS\nweb   h1    3h   a=10.0.0.1:1 b=10.0.0.1:2\n"
        );
        assert_eq!(
            table(30),
            "NAME  HOST  AGE  PORTS\n\
             web   h1    3h   a=10.0.0.1:1\n                 b=10.0.0.1:2\n"
        );
        assert_eq!(
            table(24),
            "NAME  HOST  PORTS\n\
             web   h1    a=10.0.0.1:1\n            b=10.0.0.1:2\n\
             (-o wide shows AGE, too)\n"
        );
        assert_eq!(
            table(10),
            "NAME\nweb\n(-o wide shows HOST, AGE, PORTS, too)\n"
        );
        assert_eq!(
            shown(PORTS, Format::Wide, Some(10), &row),
            "NAME  HOST  AGE  PORTS                      ID\n\
             web   h1    3h   a=10.0.0.1:1 b=10.0.0.1:2  cafe\n"
        );
    }

    #[test]
    fn rows_that_come_later_widen_the_columns() {
        let mut table = Table {
            room: None,
            ..Table::new(COLUMNS, Format::Table)
        }
        .at_least(&[3]);
        let mut row = |name: &str| table.row(vec![name.to_owned(), "up".to_owned(), String::new()]);
        assert_eq!(row("a"), "a    up\n");
        assert_eq!(row("abcdef"), "abcdef  up\n");
        assert_eq!(row("a"), "a       up\n");
    }

    #[test]
    fn long_words_are_kept_whole() {
        assert_eq!(wrapped("ab cdefgh i", 3), ["ab", "cdefgh", "i"]);
        assert_eq!(wrapped("", 3), [""]);
    }
}
