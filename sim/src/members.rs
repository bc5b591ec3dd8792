//! etcd's members: one log of revisions, which each of them applies in its own time.
//!
//! What is written or read is decided by the whole log, and an answer of a
//! member waits until it has applied as much. A stream says what its member has
//! applied. Here, too, are the faults that etcd's members are known to have.

use std::collections::VecDeque;

/// How many there are.
pub const MEMBERS: usize = 3;

/// A member.
#[derive(Debug, Default)]
pub struct Member {
    /// How long after a commit it applies it.
    pub lag: u64,
    /// It applies nothing and answers nobody: frozen, or cut off from the others.
    pub stalled: bool,
    /// Its progress answers overtake events (etcd#15220).
    pub ahead: bool,
    /// A watch of a revision that is still to come says old events first (etcd#20221).
    pub says_old_events: bool,
    applied: i64,
    /// What it has heard and not applied: the time when it will, and the revision.
    heard: VecDeque<(u64, i64)>,
    last_heard: i64,
    life: u64,
}

/// A member between two restarts: streams do not outlive it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Which member.
    pub member: usize,
    number: u64,
}

impl Member {
    /// Its life; `member` is its own number.
    pub fn life(&self, member: usize) -> Life {
        Life {
            member,
            number: self.life,
        }
    }

    /// It has not been restarted since.
    pub fn lives(&self, life: Life) -> bool {
        self.life == life.number
    }

    /// It hears of what is committed.
    pub fn hears(&mut self, revision: i64, now: u64) {
        if revision > self.last_heard {
            self.last_heard = revision;
            // In order, whatever its lag was before.
            let before = self.heard.back().map_or(0, |(at, _)| *at);
            self.heard.push_back((before.max(now + self.lag), revision));
            self.applied(now);
        }
    }

    /// The revision that it has applied.
    pub fn applied(&mut self, now: u64) -> i64 {
        while let Some((at, revision)) = self.heard.front().copied()
            && at <= now
            && !self.stalled
        {
            self.applied = revision;
            self.heard.pop_front();
        }
        self.applied
    }

    /// How long until it has applied all that is committed.
    pub fn behind(&self, now: u64) -> u64 {
        self.heard
            .back()
            .map_or(0, |(at, _)| at.saturating_sub(now))
    }

    /// Its streams end.
    pub fn restarts(&mut self) {
        self.life += 1;
    }

    /// Nothing is wrong with it any more.
    pub fn heals(&mut self) {
        self.lag = self.lag.min(20);
        (self.stalled, self.ahead, self.says_old_events) = (false, false, false);
    }

    /// It has this, all of it.
    pub fn is_at(&mut self, revision: i64) {
        (self.applied, self.last_heard) = (revision, revision);
        self.heard.clear();
    }
}
