//! `logs`: lines as they come, and on after a lost connection without a line twice.

use std::collections::BTreeMap;
use std::time::Duration;

use gateway::ndjson::Reader;
use gateway::v1::types::{LogEvent, LogLine};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use jiff::Timestamp;
use manifests::HostName;
use tokio::time::{Instant, sleep, timeout};

use super::client::Client;
use super::error::CommandError;
use super::output;
use crate::args::{Format, LogsArgs, Selection};

/// Three heartbeats of the door.
const SILENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(500);

/// How a stream ended.
enum Ended {
    /// There is no more.
    Through,
    /// The connection was lost; why.
    Lost(String),
}

pub(super) async fn run(args: &LogsArgs) -> Result<(), CommandError> {
    let client = Client::new(&args.client)?;
    let mut printer = Printer {
        format: args.output.format,
        timestamps: args.timestamps,
        names: several(&client, args).await?,
        last: BTreeMap::new(),
    };
    let mut body = client.stream(&path(args, None)).await?;
    loop {
        match read(body, &mut printer).await? {
            Ended::Through => return Ok(()),
            Ended::Lost(why) if !args.follow => {
                return Err(CommandError::Failed(format!("the lines broke off: {why}")));
            }
            Ended::Lost(why) => {
                output::note(&format!("connection lost ({why}); trying again"));
                body = again(&client, args, &printer).await?;
            }
        }
    }
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

/// What a time may hold that a query may not.
fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._:".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

async fn again(
    client: &Client,
    args: &LogsArgs,
    printer: &Printer,
) -> Result<Incoming, CommandError> {
    let end = Instant::now() + args.client.answer_within();
    // From the slot that is furthest behind; the others drop what they had.
    let since = printer.last.values().min().copied();
    loop {
        sleep(RETRY).await;
        match client.stream(&path(args, since)).await {
            Err(CommandError::Unreached { .. } | CommandError::Failed(_))
                if Instant::now() < end => {}
            other => return other,
        }
    }
}

async fn read(mut body: Incoming, printer: &mut Printer) -> Result<Ended, CommandError> {
    let mut reader = Reader::<LogEvent>::default();
    loop {
        let data = match timeout(SILENCE, body.frame()).await {
            Err(_) => return Ok(Ended::Lost("it has fallen silent".to_owned())),
            Ok(None) => return Ok(Ended::Through),
            Ok(Some(Err(error))) => return Ok(Ended::Lost(error.to_string())),
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        };
        let events = reader
            .push(&data)
            .map_err(|error| CommandError::Failed(error.to_string()))?;
        for event in events {
            match event {
                LogEvent::Line(line) => printer.line(&line)?,
                LogEvent::Notice(notice) => output::note(&format!("({notice})")),
            }
        }
    }
}

struct Printer {
    format: Format,
    timestamps: bool,
    names: bool,
    /// Time of the last line of each instance, as far as that is known: its slot and host.
    last: BTreeMap<(u32, HostName), Timestamp>,
}

impl Printer {
    fn line(&mut self, line: &LogLine) -> Result<(), CommandError> {
        let of = (line.slot, line.host.clone());
        // Lines of one moment come in one stream: only an earlier time was there before.
        if self.last.get(&of).is_some_and(|last| line.time < *last) {
            return Ok(());
        }
        self.last.insert(of, line.time);
        if self.format == Format::Json {
            return output::json_line(line);
        }
        let name = if self.names {
            format!("{}/{} | ", line.host, line.slot)
        } else {
            String::new()
        };
        let time = if self.timestamps {
            format!("{} ", line.time)
        } else {
            String::new()
        };
        output::print(&format!("{time}{name}{}\n", line.line))
    }
}
