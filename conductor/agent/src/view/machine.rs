//! The view as a pure state machine: it says what to ask etcd next, is fed the answers, and holds the snapshot.
//!
//! It does no IO and reads no clock. Every connect begins with the first read
//! (`Step::Read`), opens its stream, and only then proves that the view is part of
//! etcd's history: an etcd that is replaced later ends the stream, one that was
//! replaced before fails the proof. Nothing is used, and no distrust ends, before
//! that and before all that happened up to the first read has been seen.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use manifests::keys::{Key, WATCH_END, WATCH_START};
use model::Millis;
use model::records::Cluster;
use model::rules::{Rule, Rules};
use model::snapshot::{Change, Snapshot, Touched};
use rpds::RedBlackTreeMapSync;

use super::saved::{Raw, SavedView};
use super::{
    FirstRead, Known, Reason, Trust, ViewOptions, ViewUpdate, accepted, check, check_history,
    check_list, check_manifests,
};
use model::kv::{Event, KeyRange, Range, RangeReply, WatchReply};

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
    /// All keys: at the revision of the first page.
    Listing {
        at: i64,
        found: RedBlackTreeMapSync<String, Raw>,
        next: String,
    },
    Opening,
    /// Which keys have changed between the view and the first read, and how many there are.
    Asking,
    /// Whether the stream's etcd had these keys, page by page and without values.
    Proving {
        what: Proof,
        next: String,
    },
    Following,
}

impl Phase {
    fn listing() -> Self {
        Self::Listing {
            at: 0,
            found: RedBlackTreeMapSync::new_sync(),
            next: WATCH_START.to_owned(),
        }
    }

    fn proving(what: Proof) -> Self {
        Self::Proving {
            what,
            next: WATCH_START.to_owned(),
        }
    }
}

/// What is to be part of the stream's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    View,
    List,
}

/// A list that is still to be proven.
#[derive(Debug)]
struct List {
    keys: RedBlackTreeMapSync<String, Raw>,
    at: i64,
    /// The cluster in it, if that is the known one after an accepted restore.
    restored: Option<Cluster>,
    /// Unbroken history leads from the view to it.
    leads: bool,
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
    rules: Rules,
    random: u64,
    snapshot: Snapshot,
    raw: RedBlackTreeMapSync<String, Raw>,
    /// There is something to resume from.
    based: bool,
    phase: Phase,
    /// The revision of this connect's first read.
    read: i64,
    list: Option<List>,
    trust: Trust,
    /// A restore that was accepted and is still to be said.
    accepted: Option<Cluster>,
    must_list: bool,
    /// The stream was whole until it was dropped for a list.
    unbroken: bool,
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
            rules: options.rules,
            random: options.seed | 1,
            snapshot: Snapshot::default(),
            raw: RedBlackTreeMapSync::new_sync(),
            based: false,
            phase: Phase::Reading,
            read: 0,
            list: None,
            trust,
            accepted: None,
            must_list: false,
            unbroken: false,
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
        if let Some(saved) = saved {
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
                revision: self.read,
                min_modified: self.base() + 1,
                keys_only: true,
                ..Range::new(watched())
            }),
            Phase::Proving { what, next } => Step::Range(Range {
                revision: self.to_prove(*what).1,
                limit: self.page,
                keys_only: true,
                ..Range::new(KeyRange::range(next.as_str(), WATCH_END))
            }),
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
            self.unbroken = self.reached;
            self.disconnected(now);
        }
        self.emit(Touched::default(), false);
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
                self.phase = if self.base() < self.read && self.rules.has(Rule::CatchUp) {
                    Phase::Asking
                } else {
                    self.first_proof()
                };
            }
            (Phase::Asking, Answer::Page(page)) => {
                let changed = page.kvs.into_iter().map(|kv| (kv.key, kv.modified));
                self.catch_up = Some(CatchUp {
                    changed: changed.collect(),
                    count: page.count,
                    revision: self.read,
                    since: now,
                });
                self.phase = self.first_proof();
            }
            (Phase::Proving { what, next }, Answer::Page(page)) => {
                self.prove(what, &next, &page, now);
            }
            (Phase::Following, Answer::Reply(reply)) => {
                self.phase = Phase::Following;
                self.reply(reply, now);
            }
            (
                Phase::Proving {
                    what: Proof::View, ..
                },
                Answer::Compacted,
            ) => {
                // What is between the view and the oldest revision left can't be seen any more: a list has to do.
                if self.list.is_some() {
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
        self.read = read.revision;
        self.phase = if restored || !self.based || self.must_list {
            Phase::listing()
        } else {
            Phase::Opening
        };
    }

    fn listed(&mut self, keys: RedBlackTreeMapSync<String, Raw>, at: i64) {
        let restored = accepted(&self.cluster, cluster_in(&keys).as_ref()).cloned();
        self.list = Some(List {
            keys,
            at,
            restored,
            leads: self.unbroken,
        });
        self.phase = Phase::Opening;
    }

    /// The revision that the stream goes on from.
    fn base(&self) -> i64 {
        self.list
            .as_ref()
            .map_or(self.snapshot.revision, |list| list.at)
    }

    /// A list is all that there is to prove where no view comes before it: at the start, after an accepted restore, and
    /// out of a stream that was whole.
    fn first_proof(&self) -> Phase {
        Phase::proving(match &self.list {
            Some(list) if !self.based || list.leads || list.restored.is_some() => Proof::List,
            _ => Proof::View,
        })
    }

    /// The keys to be proven, and the revision at which they were.
    fn to_prove(&self, what: Proof) -> (&RedBlackTreeMapSync<String, Raw>, i64) {
        match (what, &self.list) {
            (Proof::List, Some(list)) => (&list.keys, list.at),
            _ => (&self.raw, self.snapshot.revision),
        }
    }

    /// Compares a page of what the stream's etcd had with what is to be proven.
    fn prove(&mut self, what: Proof, first: &str, page: &RangeReply, now: Millis) {
        let next = after(page);
        let bounds = (Bound::Included(first), Bound::Unbounded);
        let (keys, _) = self.to_prove(what);
        let seen = keys
            .range::<str, _>(bounds)
            .map(|(key, raw)| (key.as_str(), raw.modified))
            .take_while(|(key, _)| next.as_deref().is_none_or(|next| *key < next));
        let history = page.kvs.iter().map(|kv| (kv.key.as_str(), kv.modified));
        // All of ours are ASCII; keys that are not even text can't be told apart here.
        let ours = |(key, _): &(&str, i64)| key.is_ascii();
        if let Trust::Distrust(reason) = check_history(seen.filter(ours), history.filter(ours)) {
            match what {
                Proof::View => self.distrust(reason, now),
                // Etcd was replaced since it was listed; the view may still be part of the new one.
                Proof::List => self.failed(now),
            }
            return;
        }
        if let Some(next) = next {
            self.phase = Phase::Proving { what, next };
            return;
        }
        match &mut self.list {
            Some(list) if what == Proof::View => {
                list.leads = true;
                self.phase = Phase::proving(Proof::List);
            }
            _ => self.proven(now),
        }
    }

    /// All that this connect has read is part of the stream's history.
    fn proven(&mut self, now: Millis) {
        let list = self.list.take();
        if let Some(list) = &list
            && let Trust::Distrust(reason) = self.judge(list)
        {
            self.distrust(reason, now);
            return;
        }
        self.phase = Phase::Following;
        self.unfollowed_since = None;
        self.freshness = Freshness::Fine;
        if let Some(catch_up) = &mut self.catch_up {
            catch_up.since = now;
        } else {
            self.reach();
        }
        if let Some(list) = list {
            self.adopt(list, now);
        }
        if self.seen > self.snapshot.revision {
            self.ask_for_progress(now);
        }
        self.catch_up_reached();
    }

    /// The view is the list from now on.
    fn adopt(&mut self, list: List, now: Millis) {
        if let Some(restored) = list.restored {
            self.accept(restored);
        }
        let puts = list
            .keys
            .iter()
            .filter(|(key, raw)| self.raw.get(*key) != Some(raw))
            .map(|(key, raw)| put(key, raw));
        let gone = self
            .raw
            .keys()
            .filter(|key| !list.keys.contains_key(*key))
            .map(|key| Change::Delete {
                key: key.clone(),
                modified: list.at,
            });
        let touched = self.snapshot.apply(puts.chain(gone), list.at);
        self.raw = list.keys;
        self.based = true;
        self.must_list = false;
        self.unbroken = false;
        self.failures = 0;
        self.fresh();
        self.plan_heal(now);
        self.emit(touched, true);
    }

    /// Judges a list: an accepted restore may be anything.
    fn judge(&self, list: &List) -> Trust {
        if list.restored.is_some() {
            return Trust::Trusted;
        }
        let read = FirstRead {
            cluster: cluster_in(&list.keys),
            revision: list.at,
        };
        check(&self.known(), &read).and(|| self.check_list(&list.keys, list.leads))
    }

    /// Judges a list against the view; one that no history leads to has to have the most of it.
    fn check_list(&self, list: &RedBlackTreeMapSync<String, Raw>, leads: bool) -> Trust {
        if !self.based {
            return Trust::Trusted;
        }
        let trust = check_list(
            self.snapshot.revision,
            |key| self.raw.get(key).map(|raw| raw.modified),
            list.iter().map(|(key, raw)| (key.as_str(), raw.modified)),
        );
        if leads {
            return trust;
        }
        trust
            .and(|| {
                let cluster = Key::Cluster.to_string();
                let created = |keys: &RedBlackTreeMapSync<String, Raw>| {
                    keys.get(&cluster).map_or(0, |raw| raw.created)
                };
                let (known, found) = (created(&self.raw), created(list));
                if known == found {
                    return Trust::Trusted;
                }
                // Made anew: so it was gone meanwhile.
                Trust::Distrust(Reason::OtherHistory {
                    key: cluster,
                    known,
                    found,
                })
            })
            .and(|| {
                let manifests = self
                    .raw
                    .keys()
                    .filter(|key| matches!(Key::parse(key), Some(Key::Manifest(_))));
                let (known, left) = manifests.fold((0, 0), |(known, left), key| {
                    (known + 1, left + usize::from(list.contains_key(key)))
                });
                check_manifests(known, left)
            })
    }

    /// The operator has accepted a restore: what this etcd has counts from now on.
    fn accept(&mut self, restored: Cluster) {
        self.cluster = restored.clone();
        self.accepted = Some(restored);
    }

    fn reply(&mut self, reply: WatchReply, now: Millis) {
        match reply {
            WatchReply::Events(events, _) => self.events(events, now),
            WatchReply::Progress(revision) => {
                self.progress = self.progress.max(revision);
                if self.reached {
                    self.failures = 0;
                }
            }
            WatchReply::Compacted(_) => self.compacted(now),
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
        match self.cluster_after(&events) {
            Ok(cluster) if cluster == self.cluster => {}
            Ok(restored) => self.accept(restored),
            Err(reason) => {
                self.distrust(reason, now);
                return;
            }
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

    /// The cluster after these events. If one of them takes its key away or makes it another's, none of them counts:
    /// what else the same hand did is not what a user wanted.
    fn cluster_after(&self, events: &[Event]) -> Result<Cluster, Reason> {
        let key = Key::Cluster.to_string();
        let mut cluster = self.cluster.clone();
        for event in events.iter().filter(|event| event.key() == key) {
            let found: Option<Cluster> = match event {
                Event::Put { now, .. } => serde_json::from_slice(&now.value).ok(),
                Event::Delete { .. } => None,
            };
            if let Some(restored) = accepted(&cluster, found.as_ref()) {
                cluster = restored.clone();
                continue;
            }
            let known = Known {
                cluster: cluster.clone(),
                revision: self.snapshot.revision,
            };
            let read = FirstRead {
                cluster: found,
                revision: event.modified(),
            };
            if let Trust::Distrust(reason) = check(&known, &read) {
                return Err(reason);
            }
        }
        Ok(cluster)
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

    /// All checks are passed, and all that happened up to the first read has been seen.
    fn reach(&mut self) {
        self.reached = true;
        self.catch_up = None;
        self.trust = Trust::Trusted;
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

    /// Nothing more is taken from this etcd, and it is looked at again after a pause.
    fn distrust(&mut self, reason: Reason, now: Millis) {
        self.trust = Trust::Distrust(reason);
        self.failed(now);
    }

    /// A step failed or the stream broke: again, after a pause.
    fn failed(&mut self, now: Millis) {
        self.unbroken = false;
        self.failures = self.failures.saturating_add(1);
        self.disconnected(now);
    }

    /// The stream can't go on from the view: a list, at once.
    fn compacted(&mut self, now: Millis) {
        self.must_list = true;
        self.unbroken = false;
        self.disconnected(now);
    }

    fn disconnected(&mut self, now: Millis) {
        self.phase = Phase::Reading;
        self.list = None;
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
            complete: self.reached
                && (self.snapshot.revision >= self.floor || !self.rules.has(Rule::CatchUp)),
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
        let update = ViewUpdate {
            snapshot: self.snapshot.clone(),
            touched,
            resync,
            complete: flags.complete,
            stale: flags.stale,
            trust: flags.trust,
            accepted: self.accepted.take(),
        };
        self.outbox = Some(match self.outbox.take() {
            Some(before) => update.after(before),
            None => update,
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

fn cluster_in(keys: &RedBlackTreeMapSync<String, Raw>) -> Option<Cluster> {
    let raw = keys.get(&Key::Cluster.to_string())?;
    serde_json::from_slice(&raw.value).ok()
}

/// Where the next page begins, if there is one.
fn after(page: &RangeReply) -> Option<String> {
    let last = page.kvs.last().filter(|_| page.more)?;
    Some(format!("{}\0", last.key))
}

#[cfg(test)]
mod tests;
