//! What containers find behind their links.

use dokkaa_tests::wait_for;
use serde_json::{Value, json};

use super::{CAP, Cluster, client, web, with};

/// The first link of every container has the same port.
#[test]
fn two_containers_mean_different_services_by_the_same_port() {
    let cluster = Cluster::take();
    let app = cluster.app("linked");
    app.put("left", &named("left", "the left page"));
    app.put("right", &named("right", "the right page"));
    app.put(
        "asks-left",
        &with(client("left", "LEFT"), "scale", json!(3)),
    );
    app.put(
        "asks-right",
        &with(client("right", "RIGHT"), "scale", json!(3)),
    );
    for (container, variable) in [("asks-left", "LEFT"), ("asks-right", "RIGHT")] {
        app.ready(container, 3);
        for slot in 0..3 {
            let port = app
                .exec(
                    container,
                    slot,
                    &["sh", "-c", &format!("echo $SERVICE_{variable}_PORT")],
                )
                .expect("the variable");
            assert_eq!(port.trim(), "10000");
        }
    }
    for slot in 0..3 {
        app.prints("asks-left", slot, "the left page");
        app.prints("asks-right", slot, "the right page");
    }
    for (container, other) in [("asks-left", "right"), ("asks-right", "left")] {
        for (host, one) in app.running(container) {
            let log = super::output(host, &one.id);
            assert!(!log.contains(&format!("the {other} page")), "{log}");
        }
    }
}

fn named(service: &str, page: &str) -> Value {
    with(web(page), "services", json!({ service: 80 }))
}

/// The target is looked up for each connection.
#[test]
fn a_service_that_starts_later_or_moves_is_found() {
    let cluster = Cluster::take();
    let app = cluster.app("later");
    app.put("asker", &client("web", "WEB"));
    let (host, asker) = app.ready("asker", 1).remove(0);
    app.prints("asker", 0, "failed");
    // The refusal says who asked for what, and why not.
    let refusal = wait_for("the refusal in the agent's log", CAP, || {
        let log = host.agent_log();
        log.lines()
            .find(|line| {
                line.contains("later")
                    && line.contains("asker")
                    && line.contains("web")
                    && line.to_lowercase().contains("refused")
            })
            .map(str::to_owned)
            .ok_or_else(|| dokkaa_tests::process::tail(&log, 5))
    });
    assert!(
        refusal.contains("later/web") || refusal.contains("web.later"),
        "{refusal}"
    );

    app.put("web", &web("first page"));
    app.prints("asker", 0, "first page");
    app.delete("web");
    app.gone("web");
    app.put("web", &with(web("second page"), "scale", json!(3)));
    app.prints("asker", 0, "second page");
    assert_eq!(
        app.ids("asker"),
        std::slice::from_ref(&asker.id),
        "it was never restarted"
    );

    // A client that starts anew on a host has its links at once.
    host.docker(&["kill", &asker.id]).expect("kill");
    app.ready("asker", 1);
    app.prints("asker", 0, "second page");
}

#[test]
fn links_may_name_other_apps_and_aliases() {
    let cluster = Cluster::take();
    let shop = cluster.app("shop");
    let desk = cluster.app("desk");
    shop.put("store", &web("from the shop"));
    desk.put("clerk", &client("shop/web:back-office", "BACK_OFFICE"));
    desk.ready("clerk", 1);
    desk.prints("clerk", 0, "from the shop");
    let backend = desk
        .exec("clerk", 0, &["sh", "-c", "echo $BACKENDS_10000"])
        .expect("the variable");
    assert_eq!(backend.trim(), "web.shop.skydns.local");
    let page = desk
        .exec(
            "clerk",
            0,
            &["wget", "-q", "-O", "-", "http://backends:10000/"],
        )
        .expect("by the host alias");
    assert_eq!(page.trim(), "from the shop");
}

/// A service on several hosts is reached on all of them, and a slot that goes
/// takes no connection with it that comes after.
#[test]
fn connections_are_spread_over_the_endpoints() {
    let cluster = Cluster::take();
    let app = cluster.app("spread");
    let page = json!([
        "sh",
        "-c",
        "mkdir -p /w && echo slot-$DOKKAA_SLOT-page >/w/index.html && exec httpd -f -p 80 -h /w"
    ]);
    app.put(
        "web",
        &with(with(web("x"), "command", page), "scale", json!(3)),
    );
    app.ready("web", 3);
    app.put("asker", &client("web", "WEB"));
    app.ready("asker", 1);
    for slot in 0..3 {
        app.prints("asker", 0, &format!("slot-{slot}-page"));
    }
}
