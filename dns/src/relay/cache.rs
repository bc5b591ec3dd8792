//! Answers kept by their TTL, those used longest ago dropped first.
//!
//! Bounded in number and octets. An answer whose time is over stays for a day,
//! for when no resolver answers (RFC 8767).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::{Age, Answer, STALE_TTL};

/// Longest time that an answer is used after its own.
const STALE: Duration = Duration::from_secs(86_400);
/// Octets of an entry besides key and answer, about.
const ENTRY: usize = 256;

/// What the cache may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) entries: usize,
    pub(crate) octets: usize,
}

/// Answers by what equal queries have in common.
#[derive(Debug)]
pub(super) struct Cache {
    bounds: Bounds,
    entries: HashMap<Arc<[u8]>, Entry>,
    /// Keys by their last use.
    uses: BTreeMap<u64, Arc<[u8]>>,
    next_use: u64,
    octets: usize,
}

#[derive(Debug)]
struct Entry {
    answer: Arc<Answer>,
    came: Instant,
    /// End of its time.
    until: Instant,
    /// No resolver answers: until then none is asked.
    held: Option<Instant>,
    used: u64,
    octets: usize,
}

/// A kept answer.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// To be given.
    Ready(Arc<Answer>, Age),
    /// To be given if no resolver answers.
    Spare(Arc<Answer>),
}

impl Cache {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            entries: HashMap::new(),
            uses: BTreeMap::new(),
            next_use: 0,
            octets: 0,
        }
    }

    pub(super) fn get(&mut self, key: &[u8], now: Instant) -> Option<Found> {
        let entry = self.entries.get_mut(key)?;
        let over = now.saturating_duration_since(entry.until);
        let is_over = now >= entry.until;
        if is_over && (over > STALE || !entry.answer.is_good()) {
            self.remove(key);
            return None;
        }
        if let Some(key) = self.uses.remove(&entry.used) {
            entry.used = self.next_use;
            self.next_use += 1;
            self.uses.insert(entry.used, key);
        }
        let answer = Arc::clone(&entry.answer);
        Some(if !is_over {
            let age = now.saturating_duration_since(entry.came);
            Found::Ready(answer, Age::Known(age))
        } else if entry.held.is_some_and(|held| now < held) {
            Found::Ready(answer, Age::Stale)
        } else {
            Found::Spare(answer)
        })
    }

    pub(super) fn put(&mut self, key: &Arc<[u8]>, answer: Arc<Answer>, now: Instant) {
        let Some(lifetime) = answer.lifetime() else {
            return;
        };
        self.remove(key);
        let octets = ENTRY + key.len() + answer.size();
        if octets > self.bounds.octets {
            return;
        }
        while self.entries.len() >= self.bounds.entries || self.octets + octets > self.bounds.octets
        {
            let Some((_, oldest)) = self.uses.first_key_value() else {
                break;
            };
            let oldest = Arc::clone(oldest);
            self.remove(&oldest);
        }
        let used = self.next_use;
        self.next_use += 1;
        self.octets += octets;
        self.uses.insert(used, Arc::clone(key));
        let entry = Entry {
            answer,
            came: now,
            until: now + lifetime,
            held: None,
            used,
            octets,
        };
        self.entries.insert(Arc::clone(key), entry);
    }

    /// Gives an answer whose time is over for a while without asking; false if there is none.
    pub(super) fn hold(&mut self, key: &[u8], now: Instant) -> bool {
        let spare = matches!(self.get(key, now), Some(Found::Spare(_)));
        if let Some(entry) = self.entries.get_mut(key).filter(|_| spare) {
            entry.held = Some(now + Duration::from_secs(STALE_TTL.into()));
        }
        spare
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.bounds);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Octets in memory, about.
    pub(super) fn octets(&self) -> usize {
        self.octets
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.remove(key) {
            self.uses.remove(&entry.used);
            self.octets -= entry.octets;
        }
    }
}

#[cfg(test)]
mod tests;
