//! Images that a registry gives to those it knows.

use dokkaa_tests::images::BUSYBOX;
use serde_json::json;

use super::Cluster;
use dokkaa_tests::process::Ran;

#[test]
fn a_slot_goes_to_the_host_that_is_logged_in() {
    let cluster = Cluster::alone();
    let app = cluster.app("private");
    let registry = cluster.lab.registry().expect("a registry");
    let known = cluster.lab.host(2);
    registry.login(known).expect("login");
    let image = registry.push(known, BUSYBOX, "private").expect("push");

    // More slots than hosts: those placed elsewhere come to it too.
    app.put(
        "web",
        &json!({
            "image": image,
            "scale": 3,
            "stop_signal": "SIGKILL",
            "command": ["sleep", "1000"],
        }),
    );
    let running = app.ready("web", 3);
    for (host, _) in &running {
        assert_eq!(host.name(), known.name());
    }
    // What runs is the digest that was decided, whatever the tag says later.
    let image_of = running[0]
        .0
        .engine()
        .inspect(&running[0].1.id)
        .expect("inspect")["Config"]["Image"]
        .to_string();
    assert!(image_of.contains("@sha256:"), "{image_of}");
    let why = cluster
        .lab
        .host(1)
        .dokkaa(&["why", "private/web"])
        .and_then(Ran::ok)
        .expect("why");
    assert!(why.contains("h1") && why.contains("h3"), "{why}");
    registry.logout(known).expect("logout");
}

#[test]
fn without_any_login_the_slot_says_so() {
    let cluster = Cluster::alone();
    let app = cluster.app("nologin");
    let registry = cluster.lab.registry().expect("a registry");
    let known = cluster.lab.host(1);
    registry.login(known).expect("login");
    let image = registry.push(known, BUSYBOX, "secret").expect("push");
    registry.logout(known).expect("logout");
    app.put(
        "web",
        &json!({"image": image, "command": ["sleep", "1000"]}),
    );
    let row = app.row("web", "refused by the registry", |row| {
        let reason = row.reason.to_lowercase();
        [
            "login",
            "log in",
            "unauthorized",
            "credentials",
            "authentication",
        ]
        .iter()
        .any(|word| reason.contains(word))
    });
    assert_ne!(row.status, "ready");
    // A login on any host is enough, without another PUT.
    registry.login(cluster.lab.host(3)).expect("login");
    let running = app.ready("web", 1);
    assert_eq!(running[0].0.name(), "h3");
    registry.logout(cluster.lab.host(3)).expect("logout");
}
