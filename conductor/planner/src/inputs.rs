//! All that a plan is made from.

use manifests::ContainerId;
use model::observed::{EngineState, Observed};
use model::rules::{Rule, Rules};
use model::snapshot::{ContainerView, Owner, Snapshot};
use model::time::Millis;
use model::{Extent, Host, Scope, Trust};

use crate::disruption::Pause;
use crate::memory::AgentMemory;
use crate::output::Notes;
use crate::turn::Turn;

/// All that a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// etcd.
    pub snapshot: &'a Snapshot,
    /// The engine.
    pub observed: &'a Observed,
    /// The own work.
    pub memory: &'a AgentMemory,
    /// This host.
    pub host: &'a Host,
    /// Trust in the snapshot.
    pub trust: Trust,
    /// The rules of ownership: all of them.
    pub rules: Rules,
    /// How much of the cluster is looked at.
    pub extent: Extent,
    /// The time.
    pub now: Millis,
}

impl Inputs<'_> {
    /// The containers of which this host has a slot.
    pub(crate) fn own_containers(&self) -> impl Iterator<Item = (&ContainerId, &ContainerView)> {
        let mut last = None;
        let slots = self.snapshot.claimed_by(&self.host.name);
        slots.filter_map(move |slot| {
            let id = &slot.container;
            let is_new = last.replace(id) != Some(id);
            let container = self.snapshot.containers.get(id).filter(|_| is_new)?;
            Some((id, container.as_ref()))
        })
    }

    /// The snapshot may be acted on.
    pub(crate) fn is_trusted(&self) -> bool {
        self.trust == Trust::Full
    }

    /// The engine answers.
    pub(crate) fn has_engine(&self) -> bool {
        self.observed.engine == EngineState::Up
    }

    /// A slot of this owner may be given to a host now.
    pub(crate) fn may_place(&self, owner: Owner<'_>) -> Result<(), Pause> {
        match owner {
            Owner::Lost(claim) if self.rules.has(Rule::MassFailure) => {
                self.memory
                    .disruption
                    .may_take_over(&claim.host, self.now)?;
            }
            Owner::Lost(_) | Owner::Nobody | Owner::Live(_) => {}
        }
        self.memory.disruption.may_place(self.now)
    }

    /// Nothing may be written for this now: a write is under way, or an own one is not in the snapshot yet.
    pub(crate) fn is_writing(&self, scope: &Scope) -> bool {
        self.memory.in_flight.is_writing(scope) || self.is_behind(scope)
    }

    /// An own write on this is not in the snapshot yet.
    pub(crate) fn is_behind(&self, scope: &Scope) -> bool {
        let own = &self.memory.own_writes;
        own.is_ahead_of(scope, self.snapshot, self.now, self.rules)
    }

    /// Since when turns for it are counted; none if it is not noted yet.
    pub(crate) fn noted(&self, scope: &Scope) -> Option<Millis> {
        self.memory.turns.get(scope).copied()
    }

    /// Nobody but the host that comes first had the time to act yet.
    pub(crate) fn is_first_turn(&self, noted: Option<Millis>) -> bool {
        self.now < Turn::in_placement(1).comes(noted.unwrap_or(self.now))
    }

    /// This host's turn has come, if it has one. Turns are counted from the first note of it.
    pub(crate) fn is_my_turn(&self, notes: &mut Notes, scope: &Scope, turn: Option<Turn>) -> bool {
        self.is_turn(notes, scope.clone(), turn, self.noted(scope))
    }

    /// As `is_my_turn`, of what was noted then.
    pub(crate) fn is_turn(
        &self,
        notes: &mut Notes,
        scope: Scope,
        turn: Option<Turn>,
        noted: Option<Millis>,
    ) -> bool {
        notes.turns.push(scope);
        let Some(turn) = turn else {
            return false;
        };
        let comes = turn.comes(noted.unwrap_or(self.now));
        if self.now < comes {
            notes.requeue(comes);
        }
        self.now >= comes
    }
}
