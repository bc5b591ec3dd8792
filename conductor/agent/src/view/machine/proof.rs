//! Lists, and the proof that what is known is part of the history of the stream's etcd.

use std::ops::Bound;

use manifests::keys::Key;
use model::Millis;
use model::kv::RangeReply;
use model::records::Cluster;
use model::rules::Rule;
use rpds::RedBlackTreeMapSync;

use super::output::put;
use super::state::{Freshness, List, Phase, Proof};
use super::{View, after};
use crate::view::saved::Raw;
use crate::view::{
    FirstRead, Reason, Trust, accepted, check, check_history, check_list, check_manifests,
};

impl View {
    pub(super) fn listed(&mut self, keys: RedBlackTreeMapSync<String, Raw>, at: i64) {
        let restored = accepted(&self.cluster, cluster_in(&keys).as_ref()).cloned();
        self.connect.list = Some(List {
            keys,
            at,
            restored,
            leads: self.unbroken,
        });
        self.phase = Phase::Opening;
    }

    /// The revision that the stream goes on from.
    pub(super) fn base(&self) -> i64 {
        self.connect
            .list
            .as_ref()
            .map_or(self.snapshot.revision, |list| list.at)
    }

    /// A list is all that there is to prove where no view comes before it: at the start, after an accepted restore, and
    /// out of a stream that was whole.
    pub(super) fn first_proof(&self) -> Phase {
        Phase::proving(match &self.connect.list {
            Some(list) if !self.based || list.leads || list.restored.is_some() => Proof::List,
            _ => Proof::View,
        })
    }

    /// The keys to be proven, and the revision at which they were.
    pub(super) fn to_prove(&self, what: Proof) -> (&RedBlackTreeMapSync<String, Raw>, i64) {
        match (what, &self.connect.list) {
            (Proof::List, Some(list)) => (&list.keys, list.at),
            _ => self.before(),
        }
    }

    /// What was there before a list: the view, or what etcd certainly had where the view lacks events.
    fn before(&self) -> (&RedBlackTreeMapSync<String, Raw>, i64) {
        match &self.certain {
            Some(certain) => (&certain.keys, certain.at),
            None => (&self.raw, self.snapshot.revision),
        }
    }

    /// Compares a page of what the stream's etcd had with what is to be proven.
    pub(super) fn prove(&mut self, what: Proof, first: &str, page: &RangeReply, now: Millis) {
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
        if let Trust::Distrust(reason) = check_history(seen.filter(ours), history.filter(ours))
            && self.rules.has(Rule::Proof)
        {
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
        match &mut self.connect.list {
            Some(list) if what == Proof::View => {
                list.leads = true;
                self.phase = Phase::proving(Proof::List);
            }
            _ => self.proven(now),
        }
    }

    /// All that this connect has read is part of the stream's history.
    pub(super) fn proven(&mut self, now: Millis) {
        let list = self.connect.list.take();
        if let Some(list) = &list
            && let Trust::Distrust(reason) = self.judge(list)
        {
            self.distrust(reason, now);
            return;
        }
        self.follow();
        self.connect.freshness = Freshness::Fine;
        if let Some(catch_up) = &mut self.connect.catch_up {
            catch_up.since = now;
        } else {
            self.reach();
        }
        if let Some(list) = list {
            self.adopt(list, now);
        }
        self.compared = self.snapshot.revision;
        self.plan_compare(now);
        if self.seen > self.snapshot.revision {
            self.ask_for_progress(now);
        }
        self.catch_up_reached();
    }

    /// The view is the list from now on.
    pub(super) fn adopt(&mut self, list: List, now: Millis) {
        if let Some(restored) = list.restored {
            self.accept(restored);
        }
        let puts = list
            .keys
            .iter()
            .filter(|(key, raw)| self.raw.get(*key) != Some(raw))
            .filter_map(|(key, raw)| put(key, raw));
        let gone = self
            .raw
            .keys()
            .filter(|key| !list.keys.contains_key(*key))
            .filter_map(|key| Some((Key::parse(key)?, None)));
        let touched = self.snapshot.apply_read(puts.chain(gone), list.at);
        self.raw = list.keys;
        self.based = true;
        self.must_list = false;
        self.certain = None;
        self.unbroken = false;
        self.retry.reset();
        self.fresh();
        self.plan_heal(now);
        self.emit(touched, true);
    }

    /// Judges a list: an accepted restore may be anything.
    pub(super) fn judge(&self, list: &List) -> Trust {
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
    pub(super) fn check_list(&self, list: &RedBlackTreeMapSync<String, Raw>, leads: bool) -> Trust {
        if !self.based {
            return Trust::Trusted;
        }
        let (before, revision) = self.before();
        let trust = check_list(
            revision,
            |key| before.get(key).map(|raw| raw.modified),
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
                let (known, found) = (created(before), created(list));
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
                let manifests = before
                    .keys()
                    .filter(|key| matches!(Key::parse(key), Some(Key::Manifest(_))));
                let (known, left) = manifests.fold((0, 0), |(known, left), key| {
                    (known + 1, left + usize::from(list.contains_key(key)))
                });
                check_manifests(known, left)
            })
    }
}

fn cluster_in(keys: &RedBlackTreeMapSync<String, Raw>) -> Option<Cluster> {
    let raw = keys.get(&Key::Cluster.to_string())?;
    serde_json::from_slice(&raw.value).ok()
}
