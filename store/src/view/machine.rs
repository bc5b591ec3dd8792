//! The view as a pure state machine: it says what to ask etcd next, is fed the answers, and holds the snapshot.
//!
//! It does no IO and reads no clock. Every way to a new state begins with the
//! first read (`Step::Read`), so nothing is used before `check` trusted it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use conductor_core::Millis;
use conductor_core::records::Cluster;
use conductor_core::snapshot::{Change, Snapshot, Touched};
use manifests::keys::{Key, WATCH_END, WATCH_START};
use rpds::RedBlackTreeMapSync;

use super::saved::{Raw, SavedView};
use super::{FirstRead, Known, Reason, Trust, ViewOptions, ViewUpdate, check, check_list};
use crate::kv::{Event, KeyRange, KeyValue, Range, RangeReply, WatchReply};

/// Behind for so long → a progress request; unanswered for so long → another stream. Not following for so long → stale.
const PATIENCE: Duration = Duration::from_secs(2);
/// A progress request that is not answered in this time makes the view stale.
const STALE_AFTER_ASKING: Duration = Duration::from_secs(1);
/// A resumed stream that does not bring what changed in this time is given up for a list: a compaction at the very
/// revision where it resumed may have taken a deletion away.
const CATCH_UP: Duration = Duration::from_secs(10);
/// Streams that stayed behind before a list is made.
const STREAMS_BEFORE_LIST: u32 = 2;
/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The one range that is watched.
pub(super) fn watched() -> KeyRange {
    KeyRange::range(WATCH_START, WATCH_END)
}

/// What the driver does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Read `/dokkaa/cluster`, linearizable, after `View::pause`.
    Read,
    /// Read which keys changed from `since` on, and how many there are, both at the revision `at`.
    Changed {
        /// First revision that counts.
        since: i64,
        /// The revision of both reads.
        at: i64,
    },
    /// Read a page.
    List(Range),
    /// Drop the stream, if there is one, and open a new one.
    Watch {
        /// First revision.
        from: i64,
        /// At another endpoint, if there is one.
        avoid: bool,
    },
    /// Pass on what the stream says, keep-alive revisions, and the time.
    Follow,
}

/// What came of a step.
#[derive(Debug)]
pub enum Answer {
    /// The step failed.
    Failed,
    /// Of `Step::Changed` or `Step::List`: that revision is compacted.
    Compacted,
    /// Of `Step::Read`.
    Read(FirstRead),
    /// Of `Step::Changed`: keys with their last change, and the number of all.
    Changed(Vec<(String, i64)>, i64),
    /// Of `Step::List`.
    Page(RangeReply),
    /// Of `Step::Watch`.
    Opened,
    /// From the stream.
    Reply(WatchReply),
}

/// What is still to be seen before the view stands at the first read's revision.
#[derive(Debug)]
struct CatchUp {
    /// Keys that changed since the view, and not seen so yet.
    changed: BTreeMap<String, i64>,
    /// Number of all keys then.
    count: i64,
    /// The first read's revision.
    revision: i64,
    since: Millis,
}

#[derive(Debug)]
enum Phase {
    Reading,
    Asking {
        read: i64,
    },
    Listing {
        read: i64,
        at: i64,
        found: Vec<KeyValue>,
        next: Vec<u8>,
    },
    Opening,
    Following,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freshness {
    Fine,
    Behind { since: Millis },
    Asked { at: Millis, wanted: i64 },
}

#[derive(Debug, Clone, PartialEq)]
struct Flags {
    complete: bool,
    stale: bool,
    trust: Trust,
}

/// The view.
#[derive(Debug)]
pub struct View {
    cluster: Cluster,
    page: i64,
    heal_every: Duration,
    random: u64,
    snapshot: Snapshot,
    raw: RedBlackTreeMapSync<String, Raw>,
    /// There is something to resume from.
    based: bool,
    phase: Phase,
    trust: Trust,
    must_list: bool,
    avoid: bool,
    catch_up: Option<CatchUp>,
    /// The first read of this connect has been reached.
    reached: bool,
    floor: i64,
    seen: i64,
    progress: i64,
    freshness: Freshness,
    late_streams: u32,
    ask: bool,
    unfollowed_since: Option<Millis>,
    stale: bool,
    next_heal: Millis,
    failures: u32,
    said: Flags,
    said_revision: i64,
    outbox: Option<ViewUpdate>,
}

impl View {
    /// A view that resumes from what was saved, if it is this cluster's, and else begins with a list.
    pub fn new(options: &ViewOptions, now: Millis) -> Self {
        let mut view = Self {
            cluster: options.cluster.clone(),
            page: options.page,
            heal_every: options.heal_every,
            random: options.seed | 1,
            snapshot: Snapshot::default(),
            raw: RedBlackTreeMapSync::new_sync(),
            based: false,
            phase: Phase::Reading,
            trust: Trust::Trusted,
            must_list: false,
            avoid: false,
            catch_up: None,
            reached: false,
            floor: 0,
            seen: 0,
            progress: 0,
            freshness: Freshness::Fine,
            late_streams: 0,
            ask: false,
            unfollowed_since: Some(now),
            stale: false,
            next_heal: now,
            failures: 0,
            said: Flags {
                complete: false,
                stale: false,
                trust: Trust::Trusted,
            },
            said_revision: 0,
            outbox: None,
        };
        view.plan_heal(now);
        if let Some(saved) = options
            .saved
            .as_ref()
            .filter(|s| s.cluster == options.cluster)
        {
            view.raw = saved.raw.clone();
            let puts = saved.raw.iter().map(|(key, raw)| put(key, raw));
            let touched = view.snapshot.apply(puts, saved.revision);
            view.based = true;
            view.emit(touched, true);
        }
        view
    }

    /// What to do next.
    pub fn step(&self) -> Step {
        match &self.phase {
            Phase::Reading => Step::Read,
            Phase::Asking { read } => Step::Changed {
                since: self.snapshot.revision + 1,
                at: *read,
            },
            Phase::Listing { at, next, .. } => Step::List(Range {
                revision: *at,
                limit: self.page,
                ..Range::new(KeyRange::range(next.clone(), WATCH_END))
            }),
            Phase::Opening => Step::Watch {
                from: self.snapshot.revision + 1,
                avoid: self.avoid,
            },
            Phase::Following => Step::Follow,
        }
    }

    /// How long to wait before `Step::Read`: nothing at the start, then longer and longer, jittered.
    pub fn pause(&mut self) -> Duration {
        if self.failures == 0 {
            return Duration::ZERO;
        }
        let longest = Duration::from_millis(200)
            .saturating_mul(1 << self.failures.min(8).saturating_sub(1))
            .min(LONGEST_PAUSE);
        // Between a quarter of it and all of it.
        let share = 256 + self.random() % 769;
        longest.mul_f64(share as f64 / 1024.0)
    }

    /// The stream is to be asked for its progress.
    pub fn take_progress_request(&mut self) -> bool {
        std::mem::take(&mut self.ask)
    }

    /// What there is to publish.
    pub fn take_update(&mut self) -> Option<ViewUpdate> {
        self.outbox.take()
    }

    /// The view as it is now, to be saved; costs nothing.
    pub fn saved(&self) -> SavedView {
        SavedView {
            cluster: self.cluster.clone(),
            revision: self.snapshot.revision,
            raw: self.raw.clone(),
        }
    }

    /// The revision that the view stands at.
    pub fn revision(&self) -> i64 {
        self.snapshot.revision
    }

    /// A keep-alive answer carried this revision.
    pub fn seen(&mut self, revision: i64, now: Millis) {
        self.seen = self.seen.max(revision);
        self.tick(now);
    }

    /// The own record was put at this revision: the view is not complete below it.
    pub fn floor(&mut self, revision: i64) {
        self.floor = self.floor.max(revision);
        self.emit(Touched::default(), false);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Millis) {
        if !matches!(self.phase, Phase::Following) {
            let since = *self.unfollowed_since.get_or_insert(now);
            self.stale |= now - since >= PATIENCE;
            self.emit(Touched::default(), false);
            return;
        }
        let reached = self.snapshot.revision.max(self.progress);
        match self.freshness {
            _ if self.seen <= reached => self.fresh(),
            Freshness::Fine => self.freshness = Freshness::Behind { since: now },
            Freshness::Behind { since } if now - since >= PATIENCE => self.ask_for_progress(now),
            // Etcd went on meanwhile, but what it had when it was asked is here.
            Freshness::Asked { wanted, .. } if reached >= wanted => self.fresh(),
            Freshness::Asked { at, .. } if now - at >= PATIENCE => {
                self.stale = true;
                self.late_streams += 1;
                self.must_list |= self.late_streams >= STREAMS_BEFORE_LIST;
                self.avoid = true;
                self.disconnected(now);
            }
            Freshness::Asked { at, .. } => self.stale |= now - at >= STALE_AFTER_ASKING,
            Freshness::Behind { .. } => {}
        }
        let late = |c: &CatchUp| now - c.since >= CATCH_UP;
        if self.catch_up.as_ref().is_some_and(late) || now >= self.next_heal {
            self.must_list = true;
            self.disconnected(now);
        }
        self.emit(Touched::default(), false);
    }

    /// Takes the answer to a step.
    pub fn answer(&mut self, answer: Answer, now: Millis) {
        let phase = std::mem::replace(&mut self.phase, Phase::Reading);
        match (phase, answer) {
            (Phase::Reading, Answer::Read(read)) => self.first_read(&read, now),
            (Phase::Asking { read }, Answer::Changed(keys, count)) => {
                self.catch_up = Some(CatchUp {
                    changed: keys.into_iter().collect(),
                    count,
                    revision: read,
                    since: now,
                });
                self.phase = Phase::Opening;
            }
            (
                Phase::Listing {
                    read,
                    at,
                    mut found,
                    ..
                },
                Answer::Page(page),
            ) => {
                // The first page decides at which revision all of them are.
                let at = if at == 0 { page.revision } else { at };
                let more = page.more && !page.kvs.is_empty();
                found.extend(page.kvs);
                if more {
                    let next = found.last().map_or_else(Vec::new, |kv| {
                        let mut next = kv.key.clone().into_bytes();
                        next.push(0);
                        next
                    });
                    self.phase = Phase::Listing {
                        read,
                        at,
                        found,
                        next,
                    };
                } else {
                    self.listed(&found, at, now);
                }
            }
            (Phase::Opening, Answer::Opened) => {
                self.avoid = false;
                self.phase = Phase::Following;
                self.unfollowed_since = None;
                self.freshness = Freshness::Fine;
                if self.seen > self.snapshot.revision {
                    self.ask_for_progress(now);
                }
                self.catch_up_reached();
            }
            (Phase::Following, Answer::Reply(reply)) => {
                self.phase = Phase::Following;
                self.reply(reply, now);
            }
            (Phase::Asking { .. } | Phase::Listing { .. } | Phase::Opening, Answer::Compacted) => {
                self.must_list = true;
                self.failed(now);
            }
            // Whatever else was said, the step did not bring what it should: begin again.
            _ => self.failed(now),
        }
        self.tick(now);
    }

    fn first_read(&mut self, read: &FirstRead, now: Millis) {
        self.trust = check(&self.known(), read);
        if !self.trust.is_trusted() {
            self.failed(now);
            return;
        }
        self.reached = false;
        self.catch_up = None;
        self.phase = if self.must_list || !self.based {
            Phase::Listing {
                read: read.revision,
                at: 0,
                found: Vec::new(),
                next: WATCH_START.into(),
            }
        } else if self.snapshot.revision == read.revision {
            self.reached = true;
            Phase::Opening
        } else {
            Phase::Asking {
                read: read.revision,
            }
        };
    }

    fn listed(&mut self, list: &[KeyValue], at: i64, now: Millis) {
        let cluster = Key::Cluster.to_string();
        let read = FirstRead {
            cluster: list
                .iter()
                .find(|kv| kv.key == cluster)
                .and_then(|kv| serde_json::from_slice(&kv.value).ok()),
            revision: at,
        };
        self.trust = check(&self.known(), &read);
        if self.trust.is_trusted() && self.based {
            self.trust = check_list(
                self.snapshot.revision,
                |key| self.raw.get(key).map(|raw| raw.modified),
                list.iter().map(|kv| (kv.key.as_str(), kv.modified)),
            );
        }
        if !self.trust.is_trusted() {
            self.failed(now);
            return;
        }
        let mut raw = RedBlackTreeMapSync::new_sync();
        let mut changes = Vec::new();
        for kv in list {
            let new = Raw::of(kv);
            if self
                .raw
                .get(&kv.key)
                .is_none_or(|old| old.modified != kv.modified)
            {
                changes.push(put(&kv.key, &new));
            }
            raw.insert_mut(kv.key.clone(), new);
        }
        for (key, _) in self.raw.iter().filter(|(key, _)| !raw.contains_key(*key)) {
            changes.push(Change::Delete {
                key: key.clone(),
                modified: at,
            });
        }
        self.raw = raw;
        let touched = self.snapshot.apply(changes, at);
        self.based = true;
        self.must_list = false;
        self.reached = true;
        self.catch_up = None;
        self.failures = 0;
        self.fresh();
        self.plan_heal(now);
        self.phase = Phase::Opening;
        self.emit(touched, true);
    }

    fn reply(&mut self, reply: WatchReply, now: Millis) {
        match reply {
            WatchReply::Events(events, _) => self.events(events, now),
            WatchReply::Progress(revision) => {
                self.progress = self.progress.max(revision);
                self.failures = 0;
            }
            WatchReply::Compacted(_) => {
                self.must_list = true;
                self.disconnected(now);
            }
            WatchReply::Closed(_) => self.failed(now),
        }
    }

    fn events(&mut self, mut events: Vec<Event>, now: Millis) {
        // What is known already is not news; streams do not repeat, but it costs nothing to be sure.
        let known = self.snapshot.revision;
        events.retain(|event| event.modified() > known);
        let Some(revision) = events.last().map(Event::modified) else {
            return;
        };
        if let Some(reason) = self.broken(&events) {
            self.trust = Trust::Distrust(reason);
            self.failed(now);
            return;
        }
        self.failures = 0;
        if self
            .catch_up
            .as_ref()
            .is_some_and(|c| revision > c.revision)
        {
            // Events come in order: all up to the first read have been here.
            self.reach();
        }
        let mut changes = Vec::with_capacity(events.len());
        for event in events {
            let modified = event.modified();
            match event {
                Event::Put { now: kv, .. } => {
                    if let Some(catch_up) = &mut self.catch_up
                        && catch_up
                            .changed
                            .get(&kv.key)
                            .is_some_and(|m| *m <= modified)
                    {
                        catch_up.changed.remove(&kv.key);
                    }
                    let raw = Raw::of(&kv);
                    changes.push(put(&kv.key, &raw));
                    self.raw.insert_mut(kv.key, raw);
                }
                Event::Delete { key, .. } => {
                    self.raw.remove_mut(&key);
                    changes.push(Change::Delete { key, modified });
                }
            }
        }
        let touched = self.snapshot.apply(changes, revision);
        self.catch_up_reached();
        self.emit(touched, false);
    }

    /// The events take the cluster's key away or change it: not ours any more, and none of them is applied.
    fn broken(&self, events: &[Event]) -> Option<Reason> {
        let cluster = Key::Cluster.to_string();
        let last = events.iter().rev().find(|event| event.key() == cluster)?;
        let read = FirstRead {
            cluster: match last {
                Event::Put { now, .. } => serde_json::from_slice(&now.value).ok(),
                Event::Delete { .. } => None,
            },
            revision: last.modified(),
        };
        match check(&self.known(), &read) {
            Trust::Trusted => None,
            Trust::Distrust(reason) => Some(reason),
        }
    }

    fn known(&self) -> Known {
        Known {
            cluster: self.cluster.clone(),
            revision: self.snapshot.revision,
        }
    }

    fn catch_up_reached(&mut self) {
        // The same keys at the same revisions, and not one more: this is the state of the first read. Progress answers
        // prove nothing here: before etcd 3.4.25 they overtake events.
        if let Some(c) = &self.catch_up
            && c.changed.is_empty()
            && self.raw.size() as i64 == c.count
        {
            self.reach();
        }
    }

    fn reach(&mut self) {
        self.reached = true;
        self.catch_up = None;
    }

    fn ask_for_progress(&mut self, now: Millis) {
        self.ask = true;
        self.freshness = Freshness::Asked {
            at: now,
            wanted: self.seen,
        };
    }

    fn fresh(&mut self) {
        self.freshness = Freshness::Fine;
        self.late_streams = 0;
        self.stale = false;
    }

    /// A step failed or the stream broke: again, after a pause.
    fn failed(&mut self, now: Millis) {
        self.failures = self.failures.saturating_add(1);
        self.disconnected(now);
    }

    fn disconnected(&mut self, now: Millis) {
        self.phase = Phase::Reading;
        self.reached = false;
        self.catch_up = None;
        self.progress = 0;
        self.unfollowed_since.get_or_insert(now);
        self.emit(Touched::default(), false);
    }

    fn plan_heal(&mut self, now: Millis) {
        let late = self.random() % 1024;
        self.next_heal = now + self.heal_every + self.heal_every.mul_f64(late as f64 / 10_240.0);
    }

    fn emit(&mut self, touched: Touched, resync: bool) {
        let flags = Flags {
            complete: self.reached && self.snapshot.revision >= self.floor,
            stale: self.stale,
            trust: self.trust.clone(),
        };
        // A revision that touched nothing of ours is said too: who wrote it waits for it.
        let moved = self.snapshot.revision != self.said_revision;
        if !moved && touched.is_empty() && !resync && flags == self.said {
            return;
        }
        self.said = flags.clone();
        self.said_revision = self.snapshot.revision;
        let (mut all, mut any) = (Touched::default(), false);
        if let Some(before) = self.outbox.take() {
            all = before.touched;
            any = before.resync;
        }
        all.extend(touched);
        self.outbox = Some(ViewUpdate {
            snapshot: self.snapshot.clone(),
            touched: all,
            resync: any || resync,
            complete: flags.complete,
            stale: flags.stale,
            trust: flags.trust,
        });
    }

    /// xorshift64: only jitter.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

fn put(key: &str, raw: &Raw) -> Change {
    Change::Put {
        key: key.to_owned(),
        value: raw.value.to_vec(),
        modified: raw.modified,
        created: raw.created,
    }
}

impl Raw {
    fn of(kv: &KeyValue) -> Self {
        Self {
            value: Arc::from(kv.value.as_slice()),
            created: kv.created,
            modified: kv.modified,
        }
    }
}

#[cfg(test)]
mod tests;
