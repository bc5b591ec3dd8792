//! What an agent counts, as Prometheus' own tool sees it.

use std::process::Command;

use dokkaa_tests::needs;
use dokkaa_tests::process::Ran;
use serde_json::json;

use super::{Cluster, web, with};

#[test]
fn promtool_has_nothing_against_the_metrics() {
    needs::check(&[needs::METRICS]).expect("promtool");
    let cluster = Cluster::take();
    let app = cluster.app("counted");
    app.put("web", &with(web("page"), "scale", json!(2)));
    app.put("client", &with(web("mine"), "links", json!(["web"])));
    let (host, _) = app.ready("client", 1).remove(0);
    app.ready("web", 2);
    app.fetches("client", 0, "WEB", 1).expect("a page");
    let at = format!("@{}", host.gateway().expect("a gateway"));
    for name in [&app.domain("web"), "a.example"] {
        host.dig(&[&at, name, "A"]).expect("dig");
    }

    let metrics = host.metrics().expect("metrics");
    for counted in [
        "dokkaa_link_connections_total{result=\"ok\"} 1",
        "dokkaa_dns_queries_total{type=\"A\",code=\"NOERROR\"}",
        "dokkaa_dns_answer_duration_seconds_bucket{",
        "dokkaa_slots{app=\"counted\",container=\"web\",state=\"ready\"} 2",
    ] {
        assert!(metrics.contains(counted), "{counted} is not in\n{metrics}");
    }
    let mut check = Command::new(needs::find("promtool").expect("promtool"));
    check.args(["check", "metrics"]);
    let checked = Ran::run(check, Some(metrics.as_bytes())).expect("promtool runs");
    assert!(checked.code() == 0, "{checked:?}");
    // It ends well with advice, too.
    assert_eq!(checked.stdout.trim(), "", "{metrics}");
    assert_eq!(checked.stderr.trim(), "", "{metrics}");
}
