//! Safety rules by name: no slot is lost, run twice or stopped without evidence.
//!
//! All are in force, always. A simulation leaves one out to see that it would
//! be missed: a rule that can be left out unnoticed is either not needed or
//! not tested.

/// A rule of ownership. The code that follows it names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Nothing is planned for a slot from a view older than the agent's last own write on it.
    ReadYourWrites,
    /// After a start, a reconnect or a new record nothing is decided from a view below the first read's revision.
    CatchUp,
    /// A void `.next` is replaced or deleted only while its host's record is absent.
    VoidGuard,
    /// A claim deletes a void `.next`, and so does the owner.
    VoidDelete,
    /// A void `.next` of a slot without a live owner is deleted by any host.
    OrphanedNext,
    /// A lost host's unwanted claim is deleted only while its record is absent.
    GarbageGuard,
    /// A retake writes its state in the same transaction.
    RetakeState,
    /// Of the rows of the handover table the first that fits counts: deletion comes first.
    HandoverOrder,
    /// A retake is allowed while the owner's state is not `ready`, not only while it has none.
    RetakeUnready,
    /// A promotion over a live holder that is not ready compares the holder's state `stopped`.
    StoppedGuard,
    /// After `stopped` was written, the instance starts again only when that is retracted and any void `.next` deleted.
    TakeBackStopped,
    /// A retake compares `.next` as seen, and deletes it.
    RetakeNext,
    /// A state is written only by the owner, over the state it has seen.
    StateGuard,
    /// In hold nothing is stopped, claimed or taken over, and crashed containers are restarted.
    Hold,
    /// While many members are missing at once, nothing is taken over before the live hosts have settled; nor from one that
    /// went missing just now.
    MassFailure,
    /// Writes that travel in one batch keep their own guards.
    NestedBatch,
    /// An event at or below the view's revision is not news.
    KnownEvents,
    /// A progress answer does not say that what was before it has been seen.
    ProgressOvertakes,
    /// What a stream has said is compared with what etcd has, now and then.
    Compare,
    /// A view is proven by what etcd had at its revision.
    Proof,
    /// A slot that is ready is updated only in its turn.
    UpdateTurn,
    /// Of a global container a host takes no slot while it has, or runs, another.
    OnePerHost,
    /// An image whose update has failed, or that somebody went back from, is not run again.
    SkippedImage,
    /// What runs before a version is started by the one host that has noted it over what it had seen.
    JobOnce,
    /// A start goes on over a record only if this machine wrote it.
    OwnRecord,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::ReadYourWrites,
        Self::CatchUp,
        Self::VoidGuard,
        Self::VoidDelete,
        Self::OrphanedNext,
        Self::GarbageGuard,
        Self::RetakeState,
        Self::HandoverOrder,
        Self::RetakeUnready,
        Self::StoppedGuard,
        Self::TakeBackStopped,
        Self::RetakeNext,
        Self::StateGuard,
        Self::Hold,
        Self::MassFailure,
        Self::NestedBatch,
        Self::KnownEvents,
        Self::ProgressOvertakes,
        Self::Compare,
        Self::Proof,
        Self::UpdateTurn,
        Self::OnePerHost,
        Self::SkippedImage,
        Self::JobOnce,
        Self::OwnRecord,
    ];
}

/// The rules in force: all, or all but one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    left_out: Option<Rule>,
}

impl Rules {
    /// All but this one: to see that it is missed.
    pub const fn without(rule: Rule) -> Self {
        Self {
            left_out: Some(rule),
        }
    }

    /// The one that is left out.
    pub const fn left_out(self) -> Option<Rule> {
        self.left_out
    }

    /// The rule is in force.
    pub fn has(self, rule: Rule) -> bool {
        self.left_out != Some(rule)
    }
}
