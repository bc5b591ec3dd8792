//! `logs`: lines as they come, and on after a lost connection without a line twice.

use std::collections::BTreeMap;

use gateway::v1::types::{LogEvent, LogLine};
use jiff::Timestamp;
use manifests::HostName;

use super::client::Client;
use super::error::CommandError;
use super::output;
use super::stream::{self, Reading, escape};
use crate::args::{Format, LogsArgs, Selection};

pub(super) async fn run(args: &LogsArgs) -> Result<(), CommandError> {
    let client = Client::new(&args.client)?;
    let mut printer = Printer {
        names: several(&client, args).await?,
        last: BTreeMap::new(),
        args,
    };
    let within = args.client.answer_within();
    stream::read(&client, args.follow, within, &mut printer).await
}

/// More than one slot: each line says whose it is.
async fn several(client: &Client, args: &LogsArgs) -> Result<bool, CommandError> {
    let (id, slot) = &args.of;
    if slot.is_some() {
        return Ok(false);
    }
    let slots = client
        .slots(Some(&Selection::Container(id.clone())))
        .await?;
    Ok(slots.slots.iter().filter(|row| row.slot.is_some()).count() > 1)
}

fn path(args: &LogsArgs, since: Option<Timestamp>) -> String {
    use std::fmt::Write as _;
    let (id, slot) = &args.of;
    let slot = slot.map(|slot| format!("/{slot}")).unwrap_or_default();
    let mut path = format!(
        "logs/{id}{slot}?follow={}&previous={}",
        args.follow, args.previous
    );
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

struct Printer<'a> {
    args: &'a LogsArgs,
    names: bool,
    /// Time of the last line of each instance, as far as that is known: its slot and host.
    last: BTreeMap<(u32, HostName), Timestamp>,
}

impl Reading for Printer<'_> {
    type Line = LogEvent;

    /// From the slot that is furthest behind; the others drop what they had.
    fn path(&self) -> String {
        path(self.args, self.last.values().min().copied())
    }

    fn take(&mut self, event: LogEvent) -> Result<(), CommandError> {
        match event {
            LogEvent::Line(line) => self.line(&line),
            LogEvent::Notice(notice) => {
                output::note(&format!("({notice})"));
                Ok(())
            }
        }
    }
}

impl Printer<'_> {
    fn line(&mut self, line: &LogLine) -> Result<(), CommandError> {
        let of = (line.slot, line.host.clone());
        // Lines of one moment come in one stream: only an earlier time was there before.
        if self.last.get(&of).is_some_and(|last| line.time < *last) {
            return Ok(());
        }
        self.last.insert(of, line.time);
        if self.args.output.format == Format::Json {
            return output::json_line(line);
        }
        let name = if self.names {
            format!("{}/{} | ", line.host, line.slot)
        } else {
            String::new()
        };
        let time = if self.args.timestamps {
            format!("{} ", line.time)
        } else {
            String::new()
        };
        output::print(&format!("{time}{name}{}\n", line.line))
    }
}
