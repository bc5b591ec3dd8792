//! The engine's network changes while the agent runs: what listens at its gateway moves, and containers are made anew.

use dokkaa_tests::host::Host;
use dokkaa_tests::wait_for;
use rustix::process::Signal;
use serde_json::json;

use super::{App, CAP, Cluster, web, with};

/// Restarts the engine with other options, as after a change of daemon.json.
fn restart_engine(host: &Host, more: &[&str]) {
    host.engine().signal(Signal::TERM).expect("signalled");
    wait_for("the engine to end", CAP, || {
        if host.engine().runs() {
            Err("it runs")
        } else {
            Ok(())
        }
    });
    // Else it would keep the address that the interface has.
    host.sh("ip link del docker0").expect("deleted");
    host.engine().start_again(more).expect("started");
    host.engine().wait_ready().expect("ready");
}

/// Waits until DNS, links and containers of the host are at this gateway.
#[track_caller]
fn is_served_at(app: &App, host: &Host, gateway: &str) {
    let script = "timeout 2 wget -q -O - http://$SERVICE_WEB_ADDR:$SERVICE_WEB_PORT/ && echo $SERVICE_WEB_ADDR";
    wait_for(&format!("links at {gateway}"), CAP, || {
        let running = app.running("caller");
        let one = running.iter().find(|(on, _)| on.name() == host.name());
        let (_, one) = one.ok_or_else(|| "it does not run".to_owned())?;
        let said = host
            .docker(&["exec", &one.id, "sh", "-c", script])
            .map_err(|error| format!("{error:#}"))?;
        let said: Vec<&str> = said.split_whitespace().collect();
        if said == ["page", gateway] {
            Ok(())
        } else {
            Err(format!("{said:?}\n{}", host.agent_log()))
        }
    });
    let names = host.dig(&[&format!("@{gateway}"), &app.domain("web")]);
    assert!(!names.expect("an answer").is_empty());
    assert_eq!(host.gateway().expect("a gateway").to_string(), gateway);
}

#[test]
fn an_engine_whose_bridge_has_another_address_is_followed() {
    let cluster = Cluster::take();
    let app = cluster.app("moved");
    app.put("web", &web("page"));
    let caller = with(web("caller"), "links", json!(["web"]));
    let caller = with(caller, "scale", json!(3));
    app.put(
        "caller",
        &with(caller, "placement", json!({"max_per_host": 1})),
    );
    app.ready("web", 1);
    let host = app.ready("caller", 3)[0].0;
    let before = host.gateway().expect("a gateway").to_string();
    is_served_at(&app, host, &before);

    restart_engine(host, &["--bip", "172.31.0.1/24"]);
    is_served_at(&app, host, "172.31.0.1");
    let table = host.sh("iptables -S DOKKAA").expect("iptables");
    assert!(table.contains("-d 172.31.0.1/32"), "{table}");

    restart_engine(host, &["--bip", &format!("{before}/16")]);
    is_served_at(&app, host, &before);
    app.ready("caller", 3);
    app.ready("web", 1);
}

#[test]
fn a_port_of_the_agent_is_no_host_port() {
    let cluster = Cluster::take();
    let app = cluster.app("kept");
    let service = |port: u16, bind: &str| {
        let service = json!({"x": {"port": 80, "host_port": port, "bind": bind}});
        with(web("page"), "services", service)
    };
    for port in [53, 10_001] {
        let answer = app.try_put("x", &service(port, "0.0.0.0").to_string());
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    let gateway = cluster.lab.host(1).gateway().expect("a gateway");
    app.put("x", &service(10_001, &gateway.to_string()));
    app.row("x", "refused", |row| {
        row.reason.contains("is kept for the links")
    });
}
