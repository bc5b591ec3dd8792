//! `/metrics`, `/healthz` and `/readyz`.
//!
//! Values are read at each scrape from the published tables and from counters of
//! the parts. No credentials are needed; names and numbers are all that is shown.

mod exposition;
mod names;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use conductor::Published;
use model::Snapshot;
use model::observed::EngineState;
use model::records::Phase;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::agent::condition::Condition;
use exposition::Exposition;

/// Sources of the metrics.
pub(crate) struct Sources {
    /// Tables of the agent.
    pub(crate) published: Arc<Published>,
    /// Connections of links.
    pub(crate) links: Arc<ambassador::Counters>,
    /// Questions to DNS.
    pub(crate) dns: Arc<dns::Counters>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SlotLabels {
    app: String,
    container: String,
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: String,
}

/// Served from the start; `sources` is set once the agent runs.
pub(crate) fn router(sources: Arc<OnceLock<Sources>>, condition: Arc<Condition>) -> Router {
    Router::new()
        .route("/metrics", get(metrics).with_state(sources))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz).with_state(condition))
}

/// The process answers.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Ready when etcd is followed and Docker answers; else the reasons.
async fn readyz(State(condition): State<Arc<Condition>>) -> impl IntoResponse {
    let lacks = condition.lacks();
    if lacks.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{}\n", lacks.join("\n")),
        )
    }
}

async fn metrics(
    State(sources): State<Arc<OnceLock<Sources>>>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let exposition = Exposition::wanted(&headers);
    match exposition.write(&registry(sources.get())) {
        Ok(text) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, exposition.content_type())],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            format!("{error}\n"),
        ),
    }
}

fn registry(sources: Option<&Sources>) -> Registry {
    let mut registry = Registry::with_prefix("dokkaa");
    let (mut up, mut hold, mut engine) = (false, false, false);
    if let Some(Sources { published, .. }) = sources {
        if let Some(seen) = published.seen.load().as_ref() {
            slots(&mut registry, &seen.snapshot);
            hosts(&mut registry, &seen.snapshot);
            up = !seen.stale;
            hold = seen.distrust.is_some();
        }
        engine = published.observed.load().engine == EngineState::Up;
    }
    for (name, help, value) in [
        ("etcd_up", "etcd is followed", up),
        (
            "hold",
            "Changes are held, because etcd is not trusted",
            hold,
        ),
        ("engine_up", "The Docker Engine answers", engine),
    ] {
        gauge(&mut registry, name, help, i64::from(value));
    }
    if let Some(sources) = sources {
        counts(&mut registry, sources);
    }
    registry
}

fn counts(registry: &mut Registry, sources: &Sources) {
    let counters = &sources.published.counters;
    for (name, help, value) in [
        (
            "restarts",
            "Restarts of containers on this host",
            &counters.restarts,
        ),
        (
            "pull_failures",
            "Failed pulls of images and creations of containers on this host",
            &counters.pull_failures,
        ),
        ("plans", "Plans of this agent", &counters.plans),
        ("writes", "Writes of this agent to etcd", &counters.writes),
        (
            "writes_lost",
            "Writes of this agent whose guards did not hold",
            &counters.writes_lost,
        ),
    ] {
        counter(registry, name, help, value);
    }
    results(
        registry,
        "link_connections",
        "Connections of links on this host, by result",
        &[
            ("ok", &sources.links.ok),
            ("refused", &sources.links.refused),
            ("failed", &sources.links.failed),
        ],
    );
    let open = sources.links.open.load(Ordering::Relaxed) as i64;
    gauge(
        registry,
        "link_connections_open",
        "Open connections of links on this host",
        open,
    );
    names::register(registry, &sources.dns);
}

fn slots(registry: &mut Registry, snapshot: &Snapshot) {
    let mut counts: BTreeMap<(String, String, &str), i64> = BTreeMap::new();
    for (id, container) in &snapshot.containers {
        let claimed = container.slots.iter();
        let claimed = claimed.filter(|(_, slot)| slot.claim.is_some());
        let mut numbers = container.numbers();
        numbers.extend(claimed.map(|(number, _)| *number));
        for number in numbers {
            let slot = container.slots.get(&number);
            let state = match slot.and_then(|s| s.claim.as_ref().map(|_| s.current_state())) {
                None => "unclaimed",
                Some(None) => "starting",
                Some(Some(state)) => match state.state {
                    Phase::Ready => "ready",
                    Phase::Unready => "unready",
                    Phase::Leaving => "leaving",
                    Phase::Stopped => "stopped",
                },
            };
            *counts
                .entry((id.app.to_string(), id.container.to_string(), state))
                .or_default() += 1;
        }
    }
    let family = Family::<SlotLabels, Gauge>::default();
    for ((app, container, state), count) in counts {
        let labels = SlotLabels {
            app,
            container,
            state: state.to_owned(),
        };
        family.get_or_create(&labels).set(count);
    }
    registry.register(
        "slots",
        "Slots of the whole cluster, as etcd has them",
        family,
    );
}

fn hosts(registry: &mut Registry, snapshot: &Snapshot) {
    let family = Family::<StateLabel, Gauge>::default();
    for host in snapshot.hosts.values() {
        let state = match (&host.record, &host.member) {
            (Some(record), _) => record.state.to_string(),
            (None, Some(_)) => "missing".to_owned(),
            (None, None) => continue,
        };
        family.get_or_create(&StateLabel { state }).inc();
    }
    registry.register("hosts", "Hosts of the cluster", family);
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: &AtomicU64) {
    registry.register(name, help, read(value));
}

fn results(registry: &mut Registry, name: &str, help: &str, values: &[(&str, &AtomicU64)]) {
    let family = Family::<ResultLabel, Counter>::default();
    for (result, value) in values {
        let labels = ResultLabel {
            result: (*result).to_owned(),
        };
        family
            .get_or_create(&labels)
            .inc_by(value.load(Ordering::Relaxed));
    }
    registry.register(name, help, family);
}

fn read(value: &AtomicU64) -> Counter {
    let counter = Counter::default();
    counter.inc_by(value.load(Ordering::Relaxed));
    counter
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use conductor::published::Seen;
    use model::snapshot::Change;

    fn sources() -> Sources {
        Sources {
            published: Arc::new(Published::default()),
            links: Arc::default(),
            dns: Arc::default(),
        }
    }

    fn see(sources: &Sources) {
        let put = |key: &str, value: &str| Change::Put {
            key: key.to_owned(),
            value: value.as_bytes().to_vec(),
            modified: 7,
            created: 7,
        };
        let claim = r#"{"host": "h1", "instance": "i", "version": 7}"#;
        let data =
            r#"{"host": "h1", "host_id": "00000000-0000-0000-0000-000000000001", "volumes": []}"#;
        let mut snapshot = Snapshot::default();
        snapshot.apply(
            [
                put("/apps/shop/web/manifest", r#"{"image": "a", "scale": 2}"#),
                put("/claims/shop/web/slots/1", claim),
                put("/claims/shop/web/slots/2", claim),
                put("/claims/shop/web/data/3", data),
                put(
                    "/dokkaa/members/h1",
                    r#"{"id": "00000000-0000-0000-0000-000000000001"}"#,
                ),
            ],
            7,
        );
        sources.published.seen.store(Arc::new(Some(Seen {
            snapshot,
            stale: false,
            distrust: None,
        })));
    }

    fn text(sources: &Sources, accept: Option<&str>) -> String {
        let headers = accept.map(|accept| (header::ACCEPT, accept.parse().unwrap()));
        let exposition = Exposition::wanted(&HeaderMap::from_iter(headers));
        exposition.write(&registry(Some(sources))).unwrap()
    }

    #[test]
    fn what_is_counted_is_shown() {
        let sources = sources();
        see(&sources);
        let published = &sources.published;
        published.counters.restarts.store(3, Ordering::Relaxed);
        sources.links.refused.store(2, Ordering::Relaxed);
        sources.dns.cache_hits.store(5, Ordering::Relaxed);
        for accept in [None, Some("application/openmetrics-text")] {
            let text = text(&sources, accept);
            for line in [
                "dokkaa_slots{app=\"shop\",container=\"web\",state=\"unclaimed\"} 1",
                "dokkaa_slots{app=\"shop\",container=\"web\",state=\"starting\"} 2",
                "dokkaa_hosts{state=\"missing\"} 1",
                "dokkaa_etcd_up 1",
                "dokkaa_hold 0",
                "dokkaa_restarts_total 3",
                "dokkaa_pull_failures_total 0",
                "dokkaa_link_connections_total{result=\"refused\"} 2",
                "dokkaa_link_connections_total{result=\"ok\"} 0",
                "dokkaa_dns_cache_lookups_total{result=\"hit\"} 5",
                "dokkaa_dns_answer_duration_seconds_bucket{le=\"+Inf\",source=\"cache\"} 0",
            ] {
                assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
            }
            assert_eq!(text.ends_with("# EOF\n"), accept.is_some());
        }
    }

    /// What Prometheus wants of its text format. An end-to-end test has `promtool check metrics` read it.
    #[test]
    fn the_text_format_is_as_prometheus_reads_it() {
        let sources = sources();
        see(&sources);
        let text = text(&sources, None);
        let mut families: BTreeMap<&str, (&str, bool)> = BTreeMap::new();
        let mut samples = std::collections::BTreeSet::new();
        let (mut of, mut is_histogram) = ("", false);
        for line in text.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "HELP", name, help] => {
                    assert!(!help.is_empty());
                    assert!(families.insert(name, (help, false)).is_none(), "{line}");
                    of = name;
                }
                ["#", "TYPE", name, kind] => {
                    assert_eq!(name, of, "{line}");
                    assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                    assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                    families.get_mut(name).unwrap().1 = true;
                    is_histogram = kind == "histogram";
                }
                _ => {
                    assert!(!line.starts_with('#'), "{line}");
                    let (series, value) = line.rsplit_once(' ').unwrap();
                    value.parse::<f64>().unwrap();
                    let name = series.split('{').next().unwrap();
                    let part = name.strip_prefix(of).unwrap_or("another");
                    let is_part = ["_bucket", "_sum", "_count"].contains(&part);
                    assert!(part.is_empty() || (is_histogram && is_part), "{line}");
                    assert!(families[of].1, "{line} comes before its type");
                    assert!(samples.insert(series), "{line} is there twice");
                }
            }
        }
        assert!(families.contains_key("dokkaa_writes_lost_total"));
        assert!(samples.len() > 10);
    }

    #[test]
    fn before_there_is_anything_to_count_nothing_is_up() {
        let text = Exposition::Text.write(&registry(None)).unwrap();
        for line in ["dokkaa_etcd_up 0", "dokkaa_engine_up 0", "dokkaa_hold 0"] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
