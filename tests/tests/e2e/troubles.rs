//! etcd and Docker Engines that are killed, frozen and emptied under running
//! agents.

use dokkaa_tests::engine::Container;
use dokkaa_tests::etcd::Etcd;
use dokkaa_tests::host::Host;
use dokkaa_tests::images::{self, BUSYBOX};
use dokkaa_tests::{Lab, LabOptions, lab, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{App, CAP, Cluster, client, web, with};

/// What runs, and since when.
fn lives(app: &App, container: &str) -> Vec<(String, String)> {
    app.running(container)
        .iter()
        .map(|(host, one)| {
            let started = host.engine().inspect(&one.id).expect("inspect")["State"]["StartedAt"]
                .as_str()
                .expect("a time")
                .to_owned();
            (one.id.clone(), started)
        })
        .collect()
}

/// Waits until what `hosts` shows of a host is as wanted.
#[track_caller]
fn shown(asked: &Host, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) {
    wait_for(&format!("hosts to show {name} as {what}"), CAP, || {
        let answer = asked
            .api("GET", "/dokkaa/v1/hosts", &[], "")
            .and_then(|answer| answer.ok()?.json())
            .map_err(|error| format!("{error:#}"))?;
        let rows = answer["hosts"].as_array().cloned().unwrap_or_default();
        match rows.iter().find(|row| row["host"] == name) {
            Some(row) if wanted(row) => Ok(()),
            _ => Err(answer.to_string()),
        }
    });
}

#[test]
fn an_etcd_that_is_killed_and_comes_back_stops_nothing() {
    let cluster = Cluster::take();
    let app = cluster.app("etcdless");
    app.put("web", &with(web("x"), "scale", json!(3)));
    app.put("asker", &client("web", "WEB"));
    app.ready("web", 3);
    app.ready("asker", 1);
    let before = lives(&app, "web");
    let etcd = cluster.lab.etcd();
    for _ in 0..2 {
        etcd.kill().expect("kill");
        let (host, one) = app.running("web").remove(0);
        wait_for("pages without etcd", CAP, || {
            app.fetches("asker", 0, "WEB", 6)
        });
        assert!(host.engine().has(&one.id));
        etcd.start_again().expect("again");
        etcd.wait_serving().expect("an etcd that serves");
    }
    app.put("web", &with(web("x"), "scale", json!(4)));
    app.ready("web", 4);
    assert_eq!(lives(&app, "web")[..3], before);
}

/// As by a member that was frozen while it led, and took all leases for ended when it went on (etcd#15247).
#[test]
fn a_lease_that_etcd_ends_too_early_moves_nothing() {
    let cluster = Cluster::take();
    let app = cluster.app("early");
    app.put("web", &with(web("x"), "scale", json!(3)));
    app.ready("web", 3);
    let etcd = cluster.lab.etcd();
    let read = |words: &[&str]| {
        let found = etcd.etcdctl(&[&["get", "--write-out=json"], words].concat());
        let mut found: Value = serde_json::from_str(&found.expect("keys")).expect("JSON");
        found["kvs"].take()
    };
    let slots = format!("/claims/{}/web/slots/", app.name);
    let claims = || read(&[&slots, "--prefix"]);
    let lease = |host: &str| read(&[&format!("/hosts/{host}/record")])[0]["lease"].as_i64();
    let (before, ran) = (claims(), lives(&app, "web"));
    for host in ["h1", "h2", "h3"] {
        let ended = lease(host).expect("a lease");
        etcd.etcdctl(&["lease", "revoke", &format!("{ended:x}")])
            .expect("revoked");
        wait_for("a record on another lease", CAP, || match lease(host) {
            Some(lease) if lease != ended => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    // With their revisions: nobody wrote them, not even to take a slot and give it back.
    assert_eq!(claims(), before);
    assert_eq!(lives(&app, "web"), ran);
}

/// What was deleted while a host could not see it is deleted there, although
/// its history is gone.
#[test]
fn a_compacted_etcd_is_listed_anew() {
    let cluster = Cluster::take();
    let app = cluster.app("compacted");
    app.put("web", &with(web("x"), "scale", json!(3)));
    app.put("old", &with(web("x"), "scale", json!(3)));
    app.ready("web", 3);
    app.ready("old", 3);
    let before = lives(&app, "web");
    let host = cluster.lab.host(3);
    host.stop_agent().expect("stop");
    app.delete("old");
    app.put("web", &with(web("x"), "scale", json!(4)));
    cluster.lab.etcd().compact().expect("compact");
    host.start_agent(&dokkaa_tests::agent::AgentOptions::default())
        .expect("start");
    app.gone("old");
    app.ready("web", 4);
    assert_eq!(lives(&app, "web")[..3], before);
    cluster.lab.etcd().compact().expect("compact");
    app.put("web", &with(web("x"), "scale", json!(5)));
    app.ready("web", 5);
}

/// The record can't be written, and the agent ends all the same.
#[test]
fn an_agent_ends_while_its_etcd_is_frozen() {
    let cluster = Cluster::take();
    let host = cluster.lab.host(2);
    let etcd = cluster.lab.etcd();
    etcd.signal(Signal::STOP).expect("frozen");
    let ended = host.stop_agent();
    etcd.signal(Signal::CONT).expect("thawed");
    let (status, _) = ended.expect("an end");
    let log = host.agent_log();
    host.start_agent(&dokkaa_tests::agent::AgentOptions::default())
        .expect("start");
    assert_eq!(status.code(), Some(0));
    assert!(log.contains("stopped=NotNoted"), "{log}");
}

#[test]
fn a_frozen_member_of_three_is_left_for_another() {
    let lab = Lab::start(&LabOptions {
        hosts: 2,
        members: 3,
        ..LabOptions::default()
    })
    .expect("a lab");
    let ready = |scale: u32| {
        let manifest = with(web("x"), "scale", json!(scale)).to_string();
        wait_for("a host that accepts it", CAP, || {
            match lab.host(1).put("frozen", "web", &manifest) {
                Ok(answer) if matches!(answer.status, 200 | 201) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        wait_for(&format!("{scale} ready slots, seen by both"), CAP, || {
            let told = lab::each(lab.hosts(), |host| host.dokkaa(&["ps", "frozen/web"]))
                .map_err(|error| format!("{error:#}"))?;
            let ready = |text: &str| text.matches(" ready ").count() == scale as usize;
            if told.iter().all(|ran| ready(&ran.stdout)) {
                Ok(())
            } else {
                Err(format!("{told:?}"))
            }
        });
    };
    ready(1);
    for (member, scale) in lab.members().iter().zip(2..) {
        member.signal(Signal::STOP).expect("freeze");
        ready(scale);
        member.signal(Signal::CONT).expect("go on");
    }
    let all = lab.containers("frozen").expect("containers");
    assert_eq!(all.len(), 4, "nothing was started twice: {all:#?}");

    // Without a majority nothing is written, and that is said until there is one again.
    let gone = &lab.members()[1..];
    gone.iter().try_for_each(Etcd::kill).expect("kill");
    let status = |what: &str, words: &[&str]| {
        wait_for(what, CAP, || {
            let ran = lab.host(1).dokkaa(&["status"]);
            let ran = ran.map_err(|error| format!("{error:#}"))?;
            let said = |word: &&str| ran.stdout.contains(*word);
            words.iter().all(said).then_some(()).ok_or(ran.to_string())
        });
    };
    status(
        "status to say why",
        &[
            "etcd     does not answer",
            "running containers keep running",
            "no leader: too few members of etcd run",
        ],
    );
    let manifest = web("x").to_string();
    let put = lab
        .host(1)
        .put("frozen", "more", &manifest)
        .expect("an answer");
    // It may have been sent to a member that is only now without a majority, and come about later.
    assert!(put.status >= 500, "{put:?}");
    assert!(
        put.body.contains("whether it was written is not known"),
        "{put:?}"
    );
    let ids = |all: &[(&Host, Container)]| -> Vec<String> {
        all.iter().map(|(_, one)| one.id.clone()).collect()
    };
    let now = lab.containers("frozen").expect("containers");
    assert_eq!(ids(&now), ids(&all), "{now:#?}");
    gone.iter().try_for_each(Etcd::start_again).expect("again");
    status("status as before", &["etcd     answers", "problems none"]);
    ready(5);
}

#[test]
fn a_frozen_engine_is_shown_and_given_nothing_until_it_answers() {
    let cluster = Cluster::take();
    let app = cluster.app("stiff");
    app.put("web", &with(web("x"), "scale", json!(3)));
    app.ready("web", 3);
    let before = lives(&app, "web");
    let (asked, host) = (cluster.lab.host(1), cluster.lab.host(3));
    let running = app.running("web");
    let here = running.iter().find(|(on, _)| on.name() == "h3");
    let (_, here) = here.expect("one on h3");
    let inspected = host.engine().inspect(&here.id).expect("inspect");
    let pid = &inspected["State"]["Pid"];
    host.engine().signal(Signal::STOP).expect("freeze");
    shown(asked, "h3", "unresponsive", |row| row["engine"] == false);
    // What ends meanwhile is known to take no traffic, though Docker says nothing.
    host.sh(&format!("kill -KILL {pid}")).expect("kill");
    let ended = app.row("web", "known to have ended", |row| {
        row.status == "unready" && row.reason.contains("its process has ended")
    });
    assert_eq!(ended.host, "h3");
    app.put("more", &with(web("x"), "scale", json!(3)));
    wait_for("three slots on the other two", CAP, || {
        let rows = app.rows("more")?;
        let good = |row: &&super::Row| row.status == "ready" && row.host != "h3";
        if rows.iter().filter(good).count() == 3 {
            Ok(())
        } else {
            Err(format!("{rows:#?}"))
        }
    });
    host.engine().signal(Signal::CONT).expect("go on");
    shown(asked, "h3", "answering", |row| row["engine"] == true);
    app.ready("web", 3);
    // The same containers, of which one was started again.
    let after = lives(&app, "web");
    let same = |(a, b): (&(String, String), &(String, String))| a.0 == b.0;
    assert!(after.iter().zip(&before).all(same), "{after:?}");
    let anew = after.iter().zip(&before).filter(|(a, b)| a != b);
    assert_eq!(anew.map(|(a, _)| &a.0).collect::<Vec<_>>(), [&here.id]);
}

#[test]
fn an_engine_that_is_killed_gets_its_containers_back() {
    let cluster = Cluster::take();
    let app = cluster.app("dockless");
    app.put("web", &with(web("x"), "scale", json!(3)));
    app.put("asker", &client("web", "WEB"));
    app.ready("web", 3);
    app.ready("asker", 1);
    let host = cluster.lab.host(2);
    let claims = app.claims("web");
    let before = lives(&app, "web");

    // Containers outlive it, and it finds them again.
    host.engine().kill().expect("kill");
    host.engine()
        .start_again(&["--live-restore"])
        .expect("again");
    app.ready("web", 3);
    assert_eq!(lives(&app, "web"), before);

    // It ends them as it starts: the same ones are started again.
    host.engine().kill().expect("kill");
    host.engine().start_again(&[]).expect("again");
    wait_for("new lives of the same containers", CAP, || {
        let now = lives(&app, "web");
        let same = |(a, b): (&(String, String), &(String, String))| a.0 == b.0;
        if now.len() == 3 && now != before && now.iter().zip(&before).all(same) {
            Ok(())
        } else {
            Err(format!("{now:?}, before {before:?}"))
        }
    });
    app.ready("web", 3);
    assert_eq!(app.claims("web"), claims);
    wait_for("pages", CAP, || app.fetches("asker", 0, "WEB", 6));
}

/// Somebody cleans up while the containers are down: each is made anew once,
/// from an image that is pulled once.
#[test]
fn a_prune_costs_a_pull_and_a_create() {
    let cluster = Cluster::take();
    let app = cluster.app("pruned");
    let registry = cluster.lab.registry().expect("a registry");
    for host in cluster.lab.hosts() {
        registry.login(host).expect("login");
    }
    let image = registry
        .push(cluster.lab.host(1), BUSYBOX, "pruned")
        .expect("push");
    app.put(
        "web",
        &with(with(web("x"), "scale", json!(3)), "image", json!(image)),
    );
    let before = app.ready("web", 3);

    let since = super::now();
    lab::each(cluster.lab.hosts(), |host| {
        host.sh("docker kill $(docker ps --quiet) && docker system prune --all --force")
    })
    .expect("prune");
    app.ready("web", 3);
    for (host, one) in before {
        let until = super::now();
        let events = host.engine().events(since, until).expect("events");
        let count = |action: &str| events.iter().filter(|event| event.action == action).count();
        assert!(count("create") <= 1, "{events:#?}");
        if !host.engine().has(&one.id) {
            assert_eq!(count("create"), 1, "{events:#?}");
        }
        let pulls = host
            .docker(&[
                "events",
                "--since",
                &format!("{since:.3}"),
                "--until",
                &format!("{until:.3}"),
                "--filter",
                "event=pull",
            ])
            .expect("events");
        assert!(pulls.lines().count() <= 1, "{pulls}");
    }
    for host in cluster.lab.hosts() {
        registry.logout(host).expect("logout");
    }
    // What other tests run.
    let archive = images::archive().expect("images");
    lab::each(cluster.lab.hosts(), |host| host.engine().load(&archive)).expect("load");
}
