//! What becomes of the slots of some containers when their manifests are those of this snapshot.
//!
//! No plan of any host, and nothing that one would have to agree with: it asks the functions that plans ask, of every slot
//! at once, and looks no further than the first step of each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use manifests::keys::Key;
use manifests::update::{Before, Order};
use manifests::{ContainerId, HostName, Manifest, SlotId};
use model::records::Claim;
use model::snapshot::{Change, ContainerView, Owner, Rev, SlotView, Snapshot, Successor};

use crate::placement;
use crate::rollout::{self, Target};
use crate::update;
use crate::waiting::Waiting;

/// What becomes of a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Preview {
    /// Its slots, those that are wanted and those that somebody has.
    pub slots: BTreeMap<u32, Fate>,
    /// What runs first, once; none if nothing does, or no slot is begun.
    pub before: Option<Before>,
    /// How those that are replaced follow each other; none if none is.
    pub update: Option<Rollover>,
}

/// What becomes of a slot.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// It is begun there.
    Created {
        /// The host.
        host: HostName,
        /// What it waits for first: that others, which are removed, are gone.
        first: Option<Waiting>,
    },
    /// Another instance takes the place of the present one.
    Replaced {
        /// Its host.
        host: HostName,
        /// What runs now, if this agent can read it.
        runs: Option<Arc<Manifest>>,
    },
    /// It stays as it is.
    Kept {
        /// Its host.
        host: HostName,
        /// Why it does not become what the manifest says.
        why: Option<Stays>,
    },
    /// It is stopped, and its container removed.
    Removed {
        /// Its host.
        host: HostName,
    },
    /// Another host takes it.
    Moved {
        /// Its host.
        from: HostName,
        /// The next one; none where that is known only when its turn comes.
        to: Option<HostName>,
        /// Why.
        why: Leaves,
    },
    /// It is wanted, and what would have to happen can't.
    Waiting {
        /// Who has it.
        host: Option<HostName>,
        /// Why.
        why: Waiting,
    },
}

/// Why a slot stays as it is, although that is not what its manifest says.
#[derive(Debug, Clone, PartialEq, Eq, strum::Display)]
pub enum Stays {
    /// The update to this manifest was halted, at a slot and for a reason.
    #[strum(to_string = "the update was halted at slot {0}: {1}")]
    Halted(u32, String),
    /// Its host is not live, and no other has it instead.
    #[strum(to_string = "its host is missing")]
    Missing,
    /// A constraint that no longer holds on its host.
    #[strum(to_string = "{0} does not hold there; begun anew, it goes where it does")]
    Outlived(String),
}

/// Why a slot leaves its host.
#[derive(Debug, Clone, PartialEq, Eq, strum::Display)]
pub enum Leaves {
    /// Its host is not live.
    #[strum(to_string = "its host is missing")]
    Lost,
    /// Its host gives away what it has.
    #[strum(to_string = "its host gives away what it has")]
    Given,
    /// A handover is under way.
    #[strum(to_string = "its handover is under way")]
    Handed,
    /// It ran when its manifest was deleted; the new one has a constraint that does not hold on its host.
    #[strum(to_string = "`{0}` of its new manifest does not hold there")]
    NotHere(String),
}

/// How the slots of a container are replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollover {
    /// So many at once.
    pub parallelism: u32,
    /// The order on each host.
    pub order: Order,
    /// Why the old instance stops first.
    pub why: Option<String>,
    /// The slots, in the order in which they are begun.
    pub slots: Vec<u32>,
}

/// What becomes of these containers, of which `before` has what is now.
pub fn preview(
    before: &Snapshot,
    after: &Snapshot,
    containers: &BTreeSet<ContainerId>,
) -> BTreeMap<ContainerId, Preview> {
    let placing = Placing::of(after, containers);
    let mut found = BTreeMap::new();
    let mut late = Vec::new();
    for id in containers {
        let Some(container) = after.containers.get(id) else {
            continue;
        };
        let was = before.containers.get(id).map(AsRef::as_ref);
        let mut numbers = container.numbers();
        numbers.extend(container.slots.keys());
        let mut preview = Preview::default();
        let mut replaced = Replaced::default();
        for number in numbers {
            let slot = id.slot(number);
            let of_slot = One {
                after,
                was,
                container,
                slot: &slot,
            };
            let Some(fate) = of_slot.fate(&placing, &mut replaced) else {
                continue;
            };
            let is_blocked = matches!(
                fate,
                Fate::Waiting {
                    host: None,
                    why: Waiting::Unplaceable(_),
                }
            );
            if is_blocked || fate.is_begun_elsewhere() {
                late.push(slot);
            }
            preview.slots.insert(number, fate);
        }
        let begins = |fate: &Fate| {
            matches!(fate, Fate::Created { .. } | Fate::Replaced { .. })
                || fate.is_begun_elsewhere()
        };
        if preview.slots.values().any(begins) {
            preview.before = rollout::to_run_before(container).cloned();
        }
        preview.update = replaced.in_order(container);
        found.insert(id.clone(), preview);
    }
    if !late.is_empty() {
        place_late(after, containers, &late, &mut found);
    }
    found
}

/// Where slots that nobody has, and those that hosts give away, go.
struct Placing {
    unclaimed: BTreeMap<SlotId, Result<HostName, Waiting>>,
    given: BTreeMap<SlotId, HostName>,
}

impl Placing {
    fn of(snapshot: &Snapshot, containers: &BTreeSet<ContainerId>) -> Self {
        let given = placement::handovers(snapshot).into_iter();
        let given = given.filter_map(|placed| Some((placed.slot, placed.order.first()?.clone())));
        Self {
            unclaimed: unclaimed(snapshot, containers),
            given: given.collect(),
        }
    }
}

fn unclaimed(
    snapshot: &Snapshot,
    containers: &BTreeSet<ContainerId>,
) -> BTreeMap<SlotId, Result<HostName, Waiting>> {
    let mut found = BTreeMap::new();
    placement::each_unclaimed(snapshot, |placed| {
        if !containers.contains(&placed.slot.container) {
            return;
        }
        let host = match (placed.first_host(), placed.why_waiting()) {
            (Some(host), _) => Ok(host.clone()),
            (None, why) => Err(why.unwrap_or(Waiting::NoHost)),
        };
        found.insert(placed.slot.clone(), host);
    });
    found
}

/// What is placed when others are gone: what waits for a host only as long as those are there that are removed, and what
/// itself has to go first.
fn place_late(
    after: &Snapshot,
    containers: &BTreeSet<ContainerId>,
    late: &[SlotId],
    found: &mut BTreeMap<ContainerId, Preview>,
) {
    let mut settled = after.clone();
    let revision = settled.revision;
    let gone = found.iter().flat_map(|(id, preview)| {
        let goes = |fate: &Fate| matches!(fate, Fate::Removed { .. }) || fate.is_begun_elsewhere();
        let slots = preview.slots.iter();
        let gone = slots.filter(move |(_, fate)| goes(fate));
        gone.map(|(number, _)| Change::Delete {
            key: Key::Claim(id.slot(*number)).to_string(),
            modified: revision,
        })
    });
    let gone: Vec<Change> = gone.collect();
    if gone.is_empty() {
        return;
    }
    settled.apply(gone, revision);
    let mut placed = unclaimed(&settled, containers);
    for slot in late {
        let fates = found.get_mut(&slot.container).map(|one| &mut one.slots);
        let fate = fates.and_then(|fates| fates.get_mut(&slot.slot));
        match (fate, placed.remove(slot)) {
            (Some(Fate::Moved { to, .. }), Some(Ok(host))) => *to = Some(host),
            // It goes all the same, and then nobody has it.
            (Some(fate @ Fate::Moved { .. }), Some(Err(why))) => {
                *fate = Fate::Waiting { host: None, why };
            }
            (Some(fate), Some(Ok(host))) => {
                if let Fate::Waiting { why, .. } = fate {
                    let first = Some(why.clone());
                    *fate = Fate::Created { host, first };
                }
            }
            _ => {}
        }
    }
}

impl Fate {
    /// It is stopped, and then begun where its manifest allows it.
    fn is_begun_elsewhere(&self) -> bool {
        matches!(
            self,
            Self::Moved {
                why: Leaves::NotHere(_),
                ..
            }
        )
    }
}

/// One slot.
struct One<'a> {
    after: &'a Snapshot,
    was: Option<&'a ContainerView>,
    container: &'a ContainerView,
    slot: &'a SlotId,
}

impl One<'_> {
    fn fate(&self, placing: &Placing, replaced: &mut Replaced) -> Option<Fate> {
        let none = SlotView::default();
        let view = self.container.slots.get(&self.slot.slot).unwrap_or(&none);
        let claim = view.claim.as_ref();
        let host = claim.map(|claim| claim.host.clone());
        if !self.container.is_wanted(self.slot.slot) {
            let next = view.next.as_ref().map(|next| next.host.clone());
            return Some(Fate::Removed {
                host: host.or(next)?,
            });
        }
        match (placing.unclaimed.get(self.slot), host) {
            (Some(Ok(to)), Some(from)) => Some(Fate::Moved {
                from,
                to: Some(to.clone()),
                why: Leaves::Lost,
            }),
            (Some(Ok(host)), None) => Some(Fate::Created {
                host: host.clone(),
                first: None,
            }),
            (Some(Err(why)), host) => Some(Fate::Waiting {
                host,
                why: why.clone(),
            }),
            (None, _) => self.placed(view, placing, replaced),
        }
    }

    /// Of a slot that a live host has, or is to have.
    fn placed(&self, view: &SlotView, placing: &Placing, replaced: &mut Replaced) -> Option<Fate> {
        let claim = match (self.after.owner(view), self.after.successor(view)) {
            (Owner::Nobody, Successor::Live(next)) => {
                return Some(Fate::Created {
                    host: next.host.clone(),
                    first: None,
                });
            }
            (Owner::Live(claim) | Owner::Lost(claim), Successor::Live(next)) => {
                let why = match self.after.owner(view) {
                    Owner::Lost(_) => Leaves::Lost,
                    _ if self.gives(&claim.host) => Leaves::Given,
                    _ => Leaves::Handed,
                };
                return Some(Fate::Moved {
                    from: claim.host.clone(),
                    to: Some(next.host.clone()),
                    why,
                });
            }
            (Owner::Live(claim), _) => claim,
            (Owner::Lost(claim), _) if self.container.is_global() => {
                return Some(Fate::Kept {
                    host: claim.host.clone(),
                    why: Some(Stays::Missing),
                });
            }
            (Owner::Nobody | Owner::Lost(_), _) => return None,
        };
        if let Some(constraint) = placement::was_written_elsewhere(self.after, self.container, view)
        {
            return Some(Fate::Moved {
                from: claim.host.clone(),
                to: None,
                why: Leaves::NotHere(constraint),
            });
        }
        if self.gives(&claim.host) {
            return Some(Fate::Moved {
                from: claim.host.clone(),
                to: placing.given.get(self.slot).cloned(),
                why: Leaves::Given,
            });
        }
        Some(self.stays_on(claim, replaced))
    }

    fn gives(&self, host: &HostName) -> bool {
        self.after.giving().any(|giving| giving == host)
    }

    fn stays_on(&self, claim: &Rev<Claim>, replaced: &mut Replaced) -> Fate {
        let host = claim.host.clone();
        let number = self.slot.slot;
        let waits = |why| Fate::Waiting {
            host: Some(claim.host.clone()),
            why,
        };
        let Some(target) = rollout::of_slot(self.container, number, claim.version) else {
            return waits(Waiting::InvalidManifest);
        };
        if !target.outdates(self.container, claim.version) || self.is_to_come(claim, &target) {
            let why = self.halted(claim).or_else(|| {
                placement::outlived(self.after, self.container, &host).map(Stays::Outlived)
            });
            return Fate::Kept { host, why };
        }
        match update::turn(self.after, self.container, self.slot, &target) {
            update::Turn::Waits(why @ (Waiting::UpdatePaused | Waiting::InvalidManifest)) => {
                return waits(why);
            }
            update::Turn::Now => replaced.at_once.push(number),
            update::Turn::Noted(_) | update::Turn::Waits(_) => replaced.in_turn.push(number),
        }
        replaced.by = Some(target.manifest().clone());
        let runs = [self.was, Some(self.container)].into_iter().flatten();
        let mut runs = runs.filter_map(|container| container.manifest_of(claim.version).cloned());
        Fate::Replaced {
            host,
            runs: runs.next(),
        }
    }

    /// Nobody has decided the image of its version yet, and it is what is asked for all the same.
    fn is_to_come(&self, claim: &Rev<Claim>, target: &Target<'_>) -> bool {
        if self.container.versions.contains_key(&claim.version) {
            return false;
        }
        let was = self.was.and_then(|was| was.manifest_of(claim.version));
        was.is_some_and(|was| rollout::is_same(was, target.manifest()))
    }

    fn halted(&self, claim: &Rev<Claim>) -> Option<Stays> {
        let newest = Target::of(self.container)?;
        let mark = self.container.rollout.as_ref()?;
        let is_behind =
            newest.was_given_up(self.container) && newest.outdates(self.container, claim.version);
        is_behind.then(|| Stays::Halted(mark.slot, mark.reason.clone()))
    }
}

/// Slots that are replaced.
#[derive(Default)]
struct Replaced {
    /// They wait for nobody.
    at_once: Vec<u32>,
    in_turn: Vec<u32>,
    by: Option<Arc<Manifest>>,
}

impl Replaced {
    fn in_order(self, container: &ContainerView) -> Option<Rollover> {
        let by = self.by?;
        let order = by.order();
        let why = (order == Order::StopFirst).then(|| {
            let said = || by.update.order.map(|_| "as `update` says".to_owned());
            by.why_stop_first()
                .or_else(said)
                .unwrap_or_else(|| "it writes to a path of its host".to_owned())
        });
        let scale = container.scale().unwrap_or_default();
        Some(Rollover {
            parallelism: rollout::policy(container).parallelism.of(scale),
            order,
            why,
            slots: self.at_once.into_iter().chain(self.in_turn).collect(),
        })
    }
}

#[cfg(test)]
mod tests;
