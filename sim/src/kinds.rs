//! The kinds of faults, and what follows from one later.

use std::collections::BTreeMap;

use manifests::SlotId;

/// How often each kind happened.
pub type Exercised = BTreeMap<Kind, u64>;

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The agent is killed.
    Kill,
    /// The agent is restarted in order.
    GracefulRestart,
    /// The machine goes down in order.
    Shutdown,
    /// The machine loses its power, and what its disk had not yet.
    PowerLoss,
    /// The machine is reset.
    Reboot,
    /// Several machines lose their power at once.
    Several,
    /// The network to etcd fails, wholly or in one way.
    CutOff,
    /// The lease ends, though the agent lives.
    LoseLease,
    /// A stream that says nothing.
    SilentWatch,
    /// Etcd forgets its past.
    Compact,
    /// Etcd is restarted: streams break.
    EtcdRestart,
    /// A member of etcd applies later than the others.
    MemberLags,
    /// A member is frozen, or cut off from the others.
    MemberStalls,
    /// A member is restarted: its streams break.
    MemberRestarts,
    /// A member's progress answers overtake events (etcd#15220).
    ProgressAhead,
    /// A watch says again what it has said (etcd#15271).
    WatchGoesBack,
    /// A watch of a revision that is still to come says old events (etcd#20221).
    FutureWatch,
    /// Events of a watch are lost, and it goes on (etcd#17529).
    EventsLost,
    /// A compaction takes away a deletion that a watch has not said yet (etcd#18089, #19179).
    DeletionLost,
    /// Etcd's revision falls in a crash (etcd#17780).
    RevisionFalls,
    /// Etcd answers nobody.
    EtcdAway,
    /// A backup of etcd is made.
    Backup,
    /// Etcd is restored to a backup.
    Restore,
    /// Etcd is empty.
    Empty,
    /// Another cluster's etcd stands there.
    OtherCluster,
    /// The operator accepts what etcd is now.
    Accept,
    /// An engine answers nobody.
    EngineHangs,
    /// Events of an engine are lost.
    Deaf,
    /// A host reaches no registry.
    RegistryAway,
    /// A container ends by itself.
    ContainerEnds,
    /// A container does not take traffic any more.
    Sick,
    /// Somebody removes a container, and runs a copy of it.
    DockerRm,
    /// The agent is stopped, every container of it removed, and it is started again.
    Emptied,
    /// Nothing happens for a quarter of an hour.
    Rest,
    /// A machine with a copied disk.
    CopyDisk,
    /// An agent that lives and claims nothing.
    Idle,
    /// A manifest, new or changed.
    Put,
    /// An image is pushed to the registry.
    Push,
    /// Somebody goes back to the image of an earlier version.
    GoBack,
    /// Another scale.
    Scale,
    /// A manifest is deleted.
    Delete,
    /// A host keeps what it has.
    Pause,
    /// A host gives away what it has.
    Drain,
    /// A host leaves the cluster.
    Leave,
    /// A host takes slots again.
    Activate,
}

impl Kind {
    /// All of them, each as often as in a mixed seed.
    pub const ALL: &'static [(u64, Self)] = &[
        (6, Self::Kill),
        (4, Self::GracefulRestart),
        (2, Self::Shutdown),
        (4, Self::PowerLoss),
        (3, Self::Reboot),
        (2, Self::Several),
        (6, Self::CutOff),
        (3, Self::LoseLease),
        (2, Self::SilentWatch),
        (2, Self::Compact),
        (2, Self::EtcdRestart),
        (2, Self::EtcdAway),
        (2, Self::MemberLags),
        (2, Self::MemberStalls),
        (2, Self::MemberRestarts),
        (3, Self::EngineHangs),
        (2, Self::Deaf),
        (2, Self::RegistryAway),
        (4, Self::ContainerEnds),
        (3, Self::Sick),
        (3, Self::DockerRm),
        (1, Self::Emptied),
        (1, Self::Rest),
        (1, Self::Idle),
        (8, Self::Put),
        (5, Self::Scale),
        (3, Self::Delete),
        (2, Self::Pause),
        (4, Self::Drain),
        (1, Self::Leave),
        (4, Self::Activate),
    ];
}

/// What follows from what happened, later.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The network of a machine is whole again.
    Reconnected(usize),
    /// A machine has power again.
    Powered(usize),
    /// An engine answers again, and its events flow.
    EngineBack(usize),
    /// Etcd answers again.
    EtcdBack,
    /// A member answers again, and applies what it has missed.
    MemberBack(usize),
    /// The operator accepts what etcd is now.
    Accept,
    /// Something happens to those who have to do with a slot that is changing hands.
    Amid(SlotId),
    /// A user wants something for the first time.
    FirstPut(&'static str),
}
