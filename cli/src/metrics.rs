//! `/metrics`, `/healthz` and `/readyz`: what the agent shows to machines that watch it.
//!
//! Everything is read when it is asked for: from the published tables and from
//! counters that the parts keep anyway. Nothing here needs credentials, and
//! nothing here tells more than names and numbers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use conductor::Published;
use conductor_core::Snapshot;
use conductor_core::observed::EngineState;
use conductor_core::records::{HostState, Phase};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use store::host::HostStatus;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::condition::lacks;

/// Where the numbers come from.
pub(crate) struct Sources {
    /// What the conductor shows.
    pub(crate) published: Arc<Published>,
    /// How this host stands.
    pub(crate) status: watch::Receiver<HostStatus>,
    /// The etcd is this agent's own.
    pub(crate) own_etcd: bool,
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

/// Serves until `stop`.
pub(crate) async fn serve(listeners: Vec<TcpListener>, sources: Sources, stop: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(Arc::new(sources));
    let serving = listeners.into_iter().map(|listener| {
        let (router, stop) = (router.clone(), stop.clone());
        async move {
            let served = axum::serve(listener, router)
                .with_graceful_shutdown(stop.cancelled_owned())
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "metrics are served no more");
            }
        }
    });
    futures_util::future::join_all(serving).await;
}

/// The process answers.
async fn healthz() -> &'static str {
    "ok\n"
}

/// It follows etcd and its engine answers; else why not.
async fn readyz(State(sources): State<Arc<Sources>>) -> impl IntoResponse {
    let lacks = lacks(
        &sources.published,
        &sources.status.borrow(),
        sources.own_etcd,
    );
    if lacks.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{}\n", lacks.join("\n")),
        )
    }
}

async fn metrics(State(sources): State<Arc<Sources>>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry(&sources)) {
        Ok(()) => (
            StatusCode::OK,
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        ),
        Err(error) => {
            text.clear();
            let _ = writeln!(text, "{error}");
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                [(header::CONTENT_TYPE, "text/plain")],
                text,
            )
        }
    }
}

fn registry(sources: &Sources) -> Registry {
    let mut registry = Registry::with_prefix("dokkaa");
    let published = &sources.published;
    let seen = published.seen.load();
    let (mut up, mut hold) = (0, 0);
    if let Some(seen) = seen.as_ref() {
        slots(&mut registry, &seen.snapshot);
        hosts(&mut registry, &seen.snapshot);
        up = i64::from(!seen.stale);
        hold = i64::from(seen.distrust.is_some());
    }
    gauge(&mut registry, "etcd_up", "etcd is followed", up);
    gauge(
        &mut registry,
        "hold",
        "Nothing is changed, because etcd is not believed",
        hold,
    );
    let engine = published.observed.load().engine == EngineState::Up;
    gauge(
        &mut registry,
        "engine_up",
        "The Docker Engine answers",
        i64::from(engine),
    );
    let counters = &published.counters;
    for (name, help, value) in [
        (
            "restarts",
            "Ends of a container's process on this host that were followed by a restart",
            &counters.restarts,
        ),
        (
            "pull_failures",
            "Images that could not be had on this host, and containers that could not be made",
            &counters.pull_failures,
        ),
        ("plans", "Plans that this agent made", &counters.plans),
        (
            "writes",
            "Writes that this agent asked of etcd",
            &counters.writes,
        ),
        (
            "writes_lost",
            "Writes whose guards did not hold, because another was first",
            &counters.writes_lost,
        ),
    ] {
        counter(&mut registry, name, help, value);
    }
    results(
        &mut registry,
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
        &mut registry,
        "link_connections_open",
        "Connections of links that are open on this host",
        open,
    );
    results(
        &mut registry,
        "dns_questions",
        "Questions to this host's DNS server, by what became of them",
        &[
            ("answered", &sources.dns.answered),
            ("relayed", &sources.dns.relayed),
            ("failed", &sources.dns.failed),
        ],
    );
    registry
}

fn slots(registry: &mut Registry, snapshot: &Snapshot) {
    let mut counts: BTreeMap<(String, String, &str), i64> = BTreeMap::new();
    for (id, container) in &snapshot.containers {
        let wanted = container.scale().unwrap_or(0);
        let surplus = container
            .slots
            .iter()
            .filter(|(number, slot)| **number >= wanted && slot.claim.is_some())
            .map(|(number, _)| *number);
        let numbers = (0..wanted).chain(surplus);
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
            (Some(record), _) => match record.state {
                HostState::Up => "up",
                HostState::Restarting => "restarting",
                HostState::Hold => "hold",
            },
            (None, Some(_)) => "missing",
            (None, None) => continue,
        };
        let labels = StateLabel {
            state: state.to_owned(),
        };
        family.get_or_create(&labels).inc();
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
    use conductor_core::snapshot::Change;
    use store::host::Waiting;

    fn sources() -> (Sources, watch::Sender<HostStatus>) {
        let (sender, status) = watch::channel(HostStatus::Live(1));
        let sources = Sources {
            published: Arc::new(Published::default()),
            status,
            own_etcd: false,
            links: Arc::default(),
            dns: Arc::default(),
        };
        (sources, sender)
    }

    fn see(sources: &Sources, stale: bool, distrust: Option<&str>) {
        let put = |key: &str, value: &str| Change::Put {
            key: key.to_owned(),
            value: value.as_bytes().to_vec(),
            modified: 7,
            created: 7,
        };
        let claim = r#"{"host": "h1", "instance": "i", "manifest_rev": 7}"#;
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
            stale,
            distrust: distrust.map(ToOwned::to_owned),
        })));
    }

    fn text(sources: &Sources) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry(sources)).unwrap();
        text
    }

    #[test]
    fn what_is_counted_is_shown() {
        let (sources, _status) = sources();
        see(&sources, false, None);
        let published = &sources.published;
        published.counters.restarts.store(3, Ordering::Relaxed);
        sources.links.refused.store(2, Ordering::Relaxed);
        let text = text(&sources);
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
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn readiness_says_what_is_missing() {
        let (sources, status) = sources();
        let lacks = |what: &str| {
            let lacks = lacks(&sources.published, &sources.status.borrow(), false);
            lacks.iter().any(|l| l.contains(what))
        };
        assert!(lacks("not been read"));
        see(&sources, true, None);
        assert!(lacks("followed"));
        see(&sources, false, Some("the cluster's key is gone"));
        assert!(lacks("the cluster's key is gone"));
        assert!(text(&sources).contains("dokkaa_hold 1"));
        see(&sources, false, None);
        status.send(HostStatus::Lost).unwrap();
        assert!(lacks("not in etcd"));
        sources
            .published
            .alarm
            .send_replace(Some(store::Alarm::NoSpace));
        assert!(lacks("etcdctl alarm disarm"));
        let other = Waiting::NameTaken([10, 0, 0, 1].into());
        status.send(HostStatus::Joining(other)).unwrap();
        assert!(lacks("another machine (10.0.0.1)"));
    }
}
