//! Counts of queries, and how long their answers took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

/// Types that are counted by name.
const TYPES: [(RecordType, &str); 11] = [
    (RecordType::A, "A"),
    (RecordType::AAAA, "AAAA"),
    (RecordType::ANY, "ANY"),
    (RecordType::CNAME, "CNAME"),
    (RecordType::HTTPS, "HTTPS"),
    (RecordType::MX, "MX"),
    (RecordType::NS, "NS"),
    (RecordType::PTR, "PTR"),
    (RecordType::SOA, "SOA"),
    (RecordType::SRV, "SRV"),
    (RecordType::TXT, "TXT"),
];
/// Codes that are counted by name.
const CODES: [(ResponseCode, &str); 6] = [
    (ResponseCode::NoError, "NOERROR"),
    (ResponseCode::FormErr, "FORMERR"),
    (ResponseCode::ServFail, "SERVFAIL"),
    (ResponseCode::NXDomain, "NXDOMAIN"),
    (ResponseCode::NotImp, "NOTIMP"),
    (ResponseCode::Refused, "REFUSED"),
];
/// Those of no name.
const OTHER: &str = "other";
/// Upper bounds of the times that are counted, the last of which is none.
const BOUNDS: [Duration; 8] = [
    Duration::from_micros(50),
    Duration::from_micros(200),
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// A code as it is written in logs and metrics.
pub(crate) fn code_name(code: ResponseCode) -> &'static str {
    let known = CODES.iter().find(|(of, _)| *of == code);
    known.map_or(OTHER, |(_, name)| name)
}

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The zone, or no answer but a code.
    Zone,
    /// An answer of a resolver that was kept.
    Cache,
    /// A resolver.
    Upstream,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Zone, Self::Cache, Self::Upstream];

    /// As it is written in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zone => "zone",
            Self::Cache => "cache",
            Self::Upstream => "upstream",
        }
    }
}

/// Queries since the start, without malformed ones.
#[derive(Debug, Default)]
pub struct Counters {
    /// Queries over UDP.
    pub udp: AtomicU64,
    /// Queries over TCP.
    pub tcp: AtomicU64,
    /// Answered from the zone, errors included.
    pub answered: AtomicU64,
    /// Answered by an upstream resolver, or as it did before.
    pub relayed: AtomicU64,
    /// Forwarded without an answer.
    pub failed: AtomicU64,
    /// Queries over UDP above the limit of their network.
    pub limited: AtomicU64,
    /// Of those for others: answers that were kept.
    pub cache_hits: AtomicU64,
    /// Answers that were kept and are out of date, since no resolver answers.
    pub cache_stale: AtomicU64,
    /// Answers for which a resolver was asked.
    pub cache_misses: AtomicU64,
    /// Answers that are kept at the moment.
    pub cache_entries: AtomicU64,
    /// Their octets in memory, about.
    pub cache_octets: AtomicU64,
    /// Resolvers that failed or were silent, each time.
    pub upstream_failures: AtomicU64,
    queries: [[AtomicU64; CODES.len() + 1]; TYPES.len() + 1],
    durations: [Durations; Source::ALL.len()],
}

/// How long answers took.
#[derive(Debug, Default)]
struct Durations {
    /// By the first bound that is not below.
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// How long the answers of a source took.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Upper bounds in seconds, and how many took longer than the bound before.
    pub buckets: Vec<(f64, u64)>,
    /// All seconds together.
    pub sum: f64,
}

impl Counters {
    /// Counts an answer.
    pub(crate) fn add(&self, kind: RecordType, code: ResponseCode, source: Source, took: Duration) {
        let kind = TYPES.iter().position(|(of, _)| *of == kind);
        let code = CODES.iter().position(|(of, _)| *of == code);
        count(&self.queries[kind.unwrap_or(TYPES.len())][code.unwrap_or(CODES.len())]);
        let durations = &self.durations[source as usize];
        let bound = BOUNDS.iter().position(|bound| took <= *bound);
        count(&durations.counts[bound.unwrap_or(BOUNDS.len())]);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        durations.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Answered queries by type and code; none of those that never were.
    pub fn queries(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        fn name<T>(names: &[(T, &'static str)], at: usize) -> &'static str {
            names.get(at).map_or(OTHER, |(_, name)| name)
        }
        self.queries.iter().enumerate().flat_map(|(kind, codes)| {
            codes.iter().enumerate().filter_map(move |(code, count)| {
                let count = count.load(Ordering::Relaxed);
                (count > 0).then(|| (name(&TYPES, kind), name(&CODES, code), count))
            })
        })
    }

    /// How long the answers of a source took.
    pub fn durations(&self, source: Source) -> Histogram {
        let durations = &self.durations[source as usize];
        let bounds = BOUNDS
            .iter()
            .map(Duration::as_secs_f64)
            .chain([f64::INFINITY]);
        let counts = durations.counts.iter();
        Histogram {
            buckets: bounds
                .zip(counts.map(|count| count.load(Ordering::Relaxed)))
                .collect(),
            sum: Duration::from_micros(durations.micros.load(Ordering::Relaxed)).as_secs_f64(),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_type_code_and_time() {
        let counters = Counters::default();
        let all = [
            (RecordType::A, ResponseCode::NoError, 50),
            (RecordType::A, ResponseCode::NoError, 51),
            (RecordType::TXT, ResponseCode::Refused, 3_000_000),
            (RecordType::Unknown(65_280), ResponseCode::BADVERS, 0),
        ];
        for (kind, code, micros) in all {
            let took = Duration::from_micros(micros);
            counters.add(kind, code, Source::Cache, took);
        }
        let queries: Vec<_> = counters.queries().collect();
        assert_eq!(
            queries,
            [
                ("A", "NOERROR", 2),
                ("TXT", "REFUSED", 1),
                ("other", "other", 1)
            ]
        );
        let took = counters.durations(Source::Cache);
        let counts: Vec<u64> = took.buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 0, 1]);
        assert!(took.buckets.is_sorted_by(|a, b| a.0 < b.0));
        assert!((took.sum - 3.000_101).abs() < 1e-9);
        let nothing = counters.durations(Source::Zone);
        assert!(nothing.buckets.iter().all(|(_, count)| *count == 0));
    }
}
