//! `sim`: plays seeds, many at once, or one with its story.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::{Parser, ValueEnum};
use model::{Rule, Rules};
use sim::{Exercised, Options, Scenario, simulate};

/// Plays whole clusters by seed, with faults.
///
/// Example: sim --seeds 10000; sim --seed 17
#[derive(Debug, Parser)]
struct Arguments {
    /// This seed only, with its story
    #[arg(long)]
    seed: Option<u64>,
    /// So many seeds …
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// … from this one on
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Hosts at the beginning
    #[arg(long, default_value_t = 3)]
    hosts: usize,
    /// Events until the faults end
    #[arg(long, default_value_t = 300)]
    steps: usize,
    /// What the seeds are about; by seed if it is not given
    #[arg(long, value_enum)]
    scenario: Option<Scenario>,
    /// Leave this rule out (ReadYourWrites, CatchUp …)
    #[arg(long, value_parser = rule)]
    without: Option<Rule>,
    /// Go on after a failure, and count them
    #[arg(long)]
    all: bool,
}

fn rule(name: &str) -> Result<Rule, String> {
    Rule::ALL
        .into_iter()
        .find(|rule| format!("{rule:?}").eq_ignore_ascii_case(name))
        .ok_or_else(|| format!("no such rule; there are {:?}", Rule::ALL))
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let options = Options {
        hosts: arguments.hosts,
        steps: arguments.steps,
        scenario: arguments.scenario,
        rules: arguments
            .without
            .map_or_else(Rules::default, Rules::without),
        traced: arguments.seed.is_some(),
    };
    let mut out = io::stdout().lock();
    if let Some(seed) = arguments.seed {
        let ended = simulate(seed, &options);
        write!(out, "{}", ended.trace)?;
        if let Some(violation) = ended.violation {
            writeln!(out, "\nseed {seed}: {violation}")?;
            return Ok(ExitCode::FAILURE);
        }
        let lasted = ended.lasted / 1_000;
        writeln!(out, "\nseed {seed}: nothing is wrong, after {lasted} s")?;
        return Ok(ExitCode::SUCCESS);
    }
    let begun = Instant::now();
    let played = play(&arguments, &options);
    let took = begun.elapsed().as_secs_f64();
    writeln!(
        out,
        "{} seeds in {took:.1} s: {:.0} seeds/s, {:.0} virtual hours",
        played.seeds,
        played.seeds as f64 / took,
        played.lasted as f64 / 3_600_000.0
    )?;
    let counts: Vec<String> = played
        .exercised
        .iter()
        .map(|(kind, n)| format!("{kind:?} {n}"))
        .collect();
    writeln!(out, "faults: {}", counts.join(", "))?;
    let mut failures = played.failures;
    failures.sort();
    for (seed, violation) in failures.iter().take(40) {
        writeln!(out, "seed {seed}: {violation}")?;
    }
    let Some((seed, _)) = failures.first() else {
        return Ok(ExitCode::SUCCESS);
    };
    writeln!(
        out,
        "{} failed; play it again with: {}",
        failures.len(),
        replay(*seed, &arguments)
    )?;
    Ok(ExitCode::FAILURE)
}

fn replay(seed: u64, arguments: &Arguments) -> String {
    let scenario = arguments.scenario.and_then(|s| s.to_possible_value());
    let scenario = scenario.map(|s| format!("SCENARIO={}", s.get_name()));
    let without = arguments.without.map(|rule| format!("WITHOUT={rule:?}"));
    let of = format!(
        "make sim SEED={seed} HOSTS={} STEPS={}",
        arguments.hosts, arguments.steps
    );
    let words: Vec<String> = [Some(of), scenario, without]
        .into_iter()
        .flatten()
        .collect();
    words.join(" ")
}

#[derive(Default)]
struct Played {
    seeds: u64,
    lasted: u64,
    exercised: Exercised,
    failures: Vec<(u64, String)>,
}

/// Each seed in one thread, as many threads as there are cores.
fn play(arguments: &Arguments, options: &Options) -> Played {
    let next = AtomicU64::new(arguments.from);
    let end = arguments.from + arguments.seeds;
    let stop = AtomicBool::new(false);
    let played = Mutex::new(Played::default());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let mut mine = Played::default();
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let ended = simulate(seed, options);
                    mine.seeds += 1;
                    mine.lasted += ended.lasted;
                    for (kind, n) in ended.exercised {
                        *mine.exercised.entry(kind).or_default() += n;
                    }
                    if let Some(violation) = ended.violation {
                        mine.failures.push((seed, violation));
                        stop.store(!arguments.all, Ordering::Relaxed);
                    }
                }
                let mut played = played
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                played.seeds += mine.seeds;
                played.lasted += mine.lasted;
                for (kind, n) in mine.exercised {
                    *played.exercised.entry(kind).or_default() += n;
                }
                played.failures.extend(mine.failures);
            });
        }
    });
    played
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
