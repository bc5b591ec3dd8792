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

use load::{Load, Pace, Questions};
use news::{CHANGES, News};
pub(crate) use servers::{DOKKAA, ECHO, echo, serve};
use servers::{MOVES, Server};

use crate::{median, verdict};

const FEW: usize = 1_000;
const MANY: usize = 100_000;
const ROUNDS: usize = 3;
/// Processor time is measured while so many questions are under way.
const OPEN: u64 = 64;
/// Questions a second, of which none may be lost; half of them for the time that an answer takes.
const RATE: u64 = 50_000;
/// Each time that a server is asked.
const LASTS: Duration = Duration::from_secs(2);
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
    /// Of dokkaa, Unbound and the echo.
    lost: [Lost; 3],
    /// Milliseconds at half the rate: alone, while services move, of Unbound and the echo.
    p99: [f64; 4],
    /// Resident.
    empty_mb: f64,
    filled_mb: f64,
    news: News,
}

/// What came of the whole rate.
struct Lost {
    sent: u64,
    answered: u64,
    seconds: f64,
}

pub(crate) fn measure() -> anyhow::Result<Names> {
    let (few, many) = (Questions::new(FEW), Questions::new(MANY));
    let dokkaa = Server::dokkaa(FEW, 1, false)?;
    let unbound = Server::unbound(FEW)?;
    let echo = Server::echo()?;
    let processor = {
        let (large, knot) = (Server::dokkaa(MANY, 1, false)?, Server::knot(FEW)?);
        processor([
            (&dokkaa, &few),
            (&large, &many),
            (&unbound, &few),
            (&knot, &few),
            (&echo, &few),
        ])?
    };
    let lost = lost([&dokkaa, &unbound, &echo], &few)?;
    let moving = Server::dokkaa(FEW, 1, true)?;
    let p99 = p99([&dokkaa, &moving, &unbound, &echo], &few)?;
    drop(moving);
    Ok(Names {
        processor,
        lost,
        p99,
        empty_mb: memory(0, 0, &few)?,
        filled_mb: memory(FEW, INSTANCES, &few)?,
        news: news::measure()?,
    })
}

fn processor<const N: usize>(servers: [(&Server, &Questions); N]) -> anyhow::Result<[f64; N]> {
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
    Ok(rounds.map(|rounds| median(&rounds)))
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

fn p99<const N: usize>(servers: [&Server; N], few: &Questions) -> anyhow::Result<[f64; N]> {
    let mut rounds = [const { Vec::new() }; N];
    for _ in 0..ROUNDS {
        for (server, rounds) in servers.iter().zip(&mut rounds) {
            rounds.push(few.ask(server.at, Pace::Rate(RATE / 2), LASTS)?.p99());
        }
    }
    Ok(rounds.map(|rounds| median(&rounds)))
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
            at_most(many / few, MAY_GROW),
        )?;
        let [own, unbound, echo] = &self.lost;
        writeln!(
            f,
            "  lost                {own}, none: {}\n  \
             by Unbound          {unbound}\n  \
             by the echo         {echo}",
            verdict(own.lost() == 0),
        )?;
        let [own, moving, unbound, echo] = self.p99;
        writeln!(
            f,
            "  p99 at half of that {own:7.3} ms, under {MAY_TAKE_MS}: {}\n  \
             of Unbound          {unbound:7.3} ms\n  \
             of the echo         {echo:7.3} ms, ratio {}\n  \
             with {MOVES} moves a s  {moving:7.3} ms, under {MAY_TAKE_MS}: {}",
            verdict(own < MAY_TAKE_MS),
            at_most(own / echo, MAY_WAIT),
            verdict(moving < MAY_TAKE_MS),
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
