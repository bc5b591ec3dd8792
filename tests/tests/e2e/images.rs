//! Images that are in no registry: built on one host, run on all.

use std::collections::BTreeSet;

use dokkaa_tests::images::BUSYBOX;
use dokkaa_tests::wait_for;
use serde_json::json;

use super::{CAP, Cluster};

/// Nobody pushes, saves or loads anything.
#[test]
fn an_image_built_on_one_host_runs_on_all() {
    let cluster = Cluster::take();
    let app = cluster.app("built");
    let name = "built.here/app:1";
    let since = super::now();
    let builder = cluster.lab.host(3);
    builder
        .sh(&format!(
            "c=$(docker create {BUSYBOX}) && echo here > /tmp/made && docker cp /tmp/made $c:/made && \
             docker commit --change 'ENV MADE=yes' $c {name} && docker rm $c"
        ))
        .expect("an image");
    app.put(
        "web",
        &json!({
            "image": name,
            "scale": 6,
            "stop_signal": "SIGKILL",
            "command": ["sh", "-c", "cat /made; echo $MADE; exec sleep 1000"],
        }),
    );
    let hosts: BTreeSet<&str> = app
        .ready("web", 6)
        .into_iter()
        .map(|(host, one)| {
            let said = host.docker(&["logs", &one.id]).expect("its log");
            assert_eq!(said, "here\nyes\n");
            host.name()
        })
        .collect();
    assert_eq!(hosts.len(), 3, "{hosts:?}");
    let until = super::now();
    for host in cluster.lab.hosts() {
        let loads = host
            .docker(&[
                "events",
                "--since",
                &format!("{since:.3}"),
                "--until",
                &format!("{until:.3}"),
                "--filter",
                "event=load",
            ])
            .expect("events");
        let expected = usize::from(host.name() != builder.name());
        assert_eq!(loads.lines().count(), expected, "{}: {loads}", host.name());
    }

    // As the lab was.
    app.delete("web");
    app.ready("web", 0);
    for host in cluster.lab.hosts() {
        // Until its last container has gone.
        wait_for("the image to be removed", CAP, || {
            let removed = host.docker(&["rmi", name]);
            removed.map_err(|error| error.to_string())
        });
    }
}
