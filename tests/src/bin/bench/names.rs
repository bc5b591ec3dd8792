//! dokkaa's DNS server beside Unbound and Knot with the same names, and beside
//! an echo, which is the least that any server does.
//!
//! Each server is a process of its own; one generator of questions asks them in
//! turns. The peers have one thread each, as one listener of dokkaa does.

mod load;
mod news;
mod servers;
mod services;

use std::fmt;
use std::time::Duration;

use load::{A, AAAA, Load, Pace, Questions, p99};
use news::{CHANGES, News};
pub(crate) use servers::{DOKKAA, ECHO, echo, serve};
use servers::{MOVES, Server};

use crate::{median, verdict};

const FEW: usize = 1_000;
const MANY: usize = 100_000;
const ROUNDS: usize = 5;
/// Processor time is measured while so many questions are under way.
const OPEN: u64 = 64;
/// Questions a second, of which none may be lost; half of them for the time that an answer takes.
const RATE: u64 = 50_000;
/// Each time that a server is asked.
const LASTS: Duration = Duration::from_secs(2);
/// The same for the time that an answer takes. A machine's pauses are longer than answers: one of 5 ms makes the p99 of a
/// second that of the machine. So each server has many short windows, in turns.
const WINDOW: Duration = Duration::from_millis(250);
const WINDOWS: usize = 32;
/// Of each of the few services where memory is measured.
const INSTANCES: u32 = 10;
/// Questions a second before that.
const WARM_UP: u64 = 5_000;
/// How much more processor time than a peer it may take, and with many names than with few.
const MAY_TAKE: f64 = 1.0;
const MAY_GROW: f64 = 1.05;
const MAY_TAKE_MS: f64 = 1.0;
/// How often the time of the echo.
const MAY_WAIT: f64 = 1.2;
const MAY_HOLD_MB: f64 = 5.0;
/// From a change in etcd until all hosts answer with it.
const MAY_LAST_MS: f64 = 10.0;

pub(crate) struct Names {
    /// Microseconds on a processor for an answer: with few names, with many, of Unbound, Knot and the echo.
    processor: [f64; 5],
    /// The same for names that have no address of the type that is asked for: of dokkaa, Unbound and Knot.
    without: [f64; 3],
    /// With many names, to that with few, round by round.
    growth: f64,
    /// Of dokkaa, Unbound and the echo.
    lost: [Lost; 3],
    /// Milliseconds at half the rate: alone, while services move, of Unbound and the echo.
    p99: [Windows; 4],
    /// Resident.
    empty_mb: f64,
    filled_mb: f64,
    news: News,
}

/// What the slowest of 100 answers take.
struct Windows {
    /// Median of the windows.
    median: f64,
    /// Of the answers of all windows.
    all: f64,
}

/// What came of the whole rate.
struct Lost {
    sent: u64,
    answered: u64,
    seconds: f64,
}

pub(crate) fn measure() -> anyhow::Result<Names> {
    let (few, many) = (Questions::new(FEW, A), Questions::new(MANY, A));
    let without = Questions::new(FEW, AAAA);
    let dokkaa = Server::dokkaa(FEW, 1, false)?;
    let unbound = Server::unbound(FEW)?;
    let echo = Server::echo()?;
    let rounds = {
        let (large, knot) = (Server::dokkaa(MANY, 1, false)?, Server::knot(FEW)?);
        processor([
            (&dokkaa, &few),
            (&large, &many),
            (&unbound, &few),
            (&knot, &few),
            (&echo, &few),
            (&dokkaa, &without),
            (&unbound, &without),
            (&knot, &without),
        ])?
    };
    let growth: Vec<f64> = rounds[0]
        .iter()
        .zip(&rounds[1])
        .map(|(few, many)| many / few)
        .collect();
    let [
        few_names,
        many_names,
        of_unbound,
        of_knot,
        of_echo,
        without @ ..,
    ] = rounds.map(|rounds| median(&rounds));
    let lost = lost([&dokkaa, &unbound, &echo], &few)?;
    let moving = Server::dokkaa(FEW, 1, true)?;
    let p99 = windows([&dokkaa, &moving, &unbound, &echo], &few)?;
    drop(moving);
    Ok(Names {
        processor: [few_names, many_names, of_unbound, of_knot, of_echo],
        without,
        growth: median(&growth),
        lost,
        p99,
        empty_mb: memory(0, 0, &few)?,
        filled_mb: memory(FEW, INSTANCES, &few)?,
        news: news::measure()?,
    })
}

/// Microseconds for an answer, in each round.
fn processor<const N: usize>(servers: [(&Server, &Questions); N]) -> anyhow::Result<[Vec<f64>; N]> {
    let mut rounds = [const { Vec::new() }; N];
    for round in 0..=ROUNDS {
        for ((server, questions), rounds) in servers.iter().zip(&mut rounds) {
            let before = server.on_processor()?;
            let load = questions.ask(server.at, Pace::Window(OPEN), LASTS)?;
            let spent = server.on_processor()? - before;
            // The first round warms up.
            if round > 0 {
                rounds.push(spent / load.answered() as f64 * 1e6);
            }
        }
    }
    Ok(rounds)
}

fn lost<const N: usize>(servers: [&Server; N], few: &Questions) -> anyhow::Result<[Lost; N]> {
    let mut all = [const { Lost::NONE }; N];
    for _ in 0..ROUNDS {
        for (server, lost) in servers.iter().zip(&mut all) {
            lost.add(&few.ask(server.at, Pace::Rate(RATE), LASTS)?);
        }
    }
    Ok(all)
}

fn windows<const N: usize>(servers: [&Server; N], few: &Questions) -> anyhow::Result<[Windows; N]> {
    let mut all = [const { Vec::new() }; N];
    for round in 0..=WINDOWS {
        // None is always asked behind the same other one.
        for at in (0..N).map(|next| (round + next) % N) {
            let load = few.ask(servers[at].at, Pace::Rate(RATE / 2), WINDOW)?;
            // The first round warms up.
            if round > 0 {
                all[at].push(load);
            }
        }
    }
    Ok(all.map(|loads| Windows {
        median: median(&loads.iter().map(|load| p99(&load.took)).collect::<Vec<_>>()),
        all: {
            let mut took = loads
                .into_iter()
                .flat_map(|load| load.took)
                .collect::<Vec<_>>();
            took.sort_by(f32::total_cmp);
            p99(&took)
        },
    }))
}

/// Of a server that has answered for a while.
fn memory(services: usize, instances: u32, few: &Questions) -> anyhow::Result<f64> {
    let server = Server::dokkaa(services, instances, false)?;
    few.ask(server.at, Pace::Rate(WARM_UP), LASTS)?;
    server.resident_mb()
}

impl Lost {
    const NONE: Self = Self {
        sent: 0,
        answered: 0,
        seconds: 0.0,
    };

    fn add(&mut self, load: &Load) {
        self.sent += load.sent;
        self.answered += load.answered();
        self.seconds += load.sent_in;
    }

    fn lost(&self) -> u64 {
        self.sent - self.answered
    }
}

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, all } = self;
        write!(f, "{median:7.3} ms, of all together {all:.3} ms")
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lost, sent) = (self.lost(), self.sent);
        let rate = sent as f64 / self.seconds;
        write!(f, "{lost:7} of {sent} at {rate:.0} a second")
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_most = |ratio: f64, most| {
            let verdict = verdict(ratio <= most);
            format!("{ratio:5.2}, at most {most}: {verdict}")
        };
        let [few, many, unbound, knot, echo] = self.processor;
        writeln!(
            f,
            "{FEW} names of the zone over UDP on loopback, medians of {ROUNDS}:\n  \
             processor, an answer{few:7.2} µs\n  \
             of Unbound          {unbound:7.2} µs, ratio {}\n  \
             of Knot             {knot:7.2} µs, ratio {}\n  \
             of an echo          {echo:7.2} µs, ratio {:5.2}\n  \
             with {MANY} names   {many:7.2} µs, ratio {}",
            at_most(few / unbound, MAY_TAKE),
            at_most(few / knot, MAY_TAKE),
            few / echo,
            at_most(self.growth, MAY_GROW),
        )?;
        let [own, of_unbound, of_knot] = self.without;
        writeln!(
            f,
            "  AAAA, which none has{own:7.2} µs\n  \
             of Unbound          {of_unbound:7.2} µs, ratio {}\n  \
             of Knot             {of_knot:7.2} µs, ratio {}",
            at_most(own / of_unbound, MAY_TAKE),
            at_most(own / of_knot, MAY_TAKE),
        )?;
        let [own, unbound, echo] = &self.lost;
        writeln!(
            f,
            "  lost                {own}, none: {}\n  \
             by Unbound          {unbound}\n  \
             by the echo         {echo}",
            verdict(own.lost() == 0),
        )?;
        let [own, moving, unbound, echo] = &self.p99;
        writeln!(
            f,
            "  p99 at half of that {own}, under {MAY_TAKE_MS}: {}\n  \
             of Unbound          {unbound}\n  \
             of the echo         {echo}, ratio {}\n  \
             with {MOVES} moves a s  {moving}, under {MAY_TAKE_MS}: {}, ratio {}",
            verdict(own.all < MAY_TAKE_MS),
            at_most(own.median / echo.median, MAY_WAIT),
            verdict(moving.all < MAY_TAKE_MS),
            at_most(moving.median / echo.median, MAY_WAIT),
        )?;
        let (empty, more) = (self.empty_mb, self.filled_mb - self.empty_mb);
        writeln!(
            f,
            "  resident            {empty:7.1} MB without names\n  \
             with {} instances {more:7.1} MB more, under {MAY_HOLD_MB}: {}",
            FEW * INSTANCES as usize,
            verdict(more < MAY_HOLD_MB),
        )?;
        let p99 = |all: &[f64]| all.get(all.len() * 99 / 100).copied().unwrap_or(f64::NAN);
        let (answered, watched) = (p99(&self.news.answered), p99(&self.news.watched));
        write!(
            f,
            "{CHANGES} changes in etcd until three hosts answer with them:\n  \
             p50                 {:7.3} ms, of etcd's own watch {:.3} ms\n  \
             p99                 {answered:7.3} ms, of etcd's own watch {watched:.3} ms, under {MAY_LAST_MS}: {}",
            median(&self.news.answered),
            median(&self.news.watched),
            verdict(answered < MAY_LAST_MS),
        )
    }
}
