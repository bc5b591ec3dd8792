//! Reads a container's log: whole lines, each once, to the last.

mod lines;

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptions;
use futures_util::{StreamExt, TryStreamExt, stream};

use self::lines::Lines;
use super::client::{DockerEngine, failure};
use super::events::now;
use super::translate;
use crate::{EngineError, LogChunk, LogOptions, LogStream, Operation, OutputStream};

const SECOND: i64 = 1_000_000_000;

/// The log of a container that exists.
pub(super) async fn open(
    engine: &DockerEngine,
    docker_id: &str,
    options: &LogOptions,
) -> Result<LogStream, EngineError> {
    let since = options.since.unwrap_or_default();
    // A count of lines says nothing of those to come.
    let begun = options.tail.map_or(since, |_| now());
    let tail = match options.tail {
        Some(lines) => Some(parts_of_last(engine, docker_id, lines).await?),
        None => None,
    };
    let reading = Reading {
        parts: parts(engine, docker_id, options.follow, tail, since).await?,
        lines: Lines::default(),
        read: begun - 1,
        known: i64::MIN,
        again: options
            .follow
            .then(|| (engine.clone(), docker_id.to_owned())),
    };
    let lines = stream::unfold(reading, Reading::next);
    let wanted = move |line: &Result<LogChunk, EngineError>| {
        let is_wanted = line.as_ref().map_or(true, |line| line.at >= since);
        async move { is_wanted }
    };
    Ok(Box::pin(lines.filter(wanted)))
}

struct Reading {
    parts: LogStream,
    lines: Lines,
    /// Lines up to this time have been read.
    read: i64,
    /// Lines up to this time are not given out again.
    known: i64,
    /// What is followed is read once more when it has ended: Docker may end it before the last words are in it.
    again: Option<(DockerEngine, String)>,
}

impl Reading {
    async fn next(mut self) -> Option<(Result<LogChunk, EngineError>, Self)> {
        loop {
            let line = match self.parts.next().await {
                Some(Ok(part)) => self.lines.push(part),
                Some(Err(error)) => return Some((Err(error), self)),
                None => match self.again.take() {
                    Some((engine, docker_id)) => {
                        // One that is removed has no more to say.
                        if let Ok(rest) = parts(&engine, &docker_id, false, None, self.read).await {
                            self.known = self.read;
                            self.lines = Lines::default();
                            self.parts = rest;
                        }
                        None
                    }
                    None => Some(self.lines.rest()?),
                },
            };
            if let Some(line) = line.filter(|line| line.at > self.known) {
                self.read = self.read.max(line.at);
                return Some((Ok(line), self));
            }
        }
    }
}

/// A log as Docker keeps it, from a little before that time on.
async fn parts(
    engine: &DockerEngine,
    docker_id: &str,
    follow: bool,
    tail: Option<u32>,
    since: i64,
) -> Result<LogStream, EngineError> {
    // A line is known by its first part.
    let since = (since / SECOND - 1).max(0);
    let wanted = LogsOptions {
        follow,
        stdout: true,
        stderr: true,
        timestamps: true,
        since: i32::try_from(since).unwrap_or(i32::MAX),
        tail: tail.map_or_else(|| "all".to_owned(), |parts| parts.to_string()),
        ..LogsOptions::default()
    };
    let docker = engine.docker().await?;
    let parts = docker.logs(docker_id, Some(wanted)).filter_map(|part| {
        let part = match part {
            Ok(part) => chunk(part).map(Ok),
            Err(error) => Some(Err(failure(Operation::Other, &error))),
        };
        async move { part }
    });
    Ok(Box::pin(parts))
}

/// How many of Docker's parts make the last lines.
async fn parts_of_last(
    engine: &DockerEngine,
    docker_id: &str,
    count: u32,
) -> Result<u32, EngineError> {
    let mut ask = count.saturating_add(lines::PARTS);
    loop {
        let read = parts(engine, docker_id, false, Some(ask), 0).await?;
        let read: Vec<LogChunk> = read.try_collect().await?;
        let all = read.len() < ask as usize;
        if let Some(parts) = lines::parts_of_last(read, count, all) {
            return Ok(parts);
        }
        ask = ask.saturating_mul(8);
    }
}

fn chunk(part: LogOutput) -> Option<LogChunk> {
    let (stream, message) = match part {
        LogOutput::StdErr { message } => (OutputStream::Stderr, message),
        LogOutput::StdOut { message } | LogOutput::Console { message } => {
            (OutputStream::Stdout, message)
        }
        LogOutput::StdIn { .. } => return None,
    };
    let (at, rest) = translate::stamped(&message)?;
    Some(LogChunk {
        stream,
        at,
        bytes: message.slice_ref(rest),
    })
}
