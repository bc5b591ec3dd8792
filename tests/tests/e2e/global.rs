//! One instance on each host, whatever becomes of the hosts.

use std::collections::BTreeSet;

use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::engine::Container;
use dokkaa_tests::host::Host;
use dokkaa_tests::process::Ran;
use dokkaa_tests::wait_for;
use serde_json::{Value, json};

use super::{App, CAP, Cluster, web, with};

const PORT: u16 = 8077;

fn proxy(page: &str) -> Value {
    let services = json!({"web": {"port": 80, "host_port": PORT}});
    with(
        with(web(page), "services", services),
        "scale",
        json!("global"),
    )
}

#[track_caller]
fn dokkaa(host: &Host, words: &[&str]) -> Ran {
    let ran = host.dokkaa(words).expect("run");
    assert_eq!(ran.code(), 0, "{words:?}: {ran}");
    ran
}

/// Waits until exactly these hosts serve the page, each with one instance, and nothing else of it runs or is claimed.
#[track_caller]
fn served(app: &App, hosts: &[&Host], page: &str) {
    let wanted: BTreeSet<&str> = hosts.iter().map(|host| host.name()).collect();
    wait_for(&format!("{page:?} on {wanted:?}"), CAP, || {
        let rows = app.rows("proxy")?;
        let mut ready: Vec<&str> = rows
            .iter()
            .filter(|row| row.status == "ready" && !row.outdated)
            .map(|row| row.host.as_str())
            .collect();
        ready.sort_unstable();
        let mut running: Vec<&str> = app
            .running("proxy")
            .iter()
            .map(|(host, _)| host.name())
            .collect();
        running.sort_unstable();
        let wanted: Vec<&str> = wanted.iter().copied().collect();
        if ready != wanted || running != wanted || rows.len() != wanted.len() {
            return Err(format!("running on {running:?}; {rows:#?}"));
        }
        for host in hosts {
            let url = format!("http://{}:{PORT}/", host.address());
            let says = host.curl(&[&url]).map_err(|error| format!("{error:#}"))?;
            if says.trim() != page {
                return Err(format!("{} says {says:?}", host.name()));
            }
        }
        Ok(())
    });
}

fn on(app: &App, host: &Host) -> Vec<Container> {
    let all = host.containers(&app.name).expect("containers");
    all.into_iter().filter(Container::runs).collect()
}

#[test]
fn each_host_has_its_own_and_loses_it_when_it_is_drained_or_leaves() {
    let cluster = Cluster::take();
    let app = cluster.app("everywhere");
    let [one, two, three] = [1, 2, 3].map(|number| cluster.lab.host(number));
    app.put("proxy", &proxy("first"));
    served(&app, &[one, two, three], "first");
    let slots: Vec<u32> = app.claims("proxy").into_keys().collect();
    assert_eq!(slots, [0, 1, 2]);
    let why = dokkaa(one, &["why", "everywhere/proxy"]);
    let says = "on each host that may have it (3 hosts)";
    assert!(why.stdout.contains(says), "{why}");

    let drained = dokkaa(one, &["drain", three.name(), "--wait"]);
    assert!(
        drained.stderr.contains("since each host has its own"),
        "{drained}"
    );
    served(&app, &[one, two], "first");
    assert_eq!(on(&app, three).len(), 0);
    dokkaa(one, &["activate", three.name()]);
    served(&app, &[one, two, three], "first");

    // A host that leaves and one that joins; a host without the label has none.
    dokkaa(three, &["leave", "--yes", "--timeout", "80s"]);
    served(&app, &[one, two], "first");
    cluster.lab.heal(&AgentOptions::default()).expect("healed");
    dokkaa(one, &["activate", three.name()]);
    served(&app, &[one, two, three], "first");
    let constraint = json!({"constraints": ["excluded!=yes"]});
    dokkaa(one, &["label", two.name(), "excluded=yes"]);
    app.put("proxy", &with(proxy("first"), "placement", constraint));
    served(&app, &[one, three], "first");
    dokkaa(one, &["label", two.name(), "excluded-"]);
    served(&app, &[one, two, three], "first");

    // To a number and back: nothing of those below it is replaced.
    let kept = app.ids("proxy");
    dokkaa(one, &["scale", "everywhere/proxy=1", "--wait"]);
    app.ready("proxy", 1);
    dokkaa(one, &["scale", "everywhere/proxy=global", "--wait"]);
    served(&app, &[one, two, three], "first");
    assert_eq!(app.ids("proxy")[0], kept[0]);
}

#[test]
fn the_slot_of_a_lost_host_waits_for_it_and_holds_nothing_up() {
    let cluster = Cluster::take();
    let app = cluster.app("scattered");
    let [one, two, lost] = [1, 2, 3].map(|number| cluster.lab.host(number));
    app.put("proxy", &proxy("first"));
    served(&app, &[one, two, lost], "first");
    let before = app.claims("proxy");

    lost.power_off().expect("power off");
    app.row("proxy", "lost", |row| {
        row.status == "lost" && row.host == lost.name()
    });
    // An update and its --wait go on without it. Once that has ended, a takeover would have come.
    let set = format!("command=[\"sh\",\"-c\",{:?}]", super::serve("second"));
    let set = ["set", "scattered/proxy", &set, "--wait"];
    let set = dokkaa(one, &set);
    assert!(set.stdout.contains("1 on missing hosts"), "{set}");
    assert_eq!(app.claims("proxy").len(), 3);
    for (slot, claim) in app.claims("proxy") {
        assert_eq!(claim["host"], before[&slot]["host"], "slot {slot}");
    }

    lost.power_on().expect("power on");
    lost.start_agent(&AgentOptions::default()).expect("start");
    served(&app, &[one, two, lost], "second");
    let hosts = |claims: &std::collections::BTreeMap<u32, Value>| -> Vec<Value> {
        claims.values().map(|claim| claim["host"].clone()).collect()
    };
    assert_eq!(hosts(&app.claims("proxy")), hosts(&before));
}
