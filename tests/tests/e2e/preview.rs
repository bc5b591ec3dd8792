//! An app whose manifest has a TTL.

use dokkaa_tests::wait_for;
use serde_json::{Value, json};

use super::{App, CAP, Cluster, web};

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

/// Writes a manifest's key through the v2 API.
#[track_caller]
fn put(app: &App, form: &str) {
    let path = format!("/v2/keys{}", app.key("web"));
    let answer = app.lab.host(1).api("PUT", &path, &[FORM], form);
    let answer = answer.expect("an answer");
    assert!(matches!(answer.status, 200 | 201), "{answer:?}");
}

fn expires(app: &App) -> Value {
    let slots = app.slots().expect("slots");
    let rows = slots["containers"].as_array().cloned().unwrap_or_default();
    let own = rows.iter().find(|row| row["app"] == app.name.as_str());
    own.map_or(Value::Null, |row| row["expires"].clone())
}

#[test]
fn an_app_with_a_ttl_ends_by_itself_and_leaves_nothing() {
    let cluster = Cluster::shared();
    let app = cluster.app("preview");
    let mut manifest = web("preview");
    manifest["scale"] = json!(2);
    manifest["rebalance"] = json!("off");
    let value = dokkaa_tests::http::escape(&manifest.to_string());
    put(&app, &format!("ttl=600&value={value}"));
    let before = app.ready("web", 2);
    let first = expires(&app);
    let listed = app.lab.host(1).dokkaa(&["ps", "preview"]);
    let listed = listed.expect("ps").stdout;
    assert!(listed.contains("ends in"), "{listed}");

    // A refresh prolongs it, and replaces nothing.
    put(&app, "ttl=900&refresh=true");
    wait_for("the refreshed end", CAP, || {
        let now = expires(&app);
        let later = now.as_str() > first.as_str();
        later.then_some(()).ok_or_else(|| format!("{first} {now}"))
    });
    let ids = |running: Vec<(_, dokkaa_tests::engine::Container)>| -> Vec<String> {
        running.into_iter().map(|(_, one)| one.id).collect()
    };
    assert_eq!(ids(before), ids(app.ready("web", 2)));

    put(&app, "ttl=1&refresh=true");
    app.gone("web");
    wait_for("nothing of it in etcd", CAP, || {
        let keys = app.lab.etcd().list("/").expect("etcd");
        let own: Vec<String> = keys
            .into_iter()
            .map(|(key, _)| key)
            .filter(|key| key.contains("/preview"))
            .collect();
        own.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{own:?}"))
    });
}
