//! The view as a pure state machine: it says what to ask etcd next, is fed the answers, and holds the snapshot.
//!
//! It does no IO and reads no clock. Every connect begins with the first read
//! (`Step::Read`), opens its stream, and only then proves that the view is part of
//! etcd's history: an etcd that is replaced later ends the stream, one that was
//! replaced before fails the proof. Nothing is used, and no distrust ends, before
//! that and before all that happened up to the first read has been seen.

mod compare;
mod output;
mod proof;
mod state;
mod stream;

use std::time::Duration;

use manifests::keys::{WATCH_END, WATCH_START};
use model::Millis;
use model::backoff::Exponential;
use model::kv::{KeyRange, Range, RangeReply, WatchReply};
use model::records::Cluster;
use model::rules::{Rule, Rules};
use model::snapshot::{Snapshot, Touched};
use rpds::RedBlackTreeMapSync;

use self::output::{Unsaid, put};
use self::state::{CatchUp, Certain, Connect, Flags, Freshness, Phase, Proof};
use super::saved::{Raw, SavedView};
use super::{FirstRead, Known, Reason, Trust, ViewOptions, accepted, check};

/// Behind for so long → a progress request; unanswered for so long → another stream. Not following for so long → stale.
const PATIENCE: Duration = Duration::from_secs(2);
/// A progress request that is not answered in this time makes the view stale.
const STALE_AFTER_ASKING: Duration = Duration::from_secs(1);
/// A resumed stream that does not bring what changed in this time is given up for a list: a compaction at the very
/// revision where it resumed may have taken a deletion away.
const CATCH_UP: Duration = Duration::from_secs(10);
/// Streams that stayed behind before a list is made.
const STREAMS_BEFORE_LIST: u32 = 2;
/// Between two attempts.
const RETRY: Exponential = Exponential::new(Duration::from_millis(200), Duration::from_secs(5));

/// The one range that is watched.
pub fn watched() -> KeyRange {
    KeyRange::range(WATCH_START, WATCH_END)
}

/// What the driver does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Drop the stream, if there is one, and after `View::pause` read `/dokkaa/cluster`, linearizable. All steps of a
    /// connect go to the endpoint of its stream.
    Read {
        /// To another endpoint than before, if there is one.
        avoid: bool,
    },
    /// Read this range.
    Range(Range),
    /// Open a stream. What it says waits for `Step::Follow`.
    Watch {
        /// First revision.
        from: i64,
    },
    /// Pass on what the stream says, keep-alive revisions, and the time.
    Follow,
}

/// What came of a step.
#[derive(Debug)]
pub enum Answer {
    /// The step failed.
    Failed,
    /// Of `Step::Range` or `Step::Watch`: that revision is compacted. One that is still to come is a failure: the next
    /// first read tells what is wrong.
    Compacted,
    /// Of `Step::Read`.
    Read(FirstRead),
    /// Of `Step::Range`.
    Page(RangeReply),
    /// Of `Step::Watch`.
    Opened,
    /// From the stream; before `Step::Follow` only that it ended, instead of a step's answer.
    Reply(WatchReply),
}

/// The view.
#[derive(Debug)]
pub struct View {
    cluster: Cluster,
    page: i64,
    heal_every: Duration,
    compare_every: Duration,
    rules: Rules,
    random: u64,
    snapshot: Snapshot,
    raw: RedBlackTreeMapSync<String, Raw>,
    /// There is something to resume from.
    based: bool,
    phase: Phase,
    connect: Connect,
    trust: Trust,
    /// A restore that was accepted and is still to be said.
    accepted: Option<Cluster>,
    must_list: bool,
    /// The stream was whole until it was dropped for a list.
    unbroken: bool,
    avoid: bool,
    floor: i64,
    seen: i64,
    late_streams: u32,
    ask: bool,
    unfollowed_since: Option<Millis>,
    stale: bool,
    next_heal: Millis,
    /// Up to this revision the view is what etcd had.
    compared: i64,
    next_compare: Millis,
    /// What etcd had, where the stream has lost events: this is proven instead of the view.
    certain: Option<Certain>,
    retry: Exponential,
    said: Flags,
    said_revision: i64,
    outbox: Option<Unsaid>,
}

impl View {
    /// A view that resumes from what was saved, if it is this cluster's, and else begins with a list.
    ///
    /// What was saved in an earlier epoch is the view before a restore that was accepted since.
    pub fn new(options: &ViewOptions, now: Millis) -> Self {
        let saved = options
            .saved
            .as_ref()
            .filter(|saved| saved.cluster.id == options.cluster.id);
        let trust = if options.held {
            Trust::Distrust(Reason::Held)
        } else {
            Trust::Trusted
        };
        let mut view = Self {
            cluster: saved
                .map_or(&options.cluster, |saved| &saved.cluster)
                .clone(),
            page: options.page,
            heal_every: options.heal_every,
            compare_every: options.compare_every,
            rules: options.rules,
            random: options.seed | 1,
            snapshot: Snapshot::default(),
            raw: RedBlackTreeMapSync::new_sync(),
            based: false,
            phase: Phase::Reading,
            connect: Connect::default(),
            trust,
            accepted: None,
            must_list: false,
            unbroken: false,
            avoid: false,
            floor: 0,
            seen: 0,
            late_streams: 0,
            ask: false,
            unfollowed_since: Some(now),
            stale: false,
            next_heal: now,
            compared: 0,
            next_compare: now,
            certain: None,
            retry: RETRY,
            said: Flags {
                complete: false,
                stale: false,
                trust: Trust::Trusted,
            },
            said_revision: 0,
            outbox: None,
        };
        view.plan_heal(now);
        if let Some(saved) = saved {
            view.raw = saved.raw.clone();
            let puts = saved.raw.iter().filter_map(|(key, raw)| put(key, raw));
            let touched = view.snapshot.apply_read(puts, saved.revision);
            view.based = true;
            view.emit(touched, true);
        }
        view
    }

    /// What to do next.
    pub fn step(&self) -> Step {
        match &self.phase {
            Phase::Reading => Step::Read {
                avoid: self.avoid || !self.trust.is_trusted(),
            },
            Phase::Listing { at, next, .. } => Step::Range(Range {
                revision: *at,
                limit: self.page,
                ..Range::new(KeyRange::range(next.as_str(), WATCH_END))
            }),
            Phase::Opening => Step::Watch {
                from: self.base() + 1,
            },
            Phase::Asking => Step::Range(Range {
                revision: self.connect.read,
                min_modified: self.base() + 1,
                keys_only: true,
                ..Range::new(watched())
            }),
            Phase::Proving { what, next } => {
                Step::Range(self.keys_at(self.to_prove(*what).1, next))
            }
            Phase::Collecting { found, next } => Step::Range(self.keys_at(found.at, next)),
            Phase::Comparing { at } => Step::Range(Range {
                revision: *at,
                min_modified: self.compared + 1,
                keys_only: true,
                ..Range::new(watched())
            }),
            Phase::Following => Step::Follow,
        }
    }

    /// A page of what etcd had, without values.
    fn keys_at(&self, revision: i64, next: &str) -> Range {
        Range {
            revision,
            limit: self.page,
            keys_only: true,
            ..Range::new(KeyRange::range(next, WATCH_END))
        }
    }

    /// How long to wait before `Step::Read`: nothing at the start, then longer and longer, jittered.
    pub fn pause(&mut self) -> Duration {
        if self.retry.failures() == 0 {
            return Duration::ZERO;
        }
        // Between a quarter of it and all of it.
        let share = 256 + self.random() % 769;
        self.retry.wait().mul_f64(share as f64 / 1024.0)
    }

    /// The stream is to be asked for its progress.
    pub fn take_progress_request(&mut self) -> bool {
        std::mem::take(&mut self.ask)
    }

    /// The view as it is now, to be saved; costs nothing.
    pub fn saved(&self) -> SavedView {
        SavedView {
            cluster: self.cluster.clone(),
            revision: self.snapshot.revision,
            raw: self.raw.clone(),
        }
    }

    /// The cluster's epoch, and the revision that the view stands at in it.
    pub fn position(&self) -> (u64, i64) {
        (self.cluster.epoch, self.snapshot.revision)
    }

    /// A keep-alive answer carried this revision.
    pub fn seen(&mut self, revision: i64, now: Millis) {
        self.seen = self.seen.max(revision);
        self.tick(now);
    }

    /// The own record was put last at this revision: the view is not complete below it.
    pub fn floor(&mut self, revision: i64) {
        self.floor = revision;
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
        let reached = self.snapshot.revision.max(self.connect.progress);
        match self.connect.freshness {
            _ if self.seen <= reached => self.fresh(),
            Freshness::Fine => self.connect.freshness = Freshness::Behind { since: now },
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
        if !matches!(self.phase, Phase::Following) || self.begins_to_compare(now) {
            self.emit(Touched::default(), false);
            return;
        }
        let late = |c: &CatchUp| now - c.since >= CATCH_UP;
        if self.connect.catch_up.as_ref().is_some_and(late) || now >= self.next_heal {
            self.heal(now);
        }
        self.emit(Touched::default(), false);
    }

    /// When the view wants to look at the time next, if nothing is said to it before; none while something is under way
    /// whose time may end.
    pub fn rests_until(&self) -> Option<Millis> {
        let rests = matches!(self.phase, Phase::Following)
            && self.connect.freshness == Freshness::Fine
            && self.connect.catch_up.is_none()
            && self.connect.suspicion.is_none();
        rests.then(|| match self.compares() {
            Some(_) => self.next_heal.min(self.next_compare),
            None => self.next_heal,
        })
    }

    /// Takes the answer to a step.
    pub fn answer(&mut self, answer: Answer, now: Millis) {
        let phase = std::mem::replace(&mut self.phase, Phase::Reading);
        match (phase, answer) {
            (Phase::Reading, Answer::Read(read)) => self.first_read(&read, now),
            (Phase::Listing { at, mut found, .. }, Answer::Page(page)) => {
                // The first page decides at which revision all of them are.
                let at = if at == 0 { page.revision } else { at };
                let next = after(&page);
                for kv in page.kvs {
                    let raw = Raw::of(&kv);
                    // What is known already is shared, not held twice.
                    let known = self.raw.get(&kv.key).filter(|known| **known == raw);
                    let raw = known.cloned().unwrap_or(raw);
                    found.insert_mut(kv.key, raw);
                }
                match next {
                    Some(next) => self.phase = Phase::Listing { at, found, next },
                    None => self.listed(found, at),
                }
            }
            (Phase::Opening, Answer::Opened) => {
                self.avoid = false;
                // The proof comes last, so that it speaks for what is read here too.
                self.phase = if self.base() < self.connect.read && self.rules.has(Rule::CatchUp) {
                    Phase::Asking
                } else {
                    self.first_proof()
                };
            }
            (Phase::Asking, Answer::Page(page)) => {
                let changed = page.kvs.into_iter().map(|kv| (kv.key, kv.modified));
                self.connect.catch_up = Some(CatchUp {
                    changed: changed.collect(),
                    count: page.count,
                    revision: self.connect.read,
                    since: now,
                });
                self.phase = self.first_proof();
            }
            (Phase::Proving { what, next }, Answer::Page(page)) => {
                self.prove(what, &next, &page, now);
            }
            (Phase::Comparing { at }, Answer::Page(page)) => self.compare(at, &page, now),
            (Phase::Comparing { .. }, Answer::Compacted) => {
                // The stream is behind that: once it has told how far it is, again.
                self.ask = true;
                self.next_compare = now + PATIENCE;
                self.follow();
            }
            (Phase::Collecting { found, .. }, Answer::Page(page)) => {
                self.collect(found, page, now);
            }
            (Phase::Following, Answer::Reply(reply)) => {
                self.phase = Phase::Following;
                self.reply(reply, now);
                self.is_certain(now);
            }
            (
                Phase::Proving {
                    what: Proof::View, ..
                },
                Answer::Compacted,
            ) => {
                // What is between the view and the oldest revision left can't be seen any more: a list has to do.
                if self.connect.list.is_some() {
                    self.phase = Phase::proving(Proof::List);
                } else {
                    self.compacted(now);
                }
            }
            (_, Answer::Reply(WatchReply::Compacted(_))) => self.compacted(now),
            (_, Answer::Compacted) => {
                self.must_list = true;
                self.failed(now);
            }
            // Whatever else was said, the step did not bring what it should: begin again.
            _ => self.failed(now),
        }
        self.tick(now);
    }

    fn first_read(&mut self, read: &FirstRead, now: Millis) {
        let restored = accepted(&self.cluster, read.cluster.as_ref()).is_some();
        if !restored && let Trust::Distrust(reason) = check(&self.known(), read) {
            self.distrust(reason, now);
            return;
        }
        // What keep-alive answers of another etcd, or of the time before a restore, said is not waited for.
        self.seen = self.seen.min(read.revision);
        self.connect.read = read.revision;
        self.phase = if restored || !self.based || self.must_list {
            Phase::listing()
        } else {
            Phase::Opening
        };
    }

    fn known(&self) -> Known {
        Known {
            cluster: self.cluster.clone(),
            revision: self.snapshot.revision,
        }
    }

    fn ask_for_progress(&mut self, now: Millis) {
        self.ask = true;
        self.connect.freshness = Freshness::Asked {
            at: now,
            wanted: self.seen,
        };
    }

    fn fresh(&mut self) {
        self.connect.freshness = Freshness::Fine;
        self.late_streams = 0;
        self.stale = false;
    }

    /// Nothing more is taken from this etcd, and it is looked at again after a pause.
    fn distrust(&mut self, reason: Reason, now: Millis) {
        self.trust = Trust::Distrust(reason);
        self.failed(now);
    }

    /// A step failed or the stream broke: again, after a pause.
    fn failed(&mut self, now: Millis) {
        self.unbroken = false;
        self.retry.failed();
        self.disconnected(now);
    }

    /// The stream can't go on from the view: a list, at once.
    fn compacted(&mut self, now: Millis) {
        self.must_list = true;
        self.unbroken = false;
        self.disconnected(now);
    }

    /// A list, out of the stream.
    fn heal(&mut self, now: Millis) {
        self.must_list = true;
        self.unbroken = self.connect.reached;
        self.disconnected(now);
    }

    /// The stream is read.
    fn follow(&mut self) {
        self.phase = Phase::Following;
        self.unfollowed_since = None;
    }

    fn disconnected(&mut self, now: Millis) {
        self.phase = Phase::Reading;
        self.connect = Connect::default();
        self.unfollowed_since.get_or_insert(now);
        self.emit(Touched::default(), false);
    }

    fn plan_heal(&mut self, now: Millis) {
        let late = self.random() % 1024;
        self.next_heal = now + self.heal_every + self.heal_every.mul_f64(late as f64 / 10_240.0);
    }

    /// xorshift64: only jitter.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// Where the next page begins, if there is one.
fn after(page: &RangeReply) -> Option<String> {
    let last = page.kvs.last().filter(|_| page.more)?;
    Some(format!("{}\0", last.key))
}

#[cfg(test)]
mod tests;
