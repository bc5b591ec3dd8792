//! Access to the API, and keys that it does not write.

use std::time::Duration;

use dokkaa_tests::wait_for;

use super::{CAP, Cluster, web};

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const KEY: &str = "/v2/keys/apps/strangers/web/manifest";
const BODY: &str = "value=%7B%22image%22%3A%22busybox%22%7D";

#[test]
fn a_web_page_of_somebody_else_writes_nothing() {
    let cluster = Cluster::take();
    let host = cluster.lab.host(1);
    for (header, status) in [
        (("Origin", "http://evil.example"), 403),
        (("Sec-Fetch-Site", "cross-site"), 403),
    ] {
        let answer = host
            .api("PUT", KEY, &[FORM, header], BODY)
            .expect("an answer");
        assert_eq!(answer.status, status, "{header:?}: {answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let status = host
        .curl(&[
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
            "--header",
            "Host: evil.example",
            "http://127.0.0.1:4001/v2/keys/apps",
        ])
        .expect("an answer");
    assert_eq!(status, "421");
    let answer = host.api("GET", KEY, &[], "").expect("an answer");
    assert_eq!(answer.status, 404, "{answer:?}");
}

#[test]
fn what_agents_write_can_be_read_and_not_written() {
    let cluster = Cluster::take();
    let host = cluster.lab.host(1);
    for key in [
        "/claims/a/b/slots/0",
        "/hosts/h1/record",
        "/dokkaa/cluster",
        "/status/a/b/0",
        "/v2meta/apps",
        "/apps/a/b/c/d",
    ] {
        let answer = host
            .api("PUT", &format!("/v2/keys{key}"), &[FORM], BODY)
            .expect("an answer");
        assert_eq!(answer.status, 403, "{key}: {answer:?}");
        assert_eq!(answer.json().expect("JSON")["errorCode"], 110, "{key}");
    }
    let record = host
        .api("GET", "/v2/keys/hosts/h1/record", &[], "")
        .expect("an answer");
    assert_eq!(record.status, 200, "{record:?}");
    // Any other key is the user's own.
    let answer = host
        .api("PUT", "/v2/keys/mine/1", &[FORM], "value=x")
        .expect("an answer");
    assert_eq!(answer.status, 201, "{answer:?}");
    let answer = host
        .api("DELETE", "/v2/keys/mine/1", &[], "")
        .expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// From another host and from a container the API is not reachable.
#[test]
fn the_api_is_on_loopback_only() {
    let cluster = Cluster::take();
    let (one, two) = (cluster.lab.host(1), cluster.lab.host(2));
    let from_outside = two
        .ask(
            &format!("{}:4001", one.address()),
            "GET",
            "/version",
            &[],
            "",
        )
        .expect_err("nobody listens there");
    assert!(
        format!("{from_outside:#}").contains("refused"),
        "{from_outside:#}"
    );
    let gateway = one.gateway().expect("gateway");
    let from_container = one
        .run(&[
            "docker",
            "run",
            "--rm",
            "busybox",
            "timeout",
            "2",
            "wget",
            "-q",
            "-O",
            "-",
            &format!("http://{gateway}:4001/version"),
        ])
        .expect("run");
    assert_ne!(from_container.code(), 0, "{from_container}");
}

/// A container's network sends what is for 127.0.0.1 to the bridge.
const ASTRAY: &str = "
for way in all eth0; do
    echo 0 >/proc/sys/net/ipv4/conf/$way/rp_filter
    echo 1 >/proc/sys/net/ipv4/conf/$way/route_localnet
done
ip route add 127.0.0.1 via $0 dev eth0 src $1 table 100
ip rule add pref 1 lookup 100
ip rule add pref 10 lookup local && ip rule del pref 0
";

/// As with Docker's `userland-proxy: false`, which sets `route_localnet` on the bridge.
#[test]
fn a_container_does_not_reach_the_hosts_loopback() {
    let cluster = Cluster::take();
    let app = cluster.app("astray");
    app.put("web", &web("hello"));
    let (host, container) = app.ready("web", 1).remove(0);
    let inspected = host.engine().inspect(&container.id).expect("inspect");
    let pid = inspected["State"]["Pid"].to_string();
    let address = inspected["NetworkSettings"]["IPAddress"].as_str();
    let gateway = host.gateway().expect("a gateway").to_string();
    host.sh("echo 1 >/proc/sys/net/ipv4/conf/docker0/route_localnet")
        .expect("the bridge");
    let inside = |words: &[&str]| {
        let enter = ["nsenter", "--target", &pid, "--net", "--"];
        host.run(&[&enter, words].concat()).expect("run")
    };
    inside(&["sh", "-c", ASTRAY, &gateway, address.expect("an address")])
        .ok()
        .expect("routes");
    for url in [
        "http://127.0.0.1:4001/version",
        "http://127.0.0.1:4002/metrics",
    ] {
        let curl = ["curl", "--silent", "--max-time", "2", url];
        let answer = inside(&curl);
        assert_ne!(answer.code(), 0, "{url}: {answer}");
        assert_eq!(answer.stdout, "", "{url}");
        let own = host.curl(&[url]).expect("the host itself");
        assert_ne!(own, "");
    }
    host.sh("echo 0 >/proc/sys/net/ipv4/conf/docker0/route_localnet")
        .expect("the bridge");
}

/// Holds so many connections to an address from a node, and sends nothing.
fn idle(node: &dokkaa_tests::node::Node, at: &str, count: usize) -> Vec<std::net::TcpStream> {
    let at = at.parse().expect("an address");
    let connect = || {
        (0..count)
            .filter_map(|_| std::net::TcpStream::connect_timeout(&at, Duration::from_secs(2)).ok())
            .collect()
    };
    node.inside(connect).expect("a thread")
}

/// A soft limit of 1,024 files, as a shell of Debian has it, and more idle connections than that.
#[test]
fn idle_connections_stop_no_listener() {
    let cluster = Cluster::take();
    let app = cluster.app("idle");
    app.put("web", &web("hello"));
    let (host, _) = app.ready("web", 1).remove(0);
    let neighbour = cluster.lab.hosts().iter().find(|h| h.name() != host.name());
    let neighbour = neighbour.expect("another host");
    let pid = host.agent().as_ref().expect("an agent").pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let line = status
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<&str> = line.expect("a limit").split_whitespace().collect();
    assert_eq!(words[3], words[4], "the soft limit is the hard one");

    // Now one that can't be raised.
    let lower = format!("prlimit --pid {pid} --nofile=1024:1024");
    let lowered = std::process::Command::new("sh")
        .args(["-c", &lower])
        .status();
    assert!(lowered.expect("prlimit").success());
    let peer = format!("{}:4003", host.address());
    let _metrics = idle(host.node(), "127.0.0.1:4002", 700);
    let _keys = idle(host.node(), "127.0.0.1:4001", 700);
    let _strangers = idle(neighbour.node(), &peer, 700);
    for url in [
        "http://127.0.0.1:4001/v2/keys/apps",
        "http://127.0.0.1:4002/readyz",
    ] {
        let answer = host.curl(&["--fail", "--max-time", "5", url]);
        answer.expect("an answer while others hold the places");
    }
    wait_for("the slot to be ready as before", CAP, || {
        let rows = app.rows("web")?;
        let ready = rows.iter().all(|row| row.status == "ready");
        ready.then_some(()).ok_or_else(|| format!("{rows:#?}"))
    });
    assert!(!host.agent_log().contains("Too many open files"));
    host.stop_agent().expect("stopped");
    host.start_agent(&dokkaa_tests::agent::AgentOptions::default())
        .expect("with its own limit");
}

/// An agent without an etcd says so, whatever it is asked.
#[test]
fn an_agent_that_waits_says_for_what() {
    let cluster = Cluster::take();
    let host = cluster.lab.host(3);
    host.stop_agent().expect("stopped");
    let flags = ["--etcd", "http://127.0.0.1:9", "--state-dir", "/run/waits"];
    let mut waiting = host
        .start("waits", &[&["dokkaa", "agent"], &flags[..]].concat())
        .expect("started");
    let get = |url: &str| {
        host.curl(&["--max-time", "1", "--write-out", "\n%{http_code}", url])
            .map_err(|error| format!("{error:#}"))
    };
    wait_for("readyz to name etcd", CAP, || {
        let answer = get("http://127.0.0.1:4002/readyz")?;
        let named = answer.contains("127.0.0.1:9") && answer.ends_with("503");
        named.then_some(()).ok_or(answer)
    });
    assert_eq!(
        get("http://127.0.0.1:4002/healthz").expect("an answer"),
        "ok\n\n200"
    );
    let keys = get("http://127.0.0.1:4001/v2/keys/apps").expect("an answer");
    assert!(
        keys.contains("\"errorCode\":300") && keys.contains("127.0.0.1:9"),
        "{keys}"
    );
    let slots = get("http://127.0.0.1:4001/dokkaa/v1/slots").expect("an answer");
    assert!(
        slots.contains("{\"error\":") && slots.ends_with("503"),
        "{slots}"
    );
    let metrics = get("http://127.0.0.1:4002/metrics").expect("an answer");
    assert!(metrics.contains("dokkaa_etcd_up 0"), "{metrics}");
    let status = host.dokkaa(&["status"]).expect("run");
    assert_eq!(status.code(), 1, "{status}");
    assert!(status.stderr.contains("127.0.0.1:9"), "{status}");
    waiting.terminate().expect("stopped while it waits");
    host.start_agent(&dokkaa_tests::agent::AgentOptions::default())
        .expect("the lab's own agent");
}
