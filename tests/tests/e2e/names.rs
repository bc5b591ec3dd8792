//! Names in DNS besides those of services.

use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::{images, resolver, wait_for};

use super::{CAP, Cluster, resolved, web};

#[test]
fn an_app_a_host_and_records_of_others_have_names_on_every_host() {
    let cluster = Cluster::take();
    let lab = cluster.lab;
    let app = cluster.app("named");
    app.put("web", &web("page"));
    let host = app.ready("web", 1)[0].0;
    let addr = host.address().to_string();
    for name in ["named.skydns.local", "*.named.skydns.local"] {
        resolved(lab, name, "A", std::slice::from_ref(&addr));
    }
    let its_name = format!("{}.hosts.skydns.local.", host.name());
    resolved(lab, &its_name, "A", std::slice::from_ref(&addr));
    let octets: Vec<&str> = addr.rsplit('.').collect();
    let reverse = format!("{}.in-addr.arpa", octets.join("."));
    resolved(lab, &reverse, "PTR", &[its_name]);

    let put = |name: &str, value: &str| {
        let key = format!("/skydns/local/skydns/{name}");
        lab.etcd().put(&key, value).expect("put");
    };
    put("outside/db", r#"{"host": "192.0.2.9", "port": 5432}"#);
    resolved(lab, "outside.skydns.local", "A", &["192.0.2.9".to_owned()]);
    let service = "10 100 5432 db.outside.skydns.local.".to_owned();
    resolved(lab, "db.outside.skydns.local", "SRV", &[service]);
    put("outside/www", r#"{"host": "www.example"}"#);
    let answer = [resolver::ANSWER.to_string(), "www.example.".to_owned()];
    resolved(lab, "www.outside.skydns.local", "A", &answer);
    // A service has its name for itself.
    put("named/web", r#"{"host": "192.0.2.9"}"#);
    put("named/db", r#"{"host": "192.0.2.10"}"#);
    resolved(
        lab,
        "db.named.skydns.local",
        "A",
        &["192.0.2.10".to_owned()],
    );
    resolved(lab, &app.domain("web"), "A", &[addr]);

    for name in ["outside/db", "outside/www", "named/web", "named/db"] {
        let key = format!("/skydns/local/skydns/{name}");
        lab.etcd().delete(&key).expect("deleted");
    }
    resolved(lab, "outside.skydns.local", "A", &[]);
}

/// Its resolver is the agent, whatever Docker has in between.
#[test]
fn a_container_of_any_bridge_network_is_answered_and_not_of_an_internal_one() {
    let cluster = Cluster::take();
    let host = cluster.lab.host(1);
    let at = format!("@{}", host.gateway().expect("a gateway"));
    let networks = [("another", ""), ("kept", "--internal")];
    let mut pids = Vec::new();
    for (network, option) in networks {
        let create = ["network", "create", option, network];
        let create: Vec<&str> = create.into_iter().filter(|word| !word.is_empty()).collect();
        host.docker(&create).expect("created");
        let run = ["run", "-d", "--name", network, "--network", network];
        let words = [&run[..], &[images::BUSYBOX, "sleep", "3600"]].concat();
        host.docker(&words).expect("run");
        let seen = host.engine().inspect(network).expect("inspect");
        pids.push(seen["State"]["Pid"].to_string());
    }
    let status = |pid: &str, name: &str| {
        let dig = format!("nsenter -t {pid} -n dig +time=2 +tries=2 {at} {name} A");
        let said = host.sh(&dig).map_err(|error| format!("{error:#}"))?;
        let status = said
            .split_once("status: ")
            .and_then(|(_, rest)| rest.split_once(','));
        Ok::<_, String>(status.ok_or(said.clone())?.0.to_owned())
    };
    let is = |pid: &str, name: &str, wanted: &str| {
        let status = status(pid, name)?;
        (status == wanted).then_some(()).ok_or(status)
    };
    let [another, kept] = &pids[..] else {
        panic!("{pids:?}");
    };
    // The engine tells of a new network; a question before that is refused.
    wait_for("names of others to be answered", CAP, || {
        is(another, "site.example", "NOERROR")
    });
    for pid in [another, kept] {
        is(pid, "ns.skydns.local", "NOERROR").expect("the zone");
    }
    is(kept, "site.example", "REFUSED").expect("nothing outside");
    let asked = status(another, "site.example.nosuch.skydns.local");
    assert_eq!(
        asked.as_deref(),
        Ok("NXDOMAIN"),
        "nothing is searched for it"
    );

    for (network, _) in networks {
        host.docker(&["rm", "-f", network]).expect("removed");
        host.docker(&["network", "rm", network]).expect("removed");
    }
}

#[test]
fn a_host_publishes_its_records_while_it_lives() {
    let cluster = Cluster::take();
    let app = cluster.app("published");
    app.put("web", &web("page"));
    let host = app.ready("web", 1)[0].0;
    let key = "/skydns/local/skydns/published/web/0";
    let value = || cluster.lab.etcd().get(key).expect("etcd");
    host.stop_agent().expect("stopped");
    host.start_agent(&AgentOptions {
        arguments: vec!["--skydns-publish".to_owned()],
        ..AgentOptions::default()
    })
    .expect("started");
    let addr = host.address().to_string();
    wait_for("its record", CAP, || match value() {
        Some(value) if value.contains(&addr) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    resolved(cluster.lab, &app.domain("web"), "A", &[addr]);
    let said = host.dokkaa(&["dns", "web.published"]).expect("dokkaa");
    let said = said.ok().expect("explained");
    assert!(
        said.contains("the ready instances of service web"),
        "{said}"
    );
    // Agents don't read what agents have written.
    assert!(!said.contains("/skydns"), "{said}");

    host.stop_agent().expect("stopped");
    wait_for("its end", CAP, || value().map_or(Ok(()), Err));
    host.start_agent(&AgentOptions::default()).expect("started");
}
