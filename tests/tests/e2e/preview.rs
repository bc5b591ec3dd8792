//! An app whose manifest has a TTL.

use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::wait_for;
use serde_json::{Value, json};

use super::{App, CAP, Cluster, web};

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

/// Writes a manifest's key through the v2 API of a host.
#[track_caller]
fn put(app: &App, host: usize, form: &str) {
    let path = format!("/v2/keys{}", app.key("web"));
    let answer = app.lab.host(host).api("PUT", &path, &[FORM], form);
    let answer = answer.expect("an answer");
    assert!(matches!(answer.status, 200 | 201), "{answer:?}");
}

fn expires(app: &App) -> Value {
    let slots = app.slots().expect("slots");
    let rows = slots["containers"].as_array().cloned().unwrap_or_default();
    let own = rows.iter().find(|row| row["app"] == app.name.as_str());
    own.map_or(Value::Null, |row| row["expires"].clone())
}

/// A manifest of two slots, as a form encodes it.
fn value(page: &str) -> String {
    let mut manifest = web(page);
    manifest["scale"] = json!(2);
    manifest["rebalance"] = json!("off");
    dokkaa_tests::http::escape(&manifest.to_string())
}

#[track_caller]
fn nothing_in_etcd(app: &App) {
    wait_for("nothing of it in etcd", CAP, || {
        let keys = app.lab.etcd().list("/").expect("etcd");
        let name = format!("/{}/", app.name);
        let own = keys.into_iter().map(|(key, _)| key);
        let own: Vec<String> = own.filter(|key| key.contains(&name)).collect();
        own.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{own:?}"))
    });
}

#[test]
fn an_app_with_a_ttl_ends_by_itself_and_leaves_nothing() {
    let cluster = Cluster::take();
    let app = cluster.app("preview");
    put(&app, 1, &format!("ttl=600&value={}", value("preview")));
    let before = app.ready("web", 2);
    let first = expires(&app);
    let listed = app.lab.host(1).dokkaa(&["ps", "preview"]);
    let listed = listed.expect("ps").stdout;
    assert!(listed.contains("ends in"), "{listed}");

    // A refresh prolongs it, and replaces nothing.
    put(&app, 1, "ttl=900&refresh=true");
    wait_for("the refreshed end", CAP, || {
        let now = expires(&app);
        let later = now.as_str() > first.as_str();
        later.then_some(()).ok_or_else(|| format!("{first} {now}"))
    });
    let ids = |running: Vec<(_, dokkaa_tests::engine::Container)>| -> Vec<String> {
        running.into_iter().map(|(_, one)| one.id).collect()
    };
    assert_eq!(ids(before), ids(app.ready("web", 2)));

    put(&app, 1, "ttl=1&refresh=true");
    app.gone("web");
    nothing_in_etcd(&app);
}

#[test]
fn it_ends_also_when_the_agent_that_wrote_it_is_gone() {
    let cluster = Cluster::take();
    let app = cluster.app("orphaned");
    let writer = cluster.lab.host(2);
    put(&app, 2, &format!("ttl=600&value={}", value("orphaned")));
    app.ready("web", 2);
    put(&app, 2, "ttl=2&refresh=true");
    writer.kill_agent().expect("kill");
    wait_for("the end of its manifest", CAP, || {
        let manifest = app.lab.etcd().get(&app.key("web")).expect("etcd");
        manifest.map_or(Ok(()), Err)
    });
    writer.start_agent(&AgentOptions::default()).expect("start");
    app.gone("web");
    nothing_in_etcd(&app);
}
