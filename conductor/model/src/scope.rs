//! What actions and writes are about.

use manifests::{ContainerId, SlotId};

/// What one worker does at a time: a slot's container, or a version's image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// A slot's containers and its keys.
    Slot(SlotId),
    /// What the slots of a container share.
    Container(ContainerId),
}
