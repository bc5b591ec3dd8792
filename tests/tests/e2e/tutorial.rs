//! The tutorial, word for word.

use dokkaa_tests::{images, resolver, wait_for};

use super::{CAP, Cluster, output, resolved};
use dokkaa_tests::process::Ran;

const NGINX: &str = r#"{"image": "dockerfile/nginx", "scale": 1, "services": {"nginx": 80}}
"#;
const CRAWLER: &str = r#"{"image": "dockerfile/ubuntu", "scale": 1,
 "command": ["/bin/bash", "-c", "while true; do curl http://$SERVICE_NGINX_ADDR:$SERVICE_NGINX_PORT; sleep 2; done"],
 "links": ["nginx"]}
"#;
const PUT_NGINX: &str = r#"curl -L -XPUT -d value="`cat nginx.json`" http://127.0.0.1:4001/v2/keys/apps/dummy/nginx/manifest"#;
const PUT_CRAWLER: &str = r#"curl -L -XPUT --data-urlencode value="`cat crawler.json`" http://127.0.0.1:4001/v2/keys/apps/dummy/crawler/manifest"#;

#[test]
fn nginx_on_one_host_is_crawled_from_another() {
    let cluster = Cluster::take();
    let app = cluster.app("dummy");
    let here = cluster.lab.host(1);
    let asked_before = cluster.lab.resolver().asked().len();
    here.node()
        .run_with(
            &["sh", "-c", "cat >/root/nginx.json"],
            Some(NGINX.as_bytes()),
        )
        .and_then(Ran::ok)
        .expect("nginx.json");
    here.node()
        .run_with(
            &["sh", "-c", "cat >/root/crawler.json"],
            Some(CRAWLER.as_bytes()),
        )
        .and_then(Ran::ok)
        .expect("crawler.json");
    let answer = here
        .sh(&format!("cd /root && {PUT_NGINX}"))
        .expect("PUT nginx");
    assert!(answer.contains(r#""action":"set""#), "{answer}");
    here.sh(&format!("cd /root && {PUT_CRAWLER}"))
        .expect("PUT crawler");

    // Each has the name the tutorial says, on a host of its own.
    let (nginx_host, nginx) = app.ready("nginx", 1).remove(0);
    let (crawler_host, crawler) = app.ready("crawler", 1).remove(0);
    assert_eq!(nginx.name, "dummy---nginx");
    assert_eq!(crawler.name, "dummy---crawler");
    assert_ne!(nginx_host.name(), crawler_host.name());
    assert_eq!(app.rows("nginx").expect("rows")[0].host, nginx_host.name());

    // The crawler shows nginx's page.
    wait_for("nginx's page in the crawler's log", CAP, || {
        let log = crawler_host
            .docker(&["logs", "dummy---crawler"])
            .map_err(|error| error.to_string())?;
        if log.contains(images::WELCOME) {
            Ok(())
        } else {
            Err(output(crawler_host, &crawler.id))
        }
    });

    // The published port is at the host's address and nowhere else.
    let ports = nginx_host.engine().inspect(&nginx.id).expect("inspect")["NetworkSettings"]
        ["Ports"]["80/tcp"]
        .clone();
    assert_eq!(ports.as_array().map(Vec::len), Some(1), "{ports}");
    assert_eq!(ports[0]["HostIp"], nginx_host.address().to_string());
    let port = ports[0]["HostPort"].as_str().expect("a port").to_owned();

    // DNS knows it on every host, address and port.
    let name = app.domain("nginx");
    resolved(cluster.lab, &name, "A", &[nginx_host.address().to_string()]);
    for host in cluster.lab.hosts() {
        let at = format!("@{}", host.gateway().expect("gateway"));
        let service = host.dig(&[&at, &name, "SRV"]).expect("dig");
        let [record] = service.as_slice() else {
            panic!("one SRV record on {}: {service:?}", host.name());
        };
        let words: Vec<&str> = record.split(' ').collect();
        assert_eq!(words[2], port, "{record}");
        let target = host.dig(&[&at, words[3], "A"]).expect("dig");
        assert_eq!(target, [nginx_host.address().to_string()], "{record}");
        // A server that refuses UDP's short answers is asked by TCP.
        let by_tcp = host.dig(&["+tcp", &at, &name, "A"]).expect("dig");
        assert_eq!(by_tcp, [nginx_host.address().to_string()]);
    }

    // A container resolves names by itself: in full, short, and from outside.
    for (name, address) in [
        (name.as_str(), nginx_host.address()),
        ("nginx", nginx_host.address()),
        ("www.example", resolver::ANSWER),
    ] {
        let found = app
            .exec("crawler", 0, &["getent", "hosts", name])
            .expect(name);
        assert!(found.starts_with(&address.to_string()), "{name}: {found}");
    }
    let asked = cluster.lab.resolver().asked();
    assert!(asked[asked_before..].contains(&"www.example.".to_owned()));
    let leaked: Vec<&String> = asked[asked_before..]
        .iter()
        .filter(|name| name.to_ascii_lowercase().ends_with("skydns.local."))
        .collect();
    assert!(leaked.is_empty(), "asked outside: {leaked:?}");

    // Every agent shows both.
    for host in cluster.lab.hosts() {
        let shown = host.dokkaa(&["ps", "dummy"]).and_then(Ran::ok).expect("ps");
        for word in ["nginx", "crawler", "ready", nginx_host.name()] {
            assert!(shown.contains(word), "{}: {shown}", host.name());
        }
    }

    // Deleted, they go, with their names and claims.
    app.delete("nginx");
    app.delete("crawler");
    app.gone("nginx");
    app.gone("crawler");
    resolved(cluster.lab, &name, "A", &[]);
    wait_for("the end of its claims", CAP, || {
        let left = cluster
            .lab
            .etcd()
            .list("/claims/dummy/")
            .map_err(|error| error.to_string())?;
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
}

/// Two slots go to the hosts that have the fewest containers, counting those
/// that dokkaa did not start.
#[test]
fn foreign_containers_count_when_slots_are_placed() {
    let cluster = Cluster::take();
    let app = cluster.app("places");
    let busy = cluster.lab.host(2);
    let foreign: Vec<String> = (0..3)
        .map(|_| {
            busy.docker(&["run", "--detach", "busybox", "sleep", "1000"])
                .expect("a foreign container")
                .trim()
                .to_owned()
        })
        .collect();
    wait_for("h2 to count them", CAP, || {
        let record = cluster
            .lab
            .etcd()
            .get("/hosts/h2/record")
            .map_err(|error| error.to_string())?
            .unwrap_or_default();
        if record.contains(r#""foreign":3"#) {
            Ok(())
        } else {
            Err(record)
        }
    });
    app.put("web", &super::with(super::web("x"), "scale", 4.into()));
    let mut hosts: Vec<&str> = app
        .ready("web", 4)
        .iter()
        .map(|(host, _)| host.name())
        .collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["h1", "h1", "h3", "h3"]);
    for id in &foreign {
        assert!(busy.engine().has(id), "a foreign container is left alone");
        busy.engine().remove(id).expect("remove");
    }
    wait_for("h2 to count none", CAP, || {
        let record = cluster
            .lab
            .etcd()
            .get("/hosts/h2/record")
            .map_err(|error| error.to_string())?
            .unwrap_or_default();
        if record.contains(r#""foreign":3"#) {
            Err(record)
        } else {
            Ok(())
        }
    });
}
