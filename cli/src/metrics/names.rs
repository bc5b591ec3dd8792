//! Metrics of DNS.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{counter, gauge, results};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueryLabels {
    r#type: &'static str,
    code: &'static str,
}

/// How long answers took, by source.
#[derive(Debug)]
struct Durations(Arc<dns::Counters>);

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        for source in dns::Source::ALL {
            let dns::Histogram { buckets, sum } = self.0.durations(source);
            let count = buckets.iter().map(|(_, count)| count).sum();
            encoder
                .encode_family(&[("source", source.as_str())])?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

pub(super) fn register(registry: &mut Registry, dns: &Arc<dns::Counters>) {
    results(
        registry,
        "dns_questions",
        "DNS queries to this host, by result",
        &[
            ("answered", &dns.answered),
            ("relayed", &dns.relayed),
            ("failed", &dns.failed),
        ],
    );
    let family = Family::<QueryLabels, Counter>::default();
    for (r#type, code, count) in dns.queries() {
        let labels = QueryLabels { r#type, code };
        family.get_or_create(&labels).inc_by(count);
    }
    registry.register(
        "dns_queries",
        "DNS queries to this host, by type and code of the answer",
        family,
    );
    registry.register(
        "dns_answer_duration_seconds",
        "Time until a DNS answer was there, by source: zone, cache or upstream",
        Durations(dns.clone()),
    );
    results(
        registry,
        "dns_cache_lookups",
        "Forwarded names, by what the cache had: a hit, a stale answer given since no resolver answers, or a miss",
        &[
            ("hit", &dns.cache_hits),
            ("stale", &dns.cache_stale),
            ("miss", &dns.cache_misses),
        ],
    );
    for (name, help, value) in [
        (
            "dns_cache_entries",
            "Answers in the cache",
            &dns.cache_entries,
        ),
        (
            "dns_cache_bytes",
            "Memory of the cache, about",
            &dns.cache_octets,
        ),
    ] {
        gauge(registry, name, help, value.load(Ordering::Relaxed) as i64);
    }
    for (name, help, value) in [
        (
            "dns_upstream_failures",
            "Upstream resolvers that failed or were silent",
            &dns.upstream_failures,
        ),
        (
            "dns_rate_limited",
            "DNS queries above the rate of their network, told to come by TCP or dropped",
            &dns.limited,
        ),
    ] {
        counter(registry, name, help, value);
    }
}
