//! `hosts --check` with firewalls between two hosts, and with agents that do not answer.

use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::host::Host;
use dokkaa_tests::wait_for;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{CAP, Cluster, client, web, with};

/// What `hosts --check` on a host finds: each problem as `h1,h2 -> h3`, its text and what helps.
fn check(on: &Host) -> (i32, Vec<(String, String, String)>) {
    let ran = on
        .dokkaa(&["hosts", "--check", "-o", "json"])
        .expect("dokkaa");
    let check: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let problems = check["problems"].as_array().expect("problems").iter();
    let problems = problems.map(|problem| {
        let from: Vec<String> = problem["from"]
            .as_array()
            .expect("hosts")
            .iter()
            .map(text)
            .collect();
        let way = format!("{} -> {}", from.join(","), text(&problem["to"]));
        (way, text(&problem["problem"]), text(&problem["help"]))
    });
    (ran.code(), problems.collect())
}

#[track_caller]
fn all_is_well(on: &Host) {
    wait_for("no problem between hosts", CAP, || match check(on) {
        (0, problems) if problems.is_empty() => Ok(()),
        other => Err(format!("{other:#?}")),
    });
    let ran = on.dokkaa(&["hosts", "--check"]).expect("dokkaa");
    assert!(
        ran.stdout.ends_with("all 3 hosts reach each other\n"),
        "{ran}"
    );
}

/// Carries out the command that the check says.
fn helps(on: &Host, help: &str) {
    let (host, command) = help.split_once(": ").expect("a host and a command");
    assert_eq!(host, format!("on {}", on.name()));
    on.sh(command).expect("the command");
}

#[test]
fn a_firewall_between_two_hosts_is_named_and_what_is_said_opens_it() {
    let cluster = Cluster::take();
    let [h1, h2, h3] = [1, 2, 3].map(|n| cluster.lab.host(n));
    all_is_well(h1);
    h3.sh("iptables-save -t filter >/tmp/open").expect("saved");
    let from = format!("-s {} -p tcp", h1.address());

    // No instance is there: the agent opens a port.
    h3.sh(&format!(
        "iptables -I INPUT {from} --dport 20000:29999 -j DROP"
    ))
    .expect("set");
    // It is found from everywhere.
    for asked in [h1, h2, h3] {
        let (code, problems) = check(asked);
        let [(way, text, help)] = problems.as_slice() else {
            panic!("{problems:#?}");
        };
        assert_eq!((code, way.as_str()), (1, "h1 -> h3"));
        assert!(
            text.contains("times out: a firewall between them?"),
            "{text}"
        );
        assert!(help.contains("--dport 20000:29999"), "{help}");
    }
    helps(h3, &check(h1).1[0].2);
    all_is_well(h1);

    // The peer port is closed: nothing is known of the other one.
    h3.sh(&format!(
        "iptables -I INPUT {from} --dport 4003 -j REJECT --reject-with tcp-reset"
    ))
    .expect("set");
    let (code, problems) = check(h1);
    assert_eq!(code, 1);
    let rejected = problems
        .iter()
        .find(|(way, ..)| way == "h1 -> h3")
        .expect("found");
    assert!(
        rejected.1.contains("peer port") && rejected.1.contains("is refused"),
        "{rejected:?}"
    );
    h3.sh("iptables-restore </tmp/open").expect("restored");
    all_is_well(h1);
}

#[test]
fn agents_that_are_frozen_or_stopped_are_told_apart() {
    let cluster = Cluster::take();
    let [h1, h3] = [1, 3].map(|n| cluster.lab.host(n));
    all_is_well(h1);
    let signal = |signal| {
        let mut agent = h3.agent();
        agent
            .as_mut()
            .expect("an agent")
            .signal(signal)
            .expect("signalled");
    };
    signal(Signal::STOP);
    let frozen = check(h1);
    signal(Signal::CONT);
    assert_eq!(frozen.0, 1);
    let [(way, text, help)] = frozen.1.as_slice() else {
        panic!("{frozen:#?}");
    };
    assert_eq!(way, "h1,h2 -> h3");
    assert!(text.contains("accepted and not answered"), "{text}");
    assert_eq!(help, "on h3: systemctl status dokkaa");
    all_is_well(h1);

    h3.stop_agent().expect("stopped");
    let (code, problems) = check(h1);
    h3.start_agent(&AgentOptions::default()).expect("started");
    assert_eq!(code, 1);
    assert!(
        problems.iter().all(|(way, ..)| way.ends_with("-> h3")),
        "{problems:#?}"
    );
    let said = format!("{problems:?}");
    assert!(
        said.contains("does not listen") || said.contains("does not run"),
        "{said}"
    );
    all_is_well(h1);
}

/// Links between two hosts only fail: the host that sees it says so, until they work again.
#[test]
fn links_that_fail_to_one_host_are_a_problem_of_the_host_that_has_them() {
    let cluster = Cluster::take();
    let app = cluster.app("walled");
    app.put("web", &web("over the wall"));
    let owner = app.ready("web", 1)[0].0;
    let asker = with(client("web", "WEB"), "scale", json!(3));
    app.put(
        "asker",
        &with(asker, "placement", json!({"max_per_host": 1})),
    );
    app.ready("asker", 3);
    let other = cluster
        .lab
        .hosts()
        .iter()
        .find(|host| host.name() != owner.name());
    let other = other.expect("another host");
    all_is_well(other);
    owner
        .sh("iptables-save -t filter >/tmp/open")
        .expect("saved");
    let from = format!("-s {} -p tcp", other.address());
    owner
        .sh(&format!(
            "iptables -I FORWARD {from} -m conntrack --ctorigdstport 20000:29999 -j DROP"
        ))
        .expect("set");
    let problem = format!("links to {} fail: ", owner.name());
    let shows = |wanted: bool| {
        wait_for(&format!("{problem:?} to be shown: {wanted}"), CAP, || {
            let hosts = owner.dokkaa(&["hosts"]).expect("dokkaa").to_string();
            if hosts.contains(&problem) == wanted {
                Ok(())
            } else {
                Err(hosts)
            }
        });
    };
    shows(true);
    let (code, problems) = check(owner);
    let [(way, text, help)] = problems.as_slice() else {
        panic!("{problems:#?}");
    };
    assert_eq!(
        (code, way),
        (1, &format!("{} -> {}", other.name(), owner.name()))
    );
    assert!(text.contains("/tcp of walled/web/0 times out"), "{text}");
    helps(owner, help);
    shows(false);
    all_is_well(other);
    owner.sh("iptables-restore </tmp/open").expect("restored");
}
