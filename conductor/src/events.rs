//! What happened on this host, kept for who asks: a bounded file, and the last events in memory.
//!
//! The loop tells and never waits; one task writes. A disk that is full or can't
//! be written disturbs nobody: events are in memory then, and the log says so
//! once. Invariant: the ids of events rise, also over restarts, so that a
//! reader who gives the last one he has seen gets none twice.

mod files;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::{Stream, stream};
use model::Millis;
use model::events::{Event, Happened, Kind, Repeats, Wanted};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use files::{Files, Past};
use model::error::chain;

/// What waits for the writer; when it is full, what comes is counted and not kept.
const WAITING: usize = 256;
/// Events in memory.
const RING: usize = 1_000;
/// Largest file; there are at most two.
const LARGEST: u64 = 5 << 20;

/// What happened on this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    waiting: mpsc::Sender<(i64, Vec<Happened>)>,
    /// What did not fit there.
    dropped: AtomicU64,
    /// When this process began to tell, in Unix milliseconds.
    began: i64,
    ring: Mutex<Ring>,
    /// Id of the last event.
    last: watch::Sender<i64>,
    files: Option<Arc<Mutex<Files>>>,
}

/// The last events.
#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    /// All events with a higher id are here.
    whole_above: i64,
}

/// Writes what is told. There is one.
#[derive(Debug)]
pub struct Writer {
    journal: Journal,
    told: mpsc::Receiver<(i64, Vec<Happened>)>,
    /// The log has said that the file can't be written.
    warned: bool,
}

impl Journal {
    /// Goes on with what the state directory has.
    pub fn open(state_dir: &Path) -> (Self, Writer) {
        Self::with(Some(Files::new(state_dir, LARGEST)), RING)
    }

    /// Nothing of it outlives the process.
    pub fn in_memory() -> (Self, Writer) {
        Self::with(None, RING)
    }

    fn with(files: Option<Files>, ring: usize) -> (Self, Writer) {
        // Without a bound on the waiting a stuck disk would fill the memory.
        let (waiting, told) = mpsc::channel(WAITING);
        let last = files.as_ref().map_or(0, Files::last_id);
        let journal = Self(Arc::new(Inner {
            waiting,
            dropped: AtomicU64::new(0),
            began: now(),
            ring: Mutex::new(Ring {
                events: VecDeque::with_capacity(ring),
                whole_above: last,
            }),
            last: watch::Sender::new(last),
            files: files.map(|files| Arc::new(Mutex::new(files))),
        }));
        let writer = Writer {
            journal: journal.clone(),
            told,
            warned: false,
        };
        (journal, writer)
    }

    /// Tells what happened just now. Never waits.
    pub fn tell(&self, happened: impl IntoIterator<Item = Happened>) {
        let happened: Vec<Happened> = happened.into_iter().collect();
        if happened.is_empty() {
            return;
        }
        let count = happened.len() as u64;
        if self.0.waiting.try_send((now(), happened)).is_err() {
            self.0.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// When this process began to tell, in Unix milliseconds: what was so before is not news.
    pub fn began(&self) -> i64 {
        self.0.began
    }

    /// The events that are wanted, oldest first; with `follow` those to come, too.
    pub fn read(&self, wanted: Wanted) -> impl Stream<Item = Event> + Send + use<> {
        let reader = Reader {
            after: wanted.after.unwrap_or_default(),
            last: self.0.last.subscribe(),
            journal: self.clone(),
            wanted,
            past: None,
            ready: VecDeque::new(),
        };
        stream::unfold(reader, |mut reader| async {
            let event = reader.next().await?;
            Some((event, reader))
        })
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Writes until it is to stop, and then what was told before that.
    pub async fn run(mut self, stop: CancellationToken) {
        let begun = Instant::now();
        let mut repeats = Repeats::default();
        loop {
            let next = repeats.next().map(|at| begun + (at - Millis(0)));
            let (at, happened) = tokio::select! {
                biased;
                Some(told) = self.told.recv() => told,
                () = sleep_until(next) => (now(), Vec::new()),
                () = stop.cancelled() => break,
                else => break,
            };
            let elapsed = Millis(0) + begun.elapsed();
            let mut telling = repeats.over(elapsed);
            for what in happened {
                telling.extend(repeats.take(what, elapsed));
            }
            self.keep(at, telling).await;
        }
        self.keep(now(), repeats.end()).await;
    }

    async fn keep(&mut self, at: i64, mut telling: Vec<(Happened, u32)>) {
        let dropped = self.journal.0.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let text = format!("{dropped} events were not kept: too many at once");
            telling.push((Happened::here(Kind::Dropped, text), 1));
        }
        if telling.is_empty() {
            return;
        }
        let mut id = *self.journal.0.last.borrow();
        let events: Vec<Event> = telling
            .into_iter()
            .map(|(what, times)| {
                id = at.max(id + 1);
                Event {
                    id,
                    at,
                    times,
                    what,
                }
            })
            .collect();
        self.write(&events).await;
        self.journal.ring().push(events);
        self.journal.0.last.send_replace(id);
    }

    async fn write(&mut self, events: &[Event]) {
        let Some(files) = self.journal.0.files.clone() else {
            return;
        };
        let mut lines = Vec::new();
        for event in events {
            // An event is names, numbers and text.
            serde_json::to_writer(&mut lines, event).expect("an event is JSON");
            lines.push(b'\n');
        }
        let written = tokio::task::spawn_blocking(move || lock(&files).append(&lines));
        match written.await {
            Ok(Err(error)) if !std::mem::replace(&mut self.warned, true) => {
                tracing::warn!(error = %chain(&error), "events can't be written: the last {RING} are kept in memory only");
            }
            Ok(Ok(())) => self.warned = false,
            // Said before; or the process ends.
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

impl Ring {
    fn push(&mut self, events: Vec<Event>) {
        for event in events {
            if self.events.len() == self.events.capacity()
                && let Some(oldest) = self.events.pop_front()
            {
                self.whole_above = oldest.id;
            }
            self.events.push_back(event);
        }
    }
}

/// Reads on behind the last event that it has seen.
struct Reader {
    journal: Journal,
    wanted: Wanted,
    /// Id of the last event that was looked at.
    after: i64,
    last: watch::Receiver<i64>,
    past: Option<Past>,
    ready: VecDeque<Event>,
}

impl Reader {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if let Some(past) = self.past.take() {
                self.read_past(past).await;
                continue;
            }
            self.last.borrow_and_update();
            if let Some(upto) = self.look() {
                // Older than what is in memory. Where a disk can't be read, there is nothing older.
                match self.open(upto).await {
                    Some(past) => self.past = Some(past),
                    None => self.after = upto,
                }
            } else if self.ready.is_empty()
                && (!self.wanted.follow || self.last.changed().await.is_err())
            {
                return None;
            }
        }
    }

    /// Takes what memory has; or says up to where it has not all.
    fn look(&mut self) -> Option<i64> {
        let ring = self.journal.ring();
        if self.after < ring.whole_above {
            return Some(ring.whole_above);
        }
        let from = ring.events.partition_point(|event| event.id <= self.after);
        for event in ring.events.range(from..) {
            self.after = event.id;
            if self.wanted.takes(event) {
                self.ready.push_back(event.clone());
            }
        }
        None
    }

    async fn open(&self, upto: i64) -> Option<Past> {
        let files = self.journal.0.files.clone()?;
        let after = self.after;
        let opened = tokio::task::spawn_blocking(move || lock(&files).past(after, upto));
        opened.await.ok()
    }

    async fn read_past(&mut self, mut past: Past) {
        let wanted = self.wanted.clone();
        let upto = past.upto();
        let read = tokio::task::spawn_blocking(move || {
            let events = past.some(&wanted);
            (past, events)
        });
        match read.await {
            Ok((past, events)) if !events.is_empty() => {
                self.after = events.last().map_or(self.after, |event| event.id);
                self.ready = events.into();
                self.past = Some(past);
            }
            // The end of the files.
            _ => self.after = self.after.max(upto),
        }
    }
}

fn lock(files: &Mutex<Files>) -> MutexGuard<'_, Files> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn now() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |since| since.as_millis() as i64)
}
