//! What a seed is about: which faults are likely, so that what is rare is found soon.

use crate::dice::Dice;
use crate::kinds::Kind;

/// What a seed is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Scenario {
    /// No faults: containers are placed, and that is all.
    Calm,
    /// Everything.
    Mixed,
    /// One slot; hosts that die, come back and are cut off.
    OneSlot,
    /// One slot that is slow to get ready, and hosts that lose it and come back with what they still run.
    Returns,
    /// Hosts are drained while they and others crash.
    Drain,
    /// Slots whose handover is stop-first.
    StopFirst,
    /// Many hosts go at once.
    MassLoss,
    /// Etcd goes back to what it was, or is another one.
    Restore,
    /// Etcd's members lag, stall and say what they should not.
    Members,
    /// Users change their minds while engines fail.
    Versions,
    /// Images are pushed to a registry, and hosts follow them.
    Images,
    /// Machines with a copied disk, and agents that run twice.
    Copies,
}

/// How often what happens.
type Weights = &'static [(u64, Kind)];

const AGENTS: Weights = &[
    (6, Kind::Kill),
    (4, Kind::GracefulRestart),
    (4, Kind::PowerLoss),
    (3, Kind::Reboot),
    (2, Kind::Shutdown),
    (6, Kind::CutOff),
    (4, Kind::LoseLease),
    (2, Kind::SilentWatch),
    (1, Kind::EtcdRestart),
    (2, Kind::Compact),
    (2, Kind::ContainerEnds),
    (2, Kind::Sick),
];

impl Scenario {
    /// All of them; seeds take them in turn.
    pub const ALL: [Self; 12] = [
        Self::Calm,
        Self::Mixed,
        Self::OneSlot,
        Self::Returns,
        Self::Drain,
        Self::StopFirst,
        Self::MassLoss,
        Self::Restore,
        Self::Members,
        Self::Versions,
        Self::Copies,
        Self::Images,
    ];

    /// What a seed is about.
    pub fn of(seed: u64) -> Self {
        Self::ALL[(seed % Self::ALL.len() as u64) as usize]
    }

    /// Most faults of a seed.
    pub fn faults(self) -> u32 {
        match self {
            Self::Calm => 0,
            Self::Returns => 5,
            Self::OneSlot | Self::Drain | Self::StopFirst => 8,
            Self::MassLoss | Self::Restore | Self::Members | Self::Copies => 10,
            Self::Mixed | Self::Versions | Self::Images => 16,
        }
    }

    /// Some versions want something to run before them.
    pub fn prepares(self) -> bool {
        matches!(
            self,
            Self::Mixed
                | Self::Versions
                | Self::Drain
                | Self::MassLoss
                | Self::Copies
                | Self::Restore
        )
    }

    /// Answers get lost by themselves.
    pub fn loses_answers(self) -> bool {
        self != Self::Calm
    }

    /// How many hosts, where that many were asked for.
    pub fn hosts(self, asked: usize, dice: &mut Dice) -> usize {
        match self {
            Self::OneSlot => asked.min(2 + dice.below(2) as usize),
            Self::Returns => asked + 1,
            Self::MassLoss => asked + 2,
            _ => asked,
        }
    }

    /// How many containers users want at first.
    pub fn containers(self) -> usize {
        match self {
            Self::Calm | Self::OneSlot | Self::Returns | Self::Drain | Self::StopFirst => 1,
            Self::Copies | Self::Restore | Self::Members | Self::Images => 2,
            Self::Mixed | Self::MassLoss | Self::Versions => 3,
        }
    }

    /// How long nothing has to happen until the faults count as over.
    pub fn patience(self) -> u64 {
        match self {
            Self::Returns => 40_000,
            _ => 8_000,
        }
    }

    /// What happens next.
    pub fn draw(self, dice: &mut Dice) -> Kind {
        let weights: Weights = match self {
            Self::Calm | Self::Mixed => Kind::ALL,
            Self::OneSlot => AGENTS,
            Self::Returns => &[(6, Kind::CutOff), (2, Kind::LoseLease), (1, Kind::Kill)],
            Self::Drain => &[
                (8, Kind::Drain),
                (4, Kind::Activate),
                (6, Kind::Kill),
                (3, Kind::PowerLoss),
                (4, Kind::CutOff),
                (3, Kind::LoseLease),
                (2, Kind::Reboot),
                (3, Kind::Put),
                (2, Kind::Scale),
                (2, Kind::Sick),
                (1, Kind::GracefulRestart),
                (1, Kind::ContainerEnds),
            ],
            Self::StopFirst => &[
                (8, Kind::Drain),
                (4, Kind::Activate),
                (6, Kind::Put),
                (5, Kind::Kill),
                (3, Kind::CutOff),
                (3, Kind::LoseLease),
                (3, Kind::ContainerEnds),
                (2, Kind::PowerLoss),
            ],
            Self::MassLoss => &[
                (6, Kind::Several),
                (2, Kind::PowerLoss),
                (2, Kind::CutOff),
                (1, Kind::Kill),
                (1, Kind::EtcdRestart),
            ],
            Self::Restore => &[
                (4, Kind::Backup),
                (6, Kind::Restore),
                (1, Kind::Empty),
                (1, Kind::OtherCluster),
                (3, Kind::Accept),
                (3, Kind::Put),
                (3, Kind::Scale),
                (2, Kind::Delete),
                (2, Kind::Kill),
                (2, Kind::Compact),
                (2, Kind::CutOff),
                (1, Kind::EtcdRestart),
            ],
            Self::Members => &[
                (3, Kind::MemberLags),
                (3, Kind::MemberStalls),
                (2, Kind::MemberRestarts),
                (3, Kind::ProgressAhead),
                (3, Kind::WatchGoesBack),
                (3, Kind::FutureWatch),
                (3, Kind::EventsLost),
                (3, Kind::DeletionLost),
                (1, Kind::RevisionFalls),
                (4, Kind::Put),
                (4, Kind::Scale),
                (2, Kind::Delete),
                (2, Kind::Drain),
                (2, Kind::Activate),
                (2, Kind::Kill),
                (2, Kind::LoseLease),
            ],
            Self::Versions => &[
                (8, Kind::Put),
                (4, Kind::Scale),
                (3, Kind::Delete),
                (3, Kind::ContainerEnds),
                (3, Kind::DockerRm),
                (1, Kind::Emptied),
                (1, Kind::Rest),
                (3, Kind::EngineHangs),
                (2, Kind::Deaf),
                (3, Kind::RegistryAway),
                (3, Kind::Sick),
                (3, Kind::Kill),
                (2, Kind::Pause),
                (2, Kind::Activate),
                (2, Kind::Drain),
            ],
            Self::Images => &[
                (12, Kind::Push),
                (3, Kind::GoBack),
                (2, Kind::Put),
                (3, Kind::Scale),
                (1, Kind::Delete),
                (3, Kind::RegistryAway),
                (3, Kind::Kill),
                (2, Kind::LoseLease),
                (2, Kind::CutOff),
                (1, Kind::PowerLoss),
                (1, Kind::Sick),
                (1, Kind::Drain),
                (1, Kind::Activate),
                (1, Kind::Rest),
            ],
            Self::Copies => &[
                (4, Kind::CopyDisk),
                (3, Kind::Kill),
                (3, Kind::PowerLoss),
                (3, Kind::Reboot),
                (2, Kind::CutOff),
                (2, Kind::GracefulRestart),
                (2, Kind::LoseLease),
                (1, Kind::Put),
            ],
        };
        *dice.weighted(weights).unwrap_or(&Kind::Kill)
    }
}
