//! Which resolver is asked when, and whose answer is taken.
//!
//! Resolvers are asked in their order, the next one after a failure or a short
//! head start, and the first good answer wins. One that was silent twice is
//! asked last for a while, then by one query first again: a dead resolver costs
//! each minute's first query a head start, and the others nothing.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::answer::Answer;

/// Time before the next resolver is asked, too.
const HEAD_START: Duration = Duration::from_millis(250);
/// Time-out of a query; clients retry after 5 s.
pub(crate) const DEADLINE: Duration = Duration::from_millis(4500);
/// Failures in a row that make a resolver the last.
const MISSES: u8 = 2;
/// Time for which it is.
const PAUSE: Duration = Duration::from_secs(60);
/// Resolvers that are remembered: the host's change.
const REMEMBERED: usize = 64;

/// Resolvers that did not answer lately.
#[derive(Debug, Default)]
pub(super) struct Ranking(Mutex<HashMap<SocketAddr, Silence>>);

#[derive(Debug)]
struct Silence {
    misses: u8,
    /// When it is asked first again.
    until: Instant,
}

impl Ranking {
    /// Resolvers in the order in which they are asked.
    fn order(&self, upstreams: &[SocketAddr], now: Instant) -> Vec<SocketAddr> {
        let mut silent = self.lock();
        let is_last = |to: &SocketAddr| match silent.get_mut(to) {
            Some(silence) if silence.misses >= MISSES => {
                let is_last = now < silence.until;
                if !is_last {
                    // One query tries; it tells the others.
                    silence.until = now + PAUSE;
                }
                is_last
            }
            _ => false,
        };
        let (last, mut first): (Vec<_>, Vec<_>) = upstreams.iter().copied().partition(is_last);
        first.extend(last);
        first
    }

    fn answered(&self, from: SocketAddr) {
        self.lock().remove(&from);
    }

    fn missed(&self, from: SocketAddr, now: Instant) {
        let mut silent = self.lock();
        if silent.len() >= REMEMBERED && !silent.contains_key(&from) {
            silent.clear();
        }
        let until = now + PAUSE;
        let silence = silent.entry(from).or_insert(Silence { misses: 0, until });
        silence.misses = silence.misses.saturating_add(1);
        silence.until = until;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Silence>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of a query.
pub(super) struct Outcome {
    /// The best answer; none if no resolver has a well-formed one.
    pub(super) answer: Option<Answer>,
    /// Resolvers that failed or were silent.
    pub(super) failures: u64,
}

/// Asks the resolvers until one has a good answer.
pub(super) async fn first_good<A>(
    upstreams: &[SocketAddr],
    ranking: &Ranking,
    ask: impl Fn(SocketAddr) -> A,
) -> Outcome
where
    A: Future<Output = io::Result<Answer>>,
{
    let mut waiting = ranking.order(upstreams, Instant::now()).into_iter();
    let mut asked = FuturesUnordered::new();
    let mut silent: Vec<(SocketAddr, Instant)> = Vec::new();
    let mut failures = 0;
    let mut bad = None;
    let mut deadline = pin!(sleep(DEADLINE));
    let answer = loop {
        if let Some(to) = waiting.next() {
            let answer = ask(to);
            asked.push(async move { (to, answer.await) });
            silent.push((to, Instant::now()));
        }
        if asked.is_empty() {
            break bad;
        }
        tokio::select! {
            Some((from, answer)) = asked.next() => {
                silent.retain(|(to, _)| *to != from);
                match answer {
                    Ok(answer) => {
                        ranking.answered(from);
                        if answer.is_good() {
                            break Some(answer);
                        }
                        bad = Some(answer);
                    }
                    Err(error) => {
                        debug!(%from, %error, "upstream resolver failed");
                        ranking.missed(from, Instant::now());
                        failures += 1;
                    }
                }
            }
            () = sleep(HEAD_START), if !waiting.as_slice().is_empty() => {}
            () = &mut deadline => break bad,
        }
    };
    let now = Instant::now();
    for (from, since) in silent {
        if now.duration_since(since) >= HEAD_START {
            debug!(%from, "upstream resolver was silent");
            ranking.missed(from, now);
            failures += 1;
        }
    }
    Outcome { answer, failures }
}

#[cfg(test)]
mod tests;
