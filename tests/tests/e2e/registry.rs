//! Images that a registry gives to those it knows.

use dokkaa_tests::images::BUSYBOX;
use serde_json::json;

use super::Cluster;
use dokkaa_tests::process::Ran;

/// `docker login` on each host is enough, and takes no new PUT.
#[test]
fn a_host_pulls_with_its_own_login() {
    let cluster = Cluster::alone();
    let app = cluster.app("private");
    let registry = cluster.lab.registry().expect("a registry");
    let (known, other) = (cluster.lab.host(2), cluster.lab.host(3));
    registry.login(known).expect("login");
    let image = registry.push(known, BUSYBOX, "private").expect("push");

    // One slot on each host, and one host of three is logged in.
    app.put(
        "web",
        &json!({
            "image": image,
            "scale": 3,
            "stop_signal": "SIGKILL",
            "command": ["sleep", "1000"],
        }),
    );
    app.row("web", "ready on the host that is logged in", |row| {
        row.host == known.name() && row.status == "ready"
    });
    for host in [cluster.lab.host(1), other] {
        let row = app.row("web", "refused by the registry", |row| {
            row.host == host.name() && row.reason.contains("auth")
        });
        assert_ne!(row.status, "ready");
        assert!(
            row.reason.contains("private"),
            "it names the image: {row:?}"
        );
    }
    // What runs is the digest that was decided, whatever the tag says later.
    let (_, one) = app.running("web").remove(0);
    let seen = known.engine().inspect(&one.id).expect("inspect");
    let image_of = seen["Config"]["Image"].to_string();
    assert!(image_of.contains("@sha256:"), "{image_of}");

    registry.login(other).expect("login");
    app.row("web", "ready after the login", |row| {
        row.host == other.name() && row.status == "ready"
    });
    let why = cluster
        .lab
        .host(1)
        .dokkaa(&["why", "private/web"])
        .and_then(Ran::ok)
        .expect("why");
    assert!(why.contains("auth"), "{why}");
    registry.logout(known).expect("logout");
    registry.logout(other).expect("logout");
}
