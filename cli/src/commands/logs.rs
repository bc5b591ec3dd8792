//! `logs`: after a lost connection no line is missed or printed twice.

mod clean;

use std::borrow::Cow;
use std::collections::BTreeMap;

use gateway::v1::types::{LogEvent, LogLine};
use jiff::Timestamp;
use manifests::{ContainerName, HostName};

use super::client::Client;
use super::error::CommandError;
use super::output;
use super::stream::{self, Reading, escape};
use crate::args::{Format, GlobalArgs, LogsArgs, LogsOf, Selection};

pub(super) async fn run(args: &LogsArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let mut printer = Printer {
        names: names(&client, &args.of).await?,
        clean: output::is_terminal() && !args.raw,
        colours: !global.no_color,
        last: BTreeMap::new(),
        args,
        format: global.output,
    };
    let within = global.answer_within();
    stream::read(&client, args.follow, within, &mut printer).await
}

/// Prefix of each line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// One slot only: no prefix.
    None,
    /// Host and slot.
    Slot,
    /// Container and slot.
    Container,
}

async fn names(client: &Client, of: &LogsOf) -> Result<Names, CommandError> {
    let id = match of {
        LogsOf::App(_) => return Ok(Names::Container),
        LogsOf::Slot(_) => return Ok(Names::None),
        LogsOf::Container(id) => id,
    };
    let selection = Selection::Container(id.clone());
    let slots = client.slots(Some(&selection)).await?;
    let slots = slots.slots.iter().filter(|row| row.slot.is_some());
    Ok(if slots.count() > 1 {
        Names::Slot
    } else {
        Names::None
    })
}

fn path(args: &LogsArgs, since: Option<Timestamp>) -> String {
    use std::fmt::Write as _;
    let mut path = format!(
        "logs/{}?follow={}&previous={}",
        args.of, args.follow, args.previous
    );
    if args.before {
        path.push_str("&before=true");
    }
    if let Some(since) = since {
        let _ = write!(path, "&since={since}");
    } else {
        if let Some(tail) = args.tail {
            let _ = write!(path, "&tail={tail}");
        }
        if let Some(since) = &args.since {
            let _ = write!(path, "&since={}", escape(since));
        }
    }
    path
}

/// Instance whose clock wrote a time.
type Writer = (Option<ContainerName>, u32, HostName);

struct Printer<'a> {
    args: &'a LogsArgs,
    format: Format,
    names: Names,
    /// Control characters are removed.
    clean: bool,
    /// But for colours.
    colours: bool,
    /// Time of the last line by slot and host.
    last: BTreeMap<Writer, Timestamp>,
}

impl Reading for Printer<'_> {
    type Line = LogEvent;

    /// From the slot that is furthest behind; lines of others are dropped in `line`.
    fn path(&self) -> String {
        path(self.args, self.last.values().min().copied())
    }

    fn take(&mut self, event: LogEvent) -> Result<(), CommandError> {
        match event {
            LogEvent::Line(line) => self.line(&line),
            LogEvent::Notice(notice) => {
                output::note(&format!("({})", output::one_line(&notice)));
                Ok(())
            }
        }
    }
}

impl Printer<'_> {
    fn line(&mut self, line: &LogLine) -> Result<(), CommandError> {
        let of = (line.container.clone(), line.slot, line.host.clone());
        // Several lines may have the same time: only an earlier one was printed before.
        if self.last.get(&of).is_some_and(|last| line.time < *last) {
            return Ok(());
        }
        self.last.insert(of, line.time);
        if self.format == Format::Json {
            return output::json_line(line);
        }
        let name = match (self.names, &line.container) {
            (Names::None, _) => String::new(),
            (Names::Container, Some(container)) => format!("{container}/{} | ", line.slot),
            (Names::Slot | Names::Container, _) => format!("{}/{} | ", line.host, line.slot),
        };
        let time = if self.args.timestamps {
            format!("{} ", line.time)
        } else {
            String::new()
        };
        let text = if self.clean {
            Cow::Owned(clean::line(&line.line, self.colours))
        } else {
            Cow::Borrowed(line.line.as_str())
        };
        output::print(&format!("{time}{name}{text}\n"))
    }
}
