//! Who may enter, and what a door does not write.

use super::Cluster;

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const KEY: &str = "/v2/keys/apps/strangers/web/manifest";
const BODY: &str = "value=%7B%22image%22%3A%22busybox%22%7D";

#[test]
fn a_web_page_of_somebody_else_writes_nothing() {
    let cluster = Cluster::shared();
    let host = cluster.lab.host(1);
    for (header, status) in [
        (("Origin", "http://evil.example"), 403),
        (("Sec-Fetch-Site", "cross-site"), 403),
    ] {
        let answer = host
            .door("PUT", KEY, &[FORM, header], BODY)
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
    let answer = host.door("GET", KEY, &[], "").expect("an answer");
    assert_eq!(answer.status, 404, "{answer:?}");
}

#[test]
fn what_agents_write_can_be_read_and_not_written() {
    let cluster = Cluster::shared();
    let host = cluster.lab.host(1);
    for key in [
        "/claims/a/b/slots/0",
        "/hosts/h1/record",
        "/dokkaa/cluster",
        "/status/a/b/0",
        "/acks/h1",
        "/v2meta/apps",
        "/apps/a/b/c/d",
    ] {
        let answer = host
            .door("PUT", &format!("/v2/keys{key}"), &[FORM], BODY)
            .expect("an answer");
        assert_eq!(answer.status, 403, "{key}: {answer:?}");
        assert_eq!(answer.json().expect("JSON")["errorCode"], 110, "{key}");
    }
    let record = host
        .door("GET", "/v2/keys/hosts/h1/record", &[], "")
        .expect("an answer");
    assert_eq!(record.status, 200, "{record:?}");
    // Any other key is the user's own.
    let answer = host
        .door("PUT", "/v2/keys/mine/1", &[FORM], "value=x")
        .expect("an answer");
    assert_eq!(answer.status, 201, "{answer:?}");
    let answer = host
        .door("DELETE", "/v2/keys/mine/1", &[], "")
        .expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// From another host and from a container the control door is not there.
#[test]
fn the_control_door_is_on_loopback_only() {
    let cluster = Cluster::shared();
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
