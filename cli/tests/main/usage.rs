//! Flags, variables and help: what is refused, and what is taught.

use super::completion::completed;
use super::*;

#[test]
fn who_comes_from_other_tools_is_told_what_there_is() {
    let api = TestApi::open();
    for (command, hint) in [
        ("run", "dokkaa apply"),
        ("kill", "dokkaa stop"),
        ("deployments", "dokkaa rollout"),
        ("resume", "dokkaa rollout resume"),
        ("exec", "docker exec"),
        ("describe", "dokkaa why"),
        ("delete", "dokkaa rm"),
        ("cordon", "dokkaa drain"),
        ("job", "dokkaa apply"),
        ("node", "dokkaa hosts"),
        ("alloc", "dokkaa ps"),
        ("compose", "dokkaa apply"),
        ("service", "dokkaa apps"),
        ("stack", "dokkaa apps"),
        ("env", "etcd-env"),
        ("hosts delete", "dokkaa hosts rm"),
    ] {
        let words: Vec<&str> = command.split(' ').chain(["shop/web"]).collect();
        let ended = api.run(&words).with(2);
        assert!(ended.err.contains(hint), "{}", ended.err);
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    }
    // dokkaa has these, of an app and a container.
    for args in [
        &["get", "pods"][..],
        &["get", "nodes"],
        &["scale", "web", "3"],
        &["scale", "web=3"],
        &["rm"],
    ] {
        let ended = api.run(args).with(2);
        assert!(ended.err.to_lowercase().contains("app"), "{}", ended.err);
    }
    // Nothing like it: the parser's own words.
    api.run(&["frobnicate"]).with(2);
    let addr = format!("http://{}", api.addr);
    let ended = Ended::of(
        dokkaa(&["--addr", &addr, "-o", "json", "ps"])
            .output()
            .unwrap(),
    );
    assert_eq!(ended.with(0).json()["slots"], serde_json::json!([]));

    api.file("shop/web.json", WEB);
    let ended = api.run(&["apply", "shop", "shop/web.json"]).with(2);
    assert!(ended.err.contains("names an app"), "{}", ended.err);
    let ended = api.run(&["apply", "shop"]).with(2);
    assert!(ended.err.contains("dokkaa apply ."), "{}", ended.err);
    for args in [&["events", "nope"][..], &["events", "-f", "nope"]] {
        let ended = api.run(args).with(1);
        assert_eq!(ended.err, "there is no app nope\n");
    }
    let ended = api.run(&["events"]).with(0);
    assert_eq!(
        (ended.out.as_str(), ended.err.as_str()),
        ("", "no events (--since 1h)\n")
    );
    let quiet = api.run(&["-q", "events"]).with(0);
    assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("", ""));
}

#[test]
fn wrong_usage_and_wrong_configuration_are_exit_code_2() {
    let api = TestApi::open();
    for args in [
        &["nothing"][..],
        &["ps", "--nothing"],
        &["ps", "Shop"],
        &["ps", "--addr", "https://h"],
        &["scale", "shop/web=many"],
        &["logs", "shop/web/x"],
        &["agent", "--host-ip", "x"],
        &["agent", "--docker", "tcp://10.0.0.1:2375"],
        &["agent", "--keys-listen", "0.0.0.0:0"],
        &["up", "--etcd", "127.0.0.1:1"],
    ] {
        let ended = api.run(args).with(2);
        assert_eq!(ended.out, "", "{args:?}");
        assert!(!ended.err.is_empty(), "{args:?}");
    }
    let ended = api.run(&["agent", "--lease-ttl", "1s"]).with(2);
    assert_eq!(ended.err, "--lease-ttl: `1s` is too short; at least 5s\n");
}

/// What an agent says that is to start with these variables and flags.
fn refusal(command: &str, variables: &[(&str, &str)], flags: &[&str]) -> String {
    let mut command = dokkaa(&[command]);
    command.args(flags).envs(variables.iter().copied());
    Ended::of(command.output().unwrap()).with(2).err
}

#[test]
fn a_wrong_variable_is_named_and_a_flag_wins_over_it() {
    for (variable, flag, wrong, right, says) in [
        (
            "ETCD_ADDR",
            "--etcd",
            "ftp://x",
            "x:1",
            "is not an endpoint",
        ),
        (
            "DOKKAA_ETCD_USER",
            "--etcd-user",
            "x",
            "x:y",
            "expected name:password",
        ),
        (
            "DOKKAA_LEASE_TTL",
            "--lease-ttl",
            "1s",
            "1m30s",
            "at least 5s",
        ),
        (
            "DOKKAA_RESTART_GRACE",
            "--restart-grace",
            "1w",
            "2d",
            "expected a duration",
        ),
        (
            "DOCKER_HOST",
            "--docker",
            "tcp://h:1",
            "/d.sock",
            "not an engine on this machine",
        ),
        (
            "DOKKAA_PORT_RANGE",
            "--port-range",
            "x",
            "1-2",
            "20000-29999",
        ),
        (
            "DOKKAA_INSTANCE_PORTS",
            "--instance-ports",
            "x",
            "open",
            "peers nor open",
        ),
        ("DOKKAA_DISK_LIMITS", "--disk-limits", "9", "8,9", "85,95"),
        (
            "HOST_IP",
            "--host-ip",
            "x",
            "10.0.0.1",
            "is not an IP address",
        ),
        ("DOKKAA_NAME", "--name", "A_b", "a", "`A_b`"),
        (
            "DOKKAA_LABELS",
            "--label",
            "a=1,b",
            "a=1,b=2",
            "expected key=value",
        ),
        (
            "DOKKAA_KEYS_LISTEN",
            "--keys-listen",
            "x",
            "0.0.0.0:0",
            "127.0.0.1:4001",
        ),
        (
            "DOKKAA_DNS_LISTEN",
            "--dns-listen",
            "x",
            "off",
            "127.0.0.1:53",
        ),
        (
            "DOKKAA_PEER_LISTEN",
            "--peer-listen",
            "x",
            "off",
            "127.0.0.1:4003",
        ),
        (
            "DOKKAA_METRICS_LISTEN",
            "--metrics-listen",
            "x",
            "off",
            "127.0.0.1:4002",
        ),
        ("DOKKAA_DOMAIN", "--domain", "a..b", "a.b", "`a..b`"),
        (
            "DOKKAA_DNS_UPSTREAM",
            "--dns-upstream",
            "x",
            "10.0.0.2,[::1]:5353",
            "`x` is not a resolver",
        ),
        (
            "DOKKAA_DNS_STUB",
            "--dns-stub",
            "10.0.0.2",
            "a.b=10.0.0.2",
            "expected zone=ip",
        ),
        (
            "DOKKAA_DNS_ALLOW",
            "--dns-allow",
            "10.1.0.0/8",
            "10.0.0.0/8",
            "expected `10.0.0.0/8`",
        ),
        (
            "DOKKAA_LOG_FORMAT",
            "--log-format",
            "xml",
            "json",
            "not one of text, json",
        ),
    ] {
        // Refused for its API, once all else is read.
        let open = ["--host-ip=10.0.0.1", "--name=a", "--keys-listen=0.0.0.0:0"];
        let others: Vec<&str> = open
            .into_iter()
            .filter(|one| !one.starts_with(flag))
            .collect();
        let said = refusal("agent", &[(variable, wrong)], &others);
        assert!(said.starts_with(&format!("{variable}: ")), "{said}");
        assert!(said.contains(says), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        let given = [&others[..], &[flag, right]].concat();
        let said = refusal("agent", &[(variable, wrong)], &given);
        assert!(said.starts_with("--keys-listen: whoever reaches"), "{said}");
        let said = refusal("agent", &[(variable, "")], &[&open[..], &[]].concat());
        assert!(
            said.starts_with("--keys-listen: whoever reaches"),
            "{variable}: {said}"
        );
    }
    let insecure = refusal("agent", &[("DOKKAA_INSECURE", "maybe")], &[]);
    assert_eq!(
        insecure,
        "DOKKAA_INSECURE: `maybe` is neither true nor false\n"
    );
    let cert = refusal("agent", &[("DOKKAA_ETCD_CERT", "x")], &[]);
    assert!(cert.contains("--etcd-key"), "{cert}");
    // The etcd of others is none of its business.
    let others = [("ETCD_ADDR", "ftp://x"), ("DOKKAA_ETCD_CERT", "x")];
    let said = refusal("up", &others, &["--keys-listen=0.0.0.0:0"]);
    assert!(said.starts_with("--keys-listen: whoever reaches"), "{said}");
}

#[test]
fn the_example_s_missing_etcd_is_named_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state").display().to_string();
    let mut command = dokkaa(&["up", "--example", "--state-dir", &state]);
    command.args(["--etcd-program", "no-such-etcd"]);
    let said = Ended::of(command.output().unwrap()).with(1).err;
    assert!(said.contains("apt-get install etcd-server"), "{said}");
    assert!(!folder.path().join("state").exists());
}

#[test]
fn a_machine_gets_an_identity_of_its_own_where_it_has_one() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let reset = |code| {
        let output = dokkaa(&["reset-id", "--state-dir", state]).output();
        Ended::of(output.unwrap()).with(code)
    };
    let file = folder.path().join("host.json");
    let said = reset(1).err;
    assert!(said.contains("host.json"), "{said}");
    assert_eq!(std::fs::read_dir(state).unwrap().count(), 0);
    std::fs::write(&file, "{").unwrap();
    let id = reset(0).out;
    let id = id.split(' ').nth(6).unwrap();
    assert!(std::fs::read_to_string(&file).unwrap().contains(id), "{id}");
}

#[test]
fn help_teaches_by_example_and_completion_knows_the_commands() {
    let commands = [
        "validate",
        "plan",
        "diff",
        "apply",
        "get",
        "set",
        "scale",
        "history",
        "rollback",
        "rollout",
        "restart",
        "stop",
        "start",
        "ps",
        "hosts",
        "status",
        "logs",
        "rm",
        "why",
        "dns",
        "completion",
        "up",
        "down",
        "etcd-env",
        "agent",
        "reset-id",
        "cloud-config",
    ];
    let offered = completed(dokkaa(&[]), &[""]);
    for command in commands {
        let help = Ended::of(dokkaa(&[command, "--help"]).output().unwrap()).with(0);
        assert!(help.out.contains("Examples:"), "{command}");
        assert!(offered.iter().any(|name| name == command), "{command}");
    }
    let version = Ended::of(dokkaa(&["version"]).output().unwrap()).with(0);
    assert_eq!(
        version.out,
        format!("dokkaa {}\n", env!("CARGO_PKG_VERSION"))
    );
    let metrics: BTreeMap<&str, &str> =
        [("--metrics-listen", "4002"), ("--keys-listen", "4001")].into();
    let agent = Ended::of(dokkaa(&["agent", "--help"]).output().unwrap()).with(0);
    for (flag, default) in metrics {
        assert!(agent.out.contains(flag) && agent.out.contains(default));
    }
}
