//! Images that a registry gives to those it knows.

use dokkaa_tests::images::BUSYBOX;
use serde_json::json;

use super::Cluster;
use dokkaa_tests::process::Ran;

/// `docker login` on each host is enough, and takes no new PUT.
#[test]
fn a_host_pulls_with_its_own_login() {
    let cluster = Cluster::take();
    let app = cluster.app("private");
    let registry = cluster.lab.registry().expect("a registry");
    let (known, other) = (cluster.lab.host(2), cluster.lab.host(3));
    registry.login(known).expect("login");
    let image = registry.push(known, BUSYBOX, "private").expect("push");

    // One host of three is logged in: what the others are refused goes there.
    let web = |scale: u32| {
        json!({
            "image": image,
            "scale": scale,
            "stop_signal": "SIGKILL",
            "command": ["sleep", "1000"],
        })
    };
    app.put("web", &web(3));
    for (host, _) in app.ready("web", 3) {
        assert_eq!(host.name(), known.name());
    }
    let events = cluster
        .lab
        .host(1)
        .dokkaa(&["events", "private/web"])
        .and_then(Ran::ok)
        .expect("events");
    let refused = |line: &&str| line.contains("unfit") && line.contains("auth");
    let refused: Vec<&str> = events.lines().filter(refused).collect();
    assert!(!refused.is_empty(), "{events}");
    let named = |line: &&str| line.contains("/private");
    assert!(refused.iter().all(named), "the image is named: {refused:?}");
    // What runs is the digest that was decided, whatever the tag says later.
    let (_, one) = app.running("web").remove(0);
    let seen = known.engine().inspect(&one.id).expect("inspect");
    let image_of = seen["Config"]["Image"].to_string();
    assert!(image_of.contains("@sha256:"), "{image_of}");

    // A login is enough: the marks of those who were refused end by themselves.
    registry.login(other).expect("login");
    app.put("web", &web(6));
    app.ready("web", 6);
    app.row("web", "ready after the login", |row| {
        row.host == other.name() && row.status == "ready"
    });
    registry.logout(known).expect("logout");
    registry.logout(other).expect("logout");
}
