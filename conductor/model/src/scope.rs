//! What actions and writes are about.

use std::fmt;

use manifests::{ContainerId, SlotId};

/// Subject of actions and writes: of one scope, each follows the other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// A slot's containers and its keys.
    Slot(SlotId),
    /// What the slots of a container share.
    Container(ContainerId),
}

impl Scope {
    /// The container that it is about.
    pub fn container(&self) -> &ContainerId {
        match self {
            Self::Slot(slot) => &slot.container,
            Self::Container(container) => container,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(slot) => slot.fmt(f),
            Self::Container(container) => container.fmt(f),
        }
    }
}

/// How much of the cluster a plan looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// What the host has, what comes to it, and what its engine shows.
    Here,
    /// Also what any of several hosts may do: placement and clean-up.
    Whole,
}
