//! `check`: what is reached from where.

use super::*;

/// A port that says its token on loopback, for as long as the test runs.
async fn check_port(token: &str) -> (CheckPort, tokio::task::JoinHandle<()>) {
    use tokio::io::AsyncWriteExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = CheckPort {
        at: Some(listener.local_addr().unwrap()),
        token: token.to_owned(),
        range: "20000-20009".to_owned(),
        firewall: "ufw".to_owned(),
    };
    let says = token.to_owned();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(says.as_bytes()).await.unwrap();
        }
    });
    (port, task)
}

#[tokio::test]
async fn each_host_is_tried_from_each_and_what_is_wrong_comes_with_a_command() {
    let kv = MemKv::new();
    let [h2, h4] = ["h2", "h4"].map(|host| MemAgent::new(host, kv.clone()));
    let api = api(&[&h2, &h4], &kv, 0);
    for host in ["h1", "h2", "h3", "h4"] {
        api.agent.put_member(host);
        if host != "h3" {
            api.agent.put_host(host, None);
        }
    }
    // It answers, but nothing says the token of h4's agent.
    let (port, _first) = check_port("one").await;
    api.agent.set_check_port(port.clone());
    h2.set_check_port(port);
    let (port, task) = check_port("other").await;
    h4.set_check_port(CheckPort {
        token: "else!".to_owned(),
        ..port.clone()
    });
    let (status, body) = api.send("POST", "/check", "").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let check: HostsCheck = serde_json::from_value(body).unwrap();
    let tries: Vec<String> = check
        .tries
        .iter()
        .map(|one| format!("{}>{} {:?} {}", one.from, one.to, one.port, one.result))
        .collect();
    // Those are asked whom the other hosts know: h1 is not among them.
    for expected in [
        "h1>h2 Peer open",
        "h1>h2 Instance open",
        "h1>h4 Peer open",
        "h1>h4 Instance wrong",
        "h2>h1 Peer refused",
        "h2>h1 Instance unknown",
        "h4>h2 Instance open",
    ] {
        assert!(
            tries.contains(&expected.to_owned()),
            "{expected}: {tries:#?}"
        );
    }
    assert_eq!(tries.len(), 12);
    let wrong: Vec<String> = check
        .problems
        .iter()
        .map(|problem| {
            let from: Vec<&str> = problem.from.iter().map(HostName::as_str).collect();
            format!("{} > {}", from.join("+"), problem.to)
        })
        .collect();
    assert_eq!(wrong, ["h2+h4 > h1", "h1+h2 > h4", " > h3"]);

    // A port that nobody listens on any more.
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    let (_, body) = api.send("POST", "/check", "").await;
    let check: HostsCheck = serde_json::from_value(body).unwrap();
    let refused = check
        .problems
        .iter()
        .find(|problem| problem.to.as_str() == "h4");
    let refused = refused.expect("a problem");
    assert!(refused.problem.contains("is refused"), "{refused:?}");
    assert_eq!(
        refused.help.as_deref(),
        Some(
            "on h4: ufw allow proto tcp from 10.0.0.1 to any port 20000:20009 && \
             ufw allow proto tcp from 10.0.0.1 to any port 20000:20009"
        )
    );
}

#[tokio::test]
async fn a_ready_instance_is_tried_where_there_is_one() {
    let kv = MemKv::new();
    let h2 = MemAgent::new("h2", kv.clone());
    let api = api(&[&h2], &kv, 0);
    api.agent.put_host("h1", None);
    api.agent.put_host("h2", None);
    let manifest = r#"{"image": "a", "services": {"web": 80}}"#;
    let revision = api.agent.put_manifest(&web(), manifest);
    let slot = web().slot(0);
    api.agent.claim(&slot, "h2", revision);
    let port = [("web", 20_001)];
    api.agent.put_state(&slot, "h2", Phase::Ready, &port);
    let (_, body) = api.send("POST", "/check", "").await;
    let check: HostsCheck = serde_json::from_value(body).unwrap();
    let of_slot = |one: &&Tried| one.slot.as_ref() == Some(&slot);
    let tried = check
        .tries
        .iter()
        .find(of_slot)
        .expect("the instance's port");
    assert_eq!(tried.at, Some("10.0.0.1:20001".parse().unwrap()));
    assert_eq!(
        (tried.from.as_str(), tried.port),
        ("h1", CheckedPort::Instance)
    );
}
