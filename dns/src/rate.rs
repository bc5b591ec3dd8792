//! Limit of UDP answers per network of clients.
//!
//! Who sends queries with the address of a victim gets nothing sent there that
//! is longer than the query. A client that is meant comes back by TCP.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::clients::Network;

/// Answers per second to one network.
const RATE: f64 = 100.0;
/// Answers that a network may save up.
const BURST: f64 = 200.0;
/// Networks share one of so many places, which nobody outside can foretell.
const PLACES: usize = 4096;
/// Prefixes of networks that count as one client.
const PREFIXES: (u8, u8) = (24, 56);

/// Treatment of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Answer,
    /// With nothing but "ask by TCP".
    Truncate,
    Drop,
}

/// Answers left to networks. Its memory does not grow.
#[derive(Debug)]
pub(crate) struct RateLimit {
    places: Box<[Place]>,
    secret: RandomState,
    start: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    left: f64,
    /// Time since the start.
    at: Duration,
    /// The last one above the limit was dropped.
    was_dropped: bool,
}

impl RateLimit {
    pub(crate) fn new(start: Instant) -> Self {
        let place = Place {
            left: BURST,
            at: Duration::ZERO,
            was_dropped: true,
        };
        Self {
            places: vec![place; PLACES].into(),
            secret: RandomState::new(),
            start,
        }
    }

    /// Above the limit every other query is dropped.
    pub(crate) fn take(&mut self, client: IpAddr, now: Instant) -> Verdict {
        let client = client.to_canonical();
        let (v4, v6) = PREFIXES;
        let prefix = if client.is_ipv4() { v4 } else { v6 };
        let number = self.secret.hash_one(Network::of(client, prefix)) as usize % PLACES;
        let Some(place) = self.places.get_mut(number) else {
            return Verdict::Answer;
        };
        let now = now.saturating_duration_since(self.start);
        let gone = now.saturating_sub(place.at).as_secs_f64();
        place.at = now;
        place.left = (place.left + gone * RATE).min(BURST);
        if place.left >= 1.0 {
            place.left -= 1.0;
            return Verdict::Answer;
        }
        place.was_dropped = !place.was_dropped;
        if place.was_dropped {
            Verdict::Drop
        } else {
            Verdict::Truncate
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    fn answers(limit: &mut RateLimit, client: &str, now: Instant) -> usize {
        let take = |limit: &mut RateLimit| limit.take(ip(client), now);
        (0..500).filter(|_| take(limit) == Verdict::Answer).count()
    }

    #[test]
    fn a_network_gets_a_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        assert_eq!(answers(&mut limit, "192.0.2.1", start), 200);
        // Above it they are told to come by TCP, or not answered, in turn.
        for expected in [Verdict::Truncate, Verdict::Drop, Verdict::Truncate] {
            assert_eq!(limit.take(ip("192.0.2.1"), start), expected);
        }
        let later = start + Duration::from_millis(500);
        assert_eq!(answers(&mut limit, "192.0.2.1", later), 50);
        let much_later = later + Duration::from_secs(3600);
        assert_eq!(answers(&mut limit, "192.0.2.1", much_later), 200);
    }

    #[test]
    fn neighbours_count_as_one_client() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        answers(&mut limit, "192.0.2.1", start);
        answers(&mut limit, "2001:db8:0:100::1", start);
        assert_eq!(answers(&mut limit, "192.0.2.254", start), 0);
        assert_eq!(answers(&mut limit, "::ffff:192.0.2.3", start), 0);
        assert_eq!(answers(&mut limit, "2001:db8:0:1ff::1", start), 0);
        // Others may share a place by chance, but not all of them.
        let others = (0..20).map(|n| answers(&mut limit, &format!("198.51.{n}.1"), start));
        assert!(others.sum::<usize>() > 200);
    }

    #[test]
    fn many_networks_take_no_more_memory() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        let size = limit.places.len();
        for n in 0..100_000_u32 {
            limit.take(IpAddr::V4((n << 8).into()), start);
        }
        assert_eq!(limit.places.len(), size);
    }
}
