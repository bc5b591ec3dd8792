//! Whether the stream has lost events: what it has said is compared with what etcd has, now and then.
//!
//! Etcd's watches have lost events more than once while their progress went on
//! (etcd#17529, #18089, #19179). Nothing in a stream shows that. So the keys that
//! have changed since the last comparison are asked for, with the number of all;
//! where nothing was written meanwhile, nothing is asked.

use model::Millis;
use model::kv::RangeReply;
use model::rules::Rule;

use super::state::{Certain, Phase, Suspicion};
use super::{View, after};
use crate::view::saved::Raw;
use crate::view::{Trust, check_history};
use manifests::keys::WATCH_START;
use std::time::Duration;

/// A stream that says something so long after an answer is of an etcd that was there when it was given: a replaced one
/// would have ended it.
const ALIVE: Duration = Duration::from_secs(4);

impl View {
    /// Looks whether it is time to compare, and before a healing list. True while there is something to ask.
    pub(super) fn begins_to_compare(&mut self, now: Millis) -> bool {
        if let Some(suspicion) = &self.connect.suspicion {
            // It has to say something.
            self.ask |= now - suspicion.since >= ALIVE;
            return false;
        }
        let due = now >= self.next_compare || now >= self.next_heal;
        let Some(at) = self.compares().filter(|_| due) else {
            return false;
        };
        self.phase = Phase::Comparing { at };
        true
    }

    /// Up to which revision there is something to compare.
    pub(super) fn compares(&self) -> Option<i64> {
        let at = self.snapshot.revision.max(self.connect.progress);
        let compares = self.connect.reached && self.rules.has(Rule::Compare);
        Some(at).filter(|at| compares && *at > self.compared)
    }

    /// Takes what has changed since the last comparison.
    pub(super) fn compare(&mut self, at: i64, page: &RangeReply, now: Millis) {
        let ours = self
            .raw
            .iter()
            .filter(|(_, raw)| raw.modified > self.compared);
        let ours = ours.map(|(key, raw)| (key.as_str(), raw.modified));
        let theirs = page.kvs.iter().map(|kv| (kv.key.as_str(), kv.modified));
        if ours.eq(theirs) && page.count == self.raw.size() as i64 {
            self.is_whole(at, now);
            return;
        }
        let found = Certain {
            at,
            ..Certain::default()
        };
        let next = WATCH_START.to_owned();
        self.phase = Phase::Collecting { found, next };
    }

    /// Takes a page of all keys.
    pub(super) fn collect(&mut self, mut found: Certain, page: RangeReply, now: Millis) {
        let next = after(&page);
        for kv in page.kvs {
            let raw = Raw::of(&kv);
            found.keys.insert_mut(kv.key, raw);
        }
        if let Some(next) = next {
            self.phase = Phase::Collecting { found, next };
            return;
        }
        // Keys that are not even text are counted, and can't be told apart.
        let ascii = |(key, _): &(&str, i64)| key.is_ascii();
        let seen = self
            .raw
            .iter()
            .map(|(key, raw)| (key.as_str(), raw.modified));
        let had = found
            .keys
            .iter()
            .map(|(key, raw)| (key.as_str(), raw.modified));
        if check_history(seen.filter(ascii), had.filter(ascii)) == Trust::Trusted {
            self.is_whole(found.at, now);
            return;
        }
        self.connect.suspicion = Some(Suspicion { found, since: now });
        self.follow();
    }

    /// The stream has said something: what was found to differ is certain after a while, and a list heals it.
    pub(super) fn is_certain(&mut self, now: Millis) {
        if !matches!(self.phase, Phase::Following) {
            return;
        }
        let waits = |suspicion: &Suspicion| now - suspicion.since < ALIVE;
        if self.connect.suspicion.as_ref().is_none_or(waits) {
            return;
        }
        self.certain = self.connect.suspicion.take().map(|it| it.found);
        self.must_list = true;
        self.unbroken = false;
        self.disconnected(now);
    }

    fn is_whole(&mut self, at: i64, now: Millis) {
        self.compared = at;
        self.plan_compare(now);
        self.follow();
        if now >= self.next_heal {
            self.heal(now);
        }
    }

    /// The next comparison.
    pub(super) fn plan_compare(&mut self, now: Millis) {
        let late = self.random() % 1024;
        self.next_compare = now + self.compare_every.mul_f64(1.0 - late as f64 / 4_096.0);
    }
}
