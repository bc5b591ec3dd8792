//! `events`: one line each; after a lost connection none is missed or printed twice.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use gateway::v1::types::{EventLine, HostEvent};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use manifests::HostName;

use super::client::Client;
use super::error::CommandError;
use super::stream::{self, Reading, escape};
use super::table::{Column, Shown, Table};
use super::{lists, output};
use crate::args::{EventsArgs, Format, GlobalArgs, Selection};

/// After a lost connection events are read again from so long before the last: another host's may come late.
const OVERLAP_MS: i64 = 60_000;
const COLUMNS: &[Column] = &[
    Column("TIME", Shown::Always),
    Column("HOST", Shown::IfFits(1)),
    Column("SUBJECT", Shown::Always),
    Column("KIND", Shown::Always),
    Column("MESSAGE", Shown::Text),
];
/// Initial widths; they grow with the rows.
const NARROWEST: &[usize] = &[19, 8, 16, 10];

pub(super) async fn run(args: &EventsArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let mut reading = Events {
        args,
        follow: false,
        format: global.output,
        last: BTreeMap::new(),
        table: Table::new(COLUMNS, global.output).at_least(NARROWEST),
    };
    let within = global.answer_within();
    // A removed app may still have events.
    let missing = match &args.of {
        Some(of) if client.slots(Some(of)).await?.containers.is_empty() => Some(of),
        _ => None,
    };
    if !args.follow || missing.is_some() {
        stream::read(&client, false, within, &mut reading).await?;
        match missing {
            Some(of) if reading.last.is_empty() => return Err(lists::none_of(of)),
            None if reading.last.is_empty() => {
                output::note(&format!("no events (--since {})", args.since));
            }
            _ => {}
        }
    }
    if args.follow {
        reading.follow = true;
        stream::read(&client, true, within, &mut reading).await?;
    }
    Ok(())
}

struct Events<'a> {
    args: &'a EventsArgs,
    follow: bool,
    format: Format,
    /// Id of the last event of each host.
    last: BTreeMap<HostName, i64>,
    table: Table,
}

impl Reading for Events<'_> {
    type Line = EventLine;

    fn path(&self) -> String {
        let mut path = format!("events?follow={}&local={}", self.follow, self.args.local);
        match &self.args.of {
            None => {}
            Some(Selection::App(app)) => {
                let _ = write!(path, "&app={app}");
            }
            Some(Selection::Container(id)) => {
                let _ = write!(path, "&app={}&container={}", id.app, id.container);
            }
        }
        // Ids are near the time.
        let last = self.last.values().min();
        let since = last.and_then(|id| Timestamp::from_millisecond(id - OVERLAP_MS).ok());
        let _ = match since {
            Some(since) => write!(path, "&since={since}"),
            None => write!(path, "&since={}", escape(&self.args.since)),
        };
        path
    }

    fn take(&mut self, line: EventLine) -> Result<(), CommandError> {
        let event = match line {
            EventLine::Event(event) => event,
            EventLine::Notice(notice) => {
                output::note(&format!("({})", output::one_line(&notice)));
                return Ok(());
            }
        };
        let last = self.last.entry(event.host.clone()).or_insert(i64::MIN);
        if event.id <= *last {
            return Ok(());
        }
        *last = event.id;
        match self.format {
            Format::Json => output::json_line(&event),
            _ => output::print(&self.table.row(cells(&event, &TimeZone::system()))),
        }
    }
}

fn cells(event: &HostEvent, zone: &TimeZone) -> Vec<String> {
    let what = &event.what;
    let subject = match what.subject() {
        host if host.is_empty() => "-".to_owned(),
        subject => subject,
    };
    let mut message = output::short_digests(&output::one_line(&what.message));
    if event.times > 1 {
        let _ = write!(message, " ({} times)", event.times);
    }
    vec![
        output::local_time(event.time, zone),
        event.host.to_string(),
        subject,
        what.kind.to_string(),
        message,
    ]
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use manifests::ContainerId;
    use model::events::{Happened, Kind};

    use super::*;

    #[test]
    fn a_line_is_aligned_and_never_two() {
        let slot = "shop/web".parse::<ContainerId>().unwrap().slot(0);
        let event = |what, times| HostEvent {
            time: Timestamp::from_millisecond(1_700_000_000_123).unwrap(),
            id: 1,
            host: "h1".parse().unwrap(),
            times,
            what,
        };
        let mut table = Table::new(COLUMNS, Format::Table).at_least(NARROWEST);
        table.room = None;
        let mut row = |event| table.row(cells(&event, &TimeZone::UTC));
        let exited = Happened::of_slot(&slot, Kind::Exited, "exit\ncode 1");
        assert_eq!(
            row(event(exited, 4)),
            "2023-11-14 22:13:20  h1        shop/web/0        exited      exit code 1 (4 times)\n"
        );
        let back = Happened::here(Kind::EngineUnresponsive, "");
        assert_eq!(
            row(event(back, 1)),
            "2023-11-14 22:13:20  h1        -                 engine-unresponsive\n"
        );
    }
}
