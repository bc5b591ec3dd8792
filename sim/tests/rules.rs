//! The simulation itself: with all rules nothing is wrong, and each rule that is left out is missed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use model::{Rule, Rules};
use sim::{Options, Scenario, simulate};

/// Seeds with all rules: as many as a test may take.
const SEEDS: u64 = 300;
/// Seeds until a rule that was left out must have been missed.
const MOST: u64 = 2_000;

/// Where a rule is missed soonest.
fn focus(rule: Rule) -> Option<Scenario> {
    match rule {
        Rule::CatchUp | Rule::GarbageGuard => Some(Scenario::Mixed),
        Rule::RetakeState | Rule::RetakeUnready | Rule::RetakeNext => Some(Scenario::Returns),
        Rule::VoidGuard | Rule::VoidDelete | Rule::UpdateTurn | Rule::JobOnce => {
            Some(Scenario::Versions)
        }
        Rule::StoppedGuard | Rule::TakeBackStopped => Some(Scenario::StopFirst),
        Rule::KnownEvents | Rule::ProgressOvertakes | Rule::Compare | Rule::Proof => {
            Some(Scenario::Members)
        }
        Rule::Hold => Some(Scenario::Restore),
        Rule::SkippedImage | Rule::OnePerHost => Some(Scenario::Images),
        Rule::OwnRecord => Some(Scenario::Copies),
        Rule::OrphanedNext => Some(Scenario::Drain),
        Rule::ReadYourWrites
        | Rule::HandoverOrder
        | Rule::StateGuard
        | Rule::MassFailure
        | Rule::NestedBatch => None,
    }
}

/// The first failure of some seeds, which are played on all cores.
fn first_failure(seeds: u64, rules: Rules, scenario: Option<Scenario>) -> Option<(u64, String)> {
    let (next, stop) = (AtomicU64::new(1), AtomicBool::new(false));
    let failures = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > seeds {
                        break;
                    }
                    let options = Options {
                        rules,
                        scenario,
                        ..Options::default()
                    };
                    if let Some(violation) = simulate(seed, &options).violation {
                        stop.store(true, Ordering::Relaxed);
                        failures
                            .lock()
                            .expect("no thread panics")
                            .push((seed, violation));
                    }
                }
            });
        }
    });
    failures
        .into_inner()
        .expect("no thread panics")
        .into_iter()
        .min()
}

#[test]
fn with_all_rules_nothing_is_wrong() {
    if let Some((seed, violation)) = first_failure(SEEDS, Rules::default(), None) {
        panic!("make sim SEED={seed}: {violation}");
    }
}

#[test]
fn each_rule_left_out_is_missed() {
    let missed: Vec<(Rule, Option<(u64, String)>)> = Rule::ALL
        .into_iter()
        .map(|rule| (rule, first_failure(MOST, Rules::without(rule), focus(rule))))
        .collect();
    let unnoticed: Vec<&Rule> = missed
        .iter()
        .filter(|(_, failure)| failure.is_none())
        .map(|(rule, _)| rule)
        .collect();
    assert!(
        unnoticed.is_empty(),
        "left out, and nothing fails in {MOST} seeds: {unnoticed:?}"
    );
}
