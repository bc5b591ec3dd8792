//! Instances' ports are for the hosts of the cluster; what has a `host_port` is for all.

use std::path::Path;
use std::process::Command;

use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::host::Host;
use dokkaa_tests::node::Node;
use dokkaa_tests::process::Ran;
use dokkaa_tests::{Lab, LabOptions, binary, wait_for};
use serde_json::json;

use super::{CAP, Cluster, web, with};

/// curl's exit code when nothing answers at all.
const SILENCE: i32 = 28;
const HOST_PORT: u16 = 25_080;

/// A machine on the lab's network that is no host, at 10.99.0.`last`.
fn stranger(lab: &Lab, last: u8) -> Node {
    let cidr = format!("10.99.0.{last}/24");
    let name = format!("stranger{last}");
    let node = Node::new(&name, &lab.folder().join(&name), &cidr, None).expect("a node");
    let cable = format!("cable{last}");
    let mut link = Command::new("ip");
    link.args(["link", "add", &cable])
        .args(["netns", &lab.switch().pid().to_string()])
        .args(["type", "veth", "peer", "name", "eth0"])
        .args(["netns", &node.pid().to_string()]);
    Ran::run(link, None).and_then(Ran::ok).expect("a cable");
    lab.switch()
        .sh(&format!(
            "ip link set {cable} master br0 && ip link set {cable} up"
        ))
        .expect("plugged in");
    node.sh(&format!(
        "ip addr add {cidr} dev eth0 && ip link set eth0 up"
    ))
    .expect("an address");
    node
}

/// What curl in a node says of an address.
fn fetch(node: &Node, at: &(String, u16)) -> Ran {
    let url = format!("http://{}:{}/", at.0, at.1);
    node.run(&["curl", "-sS", "--noproxy", "*", "--max-time", "2", &url])
        .expect("curl")
}

#[track_caller]
fn reaches(node: &Node, at: &(String, u16), page: &str) {
    wait_for(&format!("{} to reach {at:?}", node.name()), CAP, || {
        let ran = fetch(node, at);
        if ran.stdout.trim() == page {
            Ok(())
        } else {
            Err(ran.to_string())
        }
    });
}

#[track_caller]
fn is_dropped(node: &Node, at: &(String, u16)) {
    wait_for(
        &format!("{at:?} to be silent for {}", node.name()),
        CAP,
        || {
            let ran = fetch(node, at);
            if ran.code() == SILENCE {
                Ok(())
            } else {
                Err(ran.to_string())
            }
        },
    );
}

/// Where a container is on its bridge.
fn address(host: &Host, container: &str) -> String {
    let format = "{{.NetworkSettings.IPAddress}}";
    let text = host.docker(&["inspect", "--format", format, container]);
    text.expect("an address").trim().to_owned()
}

fn table(host: &Host) -> String {
    host.sh("iptables -S").expect("iptables")
}

#[test]
fn only_hosts_reach_an_instance_and_all_reach_a_host_port() {
    let cluster = Cluster::take();
    let lab = cluster.lab;
    let outside = stranger(lab, 77);
    let app = cluster.app("closed");
    app.put("web", &web("inside"));
    let open = json!({"web": {"port": 80, "host_port": HOST_PORT}});
    app.put("open", &with(web("world"), "services", open));
    app.ready("open", 1);
    let owner = app.ready("web", 1)[0].0;
    let at = app.row("web", "ready", |row| !row.ports.is_empty()).ports[0].clone();
    let for_all = app.row("open", "ready", |row| !row.ports.is_empty()).ports[0].clone();
    assert_eq!(for_all.1, HOST_PORT);

    for host in lab.hosts() {
        reaches(host.node(), &at, "inside");
        reaches(host.node(), &for_all, "world");
    }
    is_dropped(&outside, &at);
    reaches(&outside, &for_all, "world");

    // Who routes to the bridge gets past the published port to nothing.
    app.put("caller", &with(web("caller"), "links", json!(["web"])));
    let (calls, caller) = app.ready("caller", 1).remove(0);
    let gateway = calls.gateway().expect("a gateway").to_string();
    outside
        .sh(&format!(
            "ip route add 172.17.0.0/16 via {}",
            calls.address()
        ))
        .expect("a route");
    let inside = (address(calls, &caller.id), 80);
    reaches(calls.node(), &inside, "caller");
    is_dropped(&outside, &inside);
    for port in [53, 10_000] {
        is_dropped(&outside, &(gateway.clone(), port));
    }
    let (server, name) = (format!("@{gateway}"), app.domain("web"));
    let dig = ["+short", "+time=1", "+tries=1", &server, &name];
    assert!(!calls.dig(&dig).expect("an answer").is_empty());
    let asked = outside.run(&[&["dig"], dig.as_slice()].concat());
    assert_ne!(asked.expect("dig").code(), 0, "DNS answers outside");
    app.fetches("caller", 0, "WEB", 1).expect("its link");

    // All rules are gone, and what is forwarded is let through: ours come back.
    owner
        .sh("iptables-save -t filter >/tmp/rules && iptables -F && iptables -P FORWARD ACCEPT")
        .expect("flushed");
    wait_for("the rules to be back", CAP, || {
        let table = table(owner);
        if table.contains("-A FORWARD -j DOKKAA") && table.contains("-A DOKKAA -p tcp -j DROP") {
            Ok(())
        } else {
            Err(table)
        }
    });
    is_dropped(&outside, &at);
    let member = lab.hosts().iter().find(|host| host.name() != owner.name());
    reaches(member.expect("another host").node(), &at, "inside");
    owner.sh("iptables-restore </tmp/rules").expect("restored");
    is_dropped(&outside, &at);
    // A rule of somebody else ahead of them is said, and left.
    owner.sh("iptables -I DOCKER-USER -j RETURN").expect("set");
    wait_for("the rule to be said", CAP, || {
        let hosts = owner.dokkaa(&["hosts"]).expect("dokkaa").to_string();
        if hosts.contains("`-A DOCKER-USER -j RETURN` comes before") {
            Ok(())
        } else {
            Err(hosts)
        }
    });
    owner.sh("iptables -D DOCKER-USER 1").expect("deleted");

    // They outlive the agent, and go where all are to be let in.
    owner.stop_agent().expect("stopped");
    is_dropped(&outside, &at);
    owner
        .start_agent(&AgentOptions {
            arguments: vec!["--instance-ports".to_owned(), "open".to_owned()],
            ..AgentOptions::default()
        })
        .expect("started");
    reaches(&outside, &at, "inside");
    assert!(!table(owner).contains("DOKKAA"));
    owner.stop_agent().expect("stopped");
    owner
        .start_agent(&AgentOptions::default())
        .expect("started");
    is_dropped(&outside, &at);
    for host in lab.hosts() {
        reaches(host.node(), &at, "inside");
    }
}

#[test]
fn down_takes_the_rules_away() {
    let lab = Lab::start(&LabOptions {
        hosts: 1,
        images: true,
        agents: None,
        ..LabOptions::default()
    })
    .expect("a lab");
    let host = lab.host(1);
    let outside = stranger(&lab, 77);
    let dokkaa = lab.folder().join("dokkaa");
    std::fs::copy(binary::dokkaa().expect("dokkaa"), &dokkaa).expect("a copy");
    let dokkaa = |words: &[&str]| run(host, &dokkaa, words);

    let before = table(host);
    // Here an address that others reach, not only the bridge's.
    let address = host.address().to_string();
    dokkaa(&["up", "--detach", "--host-ip", &address]);
    let answer = host
        .put("shop", "web", &web("inside").to_string())
        .expect("an answer");
    assert_eq!(answer.status, 201, "{answer:?}");
    let at = wait_for("a published port", CAP, || {
        let text = host
            .docker(&["port", "shop---web", "80/tcp"])
            .map_err(|error| format!("{error:#}"))?;
        text.trim()
            .rsplit_once(':')
            .and_then(|(ip, port)| Some((ip.to_owned(), port.parse().ok()?)))
            .ok_or(text)
    });
    reaches(host.node(), &at, "inside");
    is_dropped(&outside, &at);
    assert!(table(host).contains("-A INPUT -j DOKKAA"));

    let said = dokkaa(&["down"]);
    assert!(said.contains("firewall rules removed"), "{said}");
    assert_eq!(table(host), before);
    let v6 = host.sh("ip6tables -S").expect("ip6tables");
    assert!(!v6.contains("DOKKAA"), "{v6}");
}

/// Runs dokkaa on a host; what it said.
fn run(host: &Host, program: &Path, words: &[&str]) -> String {
    let program = program.display().to_string();
    let words = [&[program.as_str()], words].concat();
    host.run(&words).and_then(Ran::ok).expect("dokkaa")
}
