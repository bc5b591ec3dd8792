//! What an agent counts, as Prometheus' own tool sees it.

use std::process::Command;

use dokkaa_tests::process::Ran;
use dokkaa_tests::{needs, wait_for};
use serde_json::json;

use super::{CAP, Cluster, web, with};

const CONNECTIONS: &str = "dokkaa_link_connections_total{result=\"ok\"}";

#[test]
fn promtool_has_nothing_against_the_metrics() {
    needs::check(&[needs::METRICS]).expect("promtool");
    let cluster = Cluster::take();
    let app = cluster.app("counted");
    app.put("web", &with(web("page"), "scale", json!(2)));
    app.put("client", &with(web("mine"), "links", json!(["web"])));
    let (host, _) = app.ready("client", 1).remove(0);
    app.ready("web", 2);
    // Another test may have used the host before.
    let connections = |metrics: &str| -> u64 {
        let mut lines = metrics.lines();
        let count = lines.find_map(|line| line.strip_prefix(CONNECTIONS));
        count.map_or(0, |count| count.trim().parse().expect("a count"))
    };
    let before = connections(&host.metrics().expect("metrics"));
    app.fetches("client", 0, "WEB", 1).expect("a page");
    let at = format!("@{}", host.gateway().expect("a gateway"));
    for name in [&app.domain("web"), "a.example"] {
        host.dig(&[&at, name, "A"]).expect("dig");
    }

    // The host hears of the last ready slot a moment after etcd has it.
    let metrics = wait_for("the counts", CAP, || {
        let metrics = host.metrics().map_err(|error| error.to_string())?;
        let counts = [
            "dokkaa_dns_queries_total{type=\"A\",code=\"NOERROR\"}",
            "dokkaa_dns_answer_duration_seconds_bucket{",
            "dokkaa_slots{app=\"counted\",container=\"web\",state=\"ready\"} 2",
        ];
        match counts.iter().find(|counted| !metrics.contains(**counted)) {
            Some(missing) => Err(format!("{missing} is not in\n{metrics}")),
            None if connections(&metrics) != before + 1 => {
                Err(format!("{before} connections before, and now\n{metrics}"))
            }
            None => Ok(metrics),
        }
    });
    let mut check = Command::new(needs::find("promtool").expect("promtool"));
    check.args(["check", "metrics"]);
    let checked = Ran::run(check, Some(metrics.as_bytes())).expect("promtool runs");
    assert!(checked.code() == 0, "{checked:?}");
    // It ends well with advice, too.
    assert_eq!(checked.stdout.trim(), "", "{metrics}");
    assert_eq!(checked.stderr.trim(), "", "{metrics}");
}
