//! Up, down and away.

use std::collections::BTreeSet;

use dokkaa_tests::wait_for;
use serde_json::json;

use super::{CAP, Cluster, resolved, web, with};

#[test]
fn scale_alone_restarts_nothing() {
    let cluster = Cluster::take();
    let app = cluster.app("scaled");
    let at = |scale: u32| with(web("scaled"), "scale", json!(scale));

    app.put("web", &at(1));
    let first = app.ready("web", 1);
    app.put("web", &at(6));
    let six = app.ready("web", 6);
    assert_eq!(six[0].1.id, first[0].1.id, "slot 0 was left alone");
    let names: Vec<&str> = six.iter().map(|(_, one)| one.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "scaled---web",
            "scaled---web---1",
            "scaled---web---2",
            "scaled---web---3",
            "scaled---web---4",
            "scaled---web---5",
        ]
    );
    // Several of one host have ports of their own, and each is reached.
    let endpoints: BTreeSet<(String, u16)> = app
        .rows("web")
        .expect("rows")
        .into_iter()
        .flat_map(|row| row.ports)
        .collect();
    assert_eq!(endpoints.len(), 6, "{endpoints:?}");
    for (address, port) in &endpoints {
        let page = cluster
            .lab
            .host(1)
            .curl(&[&format!("http://{address}:{port}/")])
            .expect("a page");
        assert_eq!(page.trim(), "scaled");
    }
    let addresses: BTreeSet<String> = endpoints.into_iter().map(|(address, _)| address).collect();
    resolved(
        cluster.lab,
        &app.domain("web"),
        "A",
        &addresses.into_iter().collect::<Vec<_>>(),
    );

    // Down again: the highest numbers go, the others are not touched.
    app.put("web", &at(2));
    let two = app.ready("web", 2);
    for (kept, before) in two.iter().zip(&six) {
        assert_eq!(kept.1.id, before.1.id);
    }
    app.put("web", &at(0));
    app.gone("web");
    app.put("web", &at(1));
    app.ready("web", 1);
    app.delete("web");
    app.gone("web");
    wait_for("the end of its claims", CAP, || {
        let left = cluster
            .lab
            .etcd()
            .list("/claims/scaled/")
            .map_err(|error| error.to_string())?;
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
}

/// A container that is removed or killed behind the agent's back comes back,
/// on its host and in its slot.
#[test]
fn what_is_killed_or_removed_by_hand_comes_back() {
    let cluster = Cluster::take();
    let app = cluster.app("phoenix");
    app.put("web", &web("alive"));
    let (host, before) = app.ready("web", 1).remove(0);
    host.docker(&["kill", &before.id]).expect("kill");
    let (same_host, _) = app.ready("web", 1).remove(0);
    assert_eq!(same_host.name(), host.name());
    let id = app.ids("web").remove(0);
    host.docker(&["rm", "--force", &id]).expect("rm");
    wait_for("a new container", CAP, || {
        let ids = app.ids("web");
        if ids.len() == 1 && ids[0] != id {
            Ok(())
        } else {
            Err(format!("{ids:?}"))
        }
    });
    let (same_host, _) = app.ready("web", 1).remove(0);
    assert_eq!(same_host.name(), host.name());
}
