//! Whole clusters in one thread, by seed: the real view, plan, memory and transactions of every agent, over an etcd and
//! engines in memory, with a clock of their own and every fault.
//!
//! Nothing here decides for an agent. `world` holds what is and what is under
//! way, `etcd` carries calls to etcd, `agent` does what the agent's loop does,
//! `faults` breaks things, `invariants` says what must never be, `converge` what
//! must be in the end. Each knows those below it: `world` knows only what it is
//! made of, and `events`, on top, says to whom each thing happens.

pub mod agent;
pub mod converge;
pub mod dice;
pub mod disk;
pub mod engine;
pub mod etcd;
pub mod events;
pub mod faults;
pub mod host;
pub mod host_life;
pub mod invariants;
pub mod jobs;
pub mod kinds;
pub mod members;
pub mod network;
pub mod newer_images;
pub mod process;
pub mod registry;
pub mod scenario;
pub mod trace;
pub mod witness;
pub mod world;

use model::Rules;

pub use kinds::{Exercised, Kind};
pub use scenario::Scenario;

use dice::Dice;
use world::World;

/// What is to be simulated.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Hosts at the beginning; some scenarios take fewer or more.
    pub hosts: usize,
    /// Events until the faults end.
    pub steps: usize,
    /// What the seed is about; none leaves it to the seed.
    pub scenario: Option<Scenario>,
    /// The rules in force.
    pub rules: Rules,
    /// The story is wanted.
    pub traced: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hosts: 3,
            steps: 300,
            scenario: None,
            rules: Rules::default(),
            traced: false,
        }
    }
}

/// What came of a seed.
#[derive(Debug)]
pub struct Ended {
    /// What must not be and was.
    pub violation: Option<String>,
    /// Faults by kind.
    pub exercised: Exercised,
    /// Virtual milliseconds.
    pub lasted: u64,
    /// The story, if it was wanted.
    pub trace: String,
}

/// Plays a seed.
pub fn simulate(seed: u64, options: &Options) -> Ended {
    let scenario = options.scenario.unwrap_or_else(|| Scenario::of(seed));
    let hosts = scenario.hosts(options.hosts, &mut Dice::new(!seed));
    let mut world = World::new(seed, hosts, scenario, options.rules, options.traced);
    world.begin();
    while world.violation.is_none() && world.steps < options.steps {
        let idle =
            world.faults_left == 0 && world.now > world.changed_at.max(3_000) + scenario.patience();
        if idle || !world.step() {
            break;
        }
    }
    if world.violation.is_none() {
        world.converge();
    }
    Ended {
        violation: world.violation,
        exercised: world.exercised,
        lasted: world.now,
        trace: world.trace.text().to_owned(),
    }
}
