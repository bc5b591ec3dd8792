//! One watch on one stream, from its creation to its end.
//!
//! It asks for its progress at a steady pace, while somebody wants to know it.
//! That shows how fresh it is (said where it is news, for a quiet cluster is to
//! wake nobody), and keeps the connection for all that use it:
//! etcd without TLS ends one on which HTTP/2 pings come more often than every
//! 5 s and nothing else is said. While the revision from which it watches is
//! still to come, etcd from 3.5.22 on does not answer that (etcd#20245); a read
//! on the same connection is asked instead.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{GetOptions, WatchRequestSender, WatchResponseStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::client::{Attempt, Clients};
use super::{MAX_MESSAGE, access, convert};
use crate::kv::{Event, KeyRange, KvError, Watch, WatchReply};
use crate::pace;

/// A watch that etcd has taken.
pub(super) struct Opened {
    pub(super) attempt: Attempt,
    pub(super) cluster_id: u64,
    /// A key that it may read.
    start: Vec<u8>,
    /// The first revision that is still to come.
    next: i64,
    requests: WatchRequestSender,
    answers: WatchResponseStream,
}

pub(super) async fn open(
    streams: &Clients,
    keys: KeyRange,
    from: i64,
    previous: bool,
) -> Result<Opened, KvError> {
    let attempt = streams.attempt().await?;
    let mut client = attempt
        .client
        .watch_client()
        .max_decoding_message_size(MAX_MESSAGE);
    let options = convert::watch_options(keys.end, from, previous);
    let opened = client.watch(keys.start.clone(), Some(options)).await;
    let (requests, mut answers) = opened
        .map_err(|error| streams.failed(&attempt, error))?
        .split();
    let first = answers.message().await;
    let first = first
        .map_err(|error| streams.failed(&attempt, error))?
        .ok_or_else(|| streams.late(attempt.generation))?;
    if first.canceled() {
        return Err(access::refused(first.cancel_reason()));
    }
    let header = first.header();
    Ok(Opened {
        attempt,
        cluster_id: header.map_or(0, etcd_client::ResponseHeader::cluster_id),
        start: keys.start,
        next: match from {
            0 => header.map_or(0, etcd_client::ResponseHeader::revision) + 1,
            from => from,
        },
        requests,
        answers,
    })
}

impl Opened {
    /// Passes on what the stream says until it ends or nobody listens.
    pub(super) fn start(self, streams: Arc<Clients>, lease_ttl: Duration, on: &Handle) -> Watch {
        // A few: a reader that is slow makes etcd wait, which loses nothing.
        let (sender, replies) = mpsc::channel(16);
        // One: a second request would get the same answer.
        let (progress, asked) = mpsc::channel(1);
        on.spawn(self.run(streams, sender, asked, lease_ttl));
        Watch { replies, progress }
    }

    /// The revision of etcd, by a read, if it is before all that is watched.
    async fn nothing_missed(&self, within: Duration) -> Option<i64> {
        let mut kv = self.attempt.client.kv_client();
        let options = GetOptions::new().with_count_only();
        let read = kv.get(self.start.clone(), Some(options));
        let read = tokio::time::timeout(within, read).await.ok()?.ok()?;
        let revision = read.header()?.revision();
        (revision < self.next).then_some(revision)
    }

    async fn run(
        mut self,
        streams: Arc<Clients>,
        sender: mpsc::Sender<WatchReply>,
        mut asked: mpsc::Receiver<()>,
        lease_ttl: Duration,
    ) {
        let mut parts: Vec<Event> = Vec::new();
        let every = pace::every(lease_ttl);
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unanswered = false;
        let mut said = Said::default();
        loop {
            // Each arm but the answers' has nothing to lose; the stream keeps what it has read of a message.
            let answer = tokio::select! {
                () = sender.closed() => return,
                Some(()) = asked.recv() => {
                    said.awaited = true;
                    None
                }
                _ = tick.tick(), if !asked.is_closed() => None,
                answer = self.answers.message() => Some(answer),
            };
            let Some(answer) = answer else {
                if unanswered
                    && let Some(revision) = self.nothing_missed(pace::deadline(lease_ttl)).await
                    && said.is_news(revision)
                    && sender.send(WatchReply::Progress(revision)).await.is_err()
                {
                    return;
                }
                unanswered = true;
                // If it can't be sent the stream is at its end, and says so itself.
                let _ = self.requests.request_progress().await;
                continue;
            };
            unanswered = false;
            let reply = match answer {
                Ok(Some(answer)) => {
                    let mut answer = answer.0;
                    let revision = answer.header.as_ref().map_or(0, |h| h.revision);
                    parts.extend(convert::events(&mut answer));
                    if answer.canceled && answer.compact_revision > 0 {
                        WatchReply::Compacted(answer.compact_revision)
                    } else if answer.canceled {
                        WatchReply::Closed(answer.cancel_reason)
                    } else if answer.fragment {
                        // The rest of this revision comes in the next one.
                        continue;
                    } else if parts.is_empty() {
                        if !said.is_news(revision) {
                            continue;
                        }
                        WatchReply::Progress(revision)
                    } else {
                        let mut events = std::mem::take(&mut parts);
                        // A member that was sent all data anew says again what it has said (etcd#15271).
                        events.retain(|event| event.modified() >= self.next);
                        let Some(last) = events.last() else { continue };
                        self.next = last.modified() + 1;
                        WatchReply::Events(events, revision)
                    }
                }
                Ok(None) => {
                    streams.give_up(&self.attempt);
                    WatchReply::Closed("etcd ended the stream".into())
                }
                Err(error) => match streams.failed(&self.attempt, error) {
                    KvError::Compacted => WatchReply::Compacted(0),
                    error => {
                        streams.give_up(&self.attempt);
                        let why = std::error::Error::source(&error).map(ToString::to_string);
                        WatchReply::Closed(why.unwrap_or_else(|| error.to_string()))
                    }
                },
            };
            let ends = matches!(reply, WatchReply::Compacted(_) | WatchReply::Closed(_));
            if sender.send(reply).await.is_err() || ends {
                return;
            }
        }
    }
}

/// What the reader was told of the progress.
#[derive(Default)]
struct Said {
    revision: i64,
    /// It has asked, and waits for an answer.
    awaited: bool,
}

impl Said {
    fn is_news(&mut self, revision: i64) -> bool {
        let before = std::mem::replace(&mut self.revision, revision);
        std::mem::take(&mut self.awaited) || before != revision
    }
}
