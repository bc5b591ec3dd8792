//! Clients of etcd v2 as they are: python-etcd, `etcdctl`, and the way confd watches.

use dokkaa_tests::needs;
use serde_json::Value;

use crate::client::Client;
use crate::harness::TestServer;

async fn run(program: &str, words: &[&str], environment: &[(&str, &str)]) -> (bool, String) {
    let output = tokio::process::Command::new(program)
        .envs(environment.iter().copied())
        .args(words)
        .output()
        .await
        .expect(program);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let all = text(&output.stdout) + &text(&output.stderr);
    (output.status.success(), all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_etcd_works() {
    let (server, _) = TestServer::in_memory().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/main/python_etcd.py");
    let address = server.address.to_string();
    // Debian's own, which finds Debian's packages.
    let (well, told) = run("/usr/bin/python3", &[script, &address], &[]).await;
    assert!(well && told.ends_with("done\n"), "{told}");
}

async fn etcdctl(server: &TestServer, words: &[&str]) -> (bool, String) {
    let api = format!("http://{}", server.address);
    let words = [&["--endpoints", api.as_str()], words].concat();
    run("etcdctl", &words, &[("ETCDCTL_API", "2")]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_of_version_2_works() {
    needs::check(&[needs::ETCD]).expect("etcdctl");
    let (server, _) = TestServer::in_memory().await;
    let members = format!("member {}", server.address);
    for (words, told) in [
        (&["mk", "/x/y", "1"][..], "1\n"),
        (&["set", "/x/y", "2"], "2\n"),
        (&["update", "--ttl", "100", "/x/y", "3"], "3\n"),
        (&["set", "--swap-with-value", "3", "/x/y", "4"], "4\n"),
        (&["mkdir", "--ttl", "100", "/d"], ""),
        (&["updatedir", "--ttl", "100", "/d"], ""),
        (&["setdir", "/x/e"], ""),
        (
            &["ls", "--recursive", "--sort", "-p", "/"],
            "/d/\n/x/\n/x/e/\n/x/y\n",
        ),
        (&["get", "/x/y"], "4\n"),
        (&["watch", "--after-index", "1", "/x/y"], "1\n"),
        (&["rmdir", "/x/e"], ""),
        (&["rm", "--with-value", "4", "/x/y"], "\n"),
        (&["rm", "--recursive", "/x"], ""),
        (&["ls", "/"], "/d\n"),
    ] {
        let (well, output) = etcdctl(&server, words).await;
        assert!(well, "{words:?}: {output}");
        assert_eq!(output, told, "{words:?}");
    }
    let (well, posted) = etcdctl(&server, &["mk", "--in-order", "/q", "first"]).await;
    assert!(well, "{posted}");
    let listed = server.client.get("/v2/keys/q").await.json();
    assert_eq!(listed["node"]["nodes"][0]["value"], "first");
    for words in [
        &["mk", "/d", "1"][..],
        &["rmdir", "/missing"],
        &["get", "/missing"],
    ] {
        let (well, output) = etcdctl(&server, words).await;
        assert!(!well && output.contains("Error:"), "{words:?}: {output}");
    }
    let (well, listed) = etcdctl(&server, &["member", "list"]).await;
    assert!(well && listed.contains(&members[7..]), "{listed}");
}

/// confd lists a prefix, waits from there on, and lists again when its index is too old.
struct Confd {
    client: Client,
    seen: u64,
}

impl Confd {
    async fn list(&mut self) -> Vec<Value> {
        let listed = self
            .client
            .get("/v2/keys/conf?recursive=true&sorted=true&quorum=true");
        let listed = listed.await;
        self.seen = listed
            .header("x-etcd-index")
            .expect("an index")
            .parse()
            .expect("a number");
        listed.json()["node"]["nodes"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    }

    /// The next change; none if it has to list again.
    async fn next(&mut self) -> Option<Value> {
        let from = self.seen + 1;
        let query = format!("/v2/keys/conf?recursive=true&wait=true&waitIndex={from}");
        let told = self.client.get(&query).await;
        if told.status != 200 {
            assert_eq!(told.error().1, 401);
            return None;
        }
        self.seen = told.index();
        Some(told.json())
    }
}

#[tokio::test]
async fn confd_sees_every_change_or_lists_again() {
    let (server, _) = TestServer::in_memory().await;
    let client = &server.client;
    client.put("/v2/keys/conf/a", "value=1").await;
    let mut confd = Confd {
        client: client.clone(),
        seen: 0,
    };
    assert_eq!(confd.list().await.len(), 1);
    client.put("/v2/keys/conf/b/c", "value=2").await;
    client.put("/v2/keys/other", "value=2").await;
    client.put("/v2/keys/conf/a", "value=3").await;
    client.delete("/v2/keys/conf/b?recursive=true").await;
    for (action, key) in [
        ("set", "/conf/b/c"),
        ("set", "/conf/a"),
        ("delete", "/conf/b"),
    ] {
        let told = confd.next().await.expect("an event");
        assert_eq!(
            (&told["action"], &told["node"]["key"]),
            (&action.into(), &key.into())
        );
    }
    // More than is kept happens elsewhere, while confd is away.
    for n in 0..1100 {
        client.put("/v2/keys/other", &format!("value={n}")).await;
    }
    client.put("/v2/keys/conf/d", "value=4").await;
    assert_eq!(confd.next().await, None);
    assert_eq!(confd.list().await.len(), 2);
    client.put("/v2/keys/conf/e", "value=5").await;
    assert_eq!(
        confd.next().await.expect("an event")["node"]["key"],
        "/conf/e"
    );
}
