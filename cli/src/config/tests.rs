#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use crate::args::settings::{EtcdUser, etcd_user};
use crate::args::{self, Command, LocalCommand, ParseError};

fn machine() -> Machine {
    Machine {
        hostname: "Node-1".to_owned(),
        route_source: Some(IpAddr::from([10, 0, 0, 7])),
        ephemeral: Some(32_768..=60_999),
    }
}

fn on(machine: &Machine, command: &str, args: &[&str]) -> Result<AgentConfig, String> {
    let line: Vec<&str> = ["dokkaa", command].iter().chain(args).copied().collect();
    let cli = args::parse_without_variables(&line).map_err(|error| match error {
        ParseError::Usage(line) => line,
        ParseError::Clap(error) => error.to_string(),
    })?;
    match cli.command {
        Command::Local(LocalCommand::Agent(args)) => agent(*args, machine),
        Command::Local(LocalCommand::Up(args)) => up(args.agent, machine),
        other => panic!("{other:?}"),
    }
    .map_err(|error| error.to_string())
}

fn read(args: &[&str]) -> Result<AgentConfig, String> {
    on(&machine(), "agent", args)
}

fn error(args: &[&str]) -> String {
    read(args).unwrap_err()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn nothing_given_gives_the_defaults() {
    let config = read(&[]).unwrap();
    assert_eq!(config.etcd.endpoints, ["http://127.0.0.1:2379"]);
    assert_eq!(config.docker, PathBuf::from("/var/run/docker.sock"));
    assert_eq!(config.docker_config, PathBuf::from("/root/.docker"));
    assert_eq!(config.host_ip, IpAddr::from([10, 0, 0, 7]));
    assert_eq!(config.name.as_str(), "node-1");
    assert_eq!(config.state_dir, PathBuf::from("/var/lib/dokkaa"));
    assert_eq!(config.domain, "skydns.local");
    assert_eq!(config.keys_listen, [addr("127.0.0.1:4001")]);
    assert_eq!(config.dns_listen, DnsListen::Gateway);
    assert_eq!(config.other_names, OtherNames::default());
    assert_eq!(config.peer_listen, [addr("10.0.0.7:4003")]);
    assert_eq!(config.metrics_listen, [addr("127.0.0.1:4002")]);
    assert_eq!(config.port_range, PortRange::DEFAULT);
    assert_eq!(config.instance_ports, InstancePorts::Peers);
    assert_eq!(config.lease_ttl, Duration::from_secs(6));
    assert_eq!(config.restart_grace, Duration::from_secs(30));
    assert_eq!(config.disk_limits, DiskLimits::default());
    assert_eq!(config.log_format, LogFormat::Text);
    assert!(config.labels.is_empty() && !config.insecure && !config.skydns_publish);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn every_flag_is_read() {
    let config = read(&[
        "--name=flag",
        "--etcd=a:1, b:2",
        "--docker=unix:///tmp/d.sock",
        "--docker-config=/c",
        "--bridge=br0",
        "--host-ip=10.1.1.1",
        "--state-dir=/s",
        "--label=a=1,b=2=3,",
        "--keys-listen=off",
        "--allow-host=a, b",
        "--allow-host=c",
        "--insecure",
        "--skydns-publish",
        "--log-format=json",
        "--log-filter=debug",
        "--domain=Shop.Local.",
        "--disk-limits=50,60",
        "--lease-ttl=1m30s",
        "--restart-grace=0s",
    ])
    .unwrap();
    assert_eq!(config.etcd.endpoints, ["http://a:1", "http://b:2"]);
    assert_eq!(config.docker, PathBuf::from("/tmp/d.sock"));
    assert_eq!(config.docker_config, PathBuf::from("/c"));
    assert_eq!(config.bridge, "br0");
    assert_eq!(config.host_ip, IpAddr::from([10, 1, 1, 1]));
    assert_eq!(config.name.as_str(), "flag");
    assert_eq!(config.state_dir, PathBuf::from("/s"));
    assert_eq!(config.labels["b"], "2=3");
    assert!(config.keys_listen.is_empty() && config.insecure && config.skydns_publish);
    assert_eq!(config.allow_hosts, ["a", "b", "c"]);
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.log_filter, "debug");
    assert_eq!(config.domain, "shop.local");
    let (collect, full) = (50, 60);
    assert_eq!(config.disk_limits, DiskLimits { collect, full });
    assert_eq!(config.lease_ttl, Duration::from_secs(90));
    assert_eq!(config.restart_grace, Duration::ZERO);
}

#[test]
fn listen_flags_take_lists_port_zero_and_off() {
    let config = read(&[
        "--dns-listen",
        "127.0.0.1:0,[::1]:53,172.17.0.1",
        "--metrics-listen",
        "off",
        "--keys-listen",
        "localhost:0",
    ])
    .unwrap();
    assert_eq!(
        config.dns_listen,
        DnsListen::At(vec![
            addr("127.0.0.1:0"),
            addr("[::1]:53"),
            addr("172.17.0.1:53")
        ])
    );
    assert!(config.metrics_listen.is_empty());
    assert_eq!(config.keys_listen, [addr("127.0.0.1:0")]);
    assert!(error(&["--peer-listen", "4003"]).starts_with("--peer-listen: `4003` is not"));
    assert!(error(&["--peer-listen", "10.0.0.1:1,10.0.0.1:1"]).contains("twice"));
}

#[test]
fn resolvers_are_given_for_all_names_or_for_a_zone() {
    let config = read(&[
        "--dns-upstream=10.0.0.2, [2001:db8::1]:5353",
        "--dns-upstream=2001:db8::2",
        "--dns-stub=Corp.Example.=10.0.0.3,lab=10.0.0.4:5353",
        "--dns-stub=corp.example=10.0.0.5",
        "--dns-stub=local=10.0.0.6",
        "--dns-allow=10.0.0.0/8,fd00::/8",
    ]);
    let names = config.unwrap().other_names;
    let upstreams = ["10.0.0.2:53", "[2001:db8::1]:5353", "[2001:db8::2]:53"];
    assert_eq!(names.upstreams, upstreams.map(addr));
    let stubs: Vec<_> = names.stubs.into_iter().collect();
    assert_eq!(
        stubs,
        [
            (
                "corp.example".to_owned(),
                vec![addr("10.0.0.3:53"), addr("10.0.0.5:53")]
            ),
            ("lab".to_owned(), vec![addr("10.0.0.4:5353")]),
            ("local".to_owned(), vec![addr("10.0.0.6:53")]),
        ]
    );
    assert_eq!(names.allowed.len(), 2);
}

#[test]
fn resolvers_that_can_not_be_meant_are_refused() {
    for (args, says) in [
        (
            &["--dns-upstream=dns.example"][..],
            "--dns-upstream: `dns.example` is not a resolver; expected ip",
        ),
        (&["--dns-upstream=10.0.0.2:0"], "a port above 0"),
        (&["--dns-upstream=0.0.0.0"], "must be a unicast address"),
        (
            &["--dns-upstream=10.0.0.2,10.0.0.2:53"],
            "--dns-upstream: 10.0.0.2:53 is listed twice",
        ),
        (
            &["--dns-listen=10.0.0.7:53", "--dns-upstream=10.0.0.7"],
            "--dns-upstream: 10.0.0.7:53 is where this agent's own DNS listens",
        ),
        (
            &["--dns-listen=10.0.0.7:53", "--dns-stub=a=10.0.0.7"],
            "--dns-stub: 10.0.0.7:53 is where this agent's own DNS listens",
        ),
        (
            &["--dns-stub=10.0.0.2"],
            "--dns-stub: `10.0.0.2` is not a zone with its resolver",
        ),
        (&["--dns-stub=a..b=10.0.0.2"], "`a..b` is not a domain name"),
        (&["--dns-stub=a=x"], "--dns-stub: `x` is not a resolver"),
        (&["--dns-stub=a=10.0.0.2,a=10.0.0.2"], "listed twice"),
        (
            &["--dns-stub=skydns.local=10.0.0.2"],
            "own zone skydns.local",
        ),
        (
            &["--dns-stub=a.b=1.1.1.1", "--domain=b"],
            "`a.b` is in the cluster's own zone b (--domain)",
        ),
        (
            &["--dns-allow=10.0.0.1/8"],
            "--dns-allow: `10.0.0.1/8` is inside a network; expected `10.0.0.0/8`",
        ),
        (&["--dns-allow=lan"], "--dns-allow: `lan` is not a network"),
    ] {
        let text = error(args);
        assert!(text.contains(says), "{args:?}: {text}");
    }
    assert!(read(&["--dns-stub=xskydns.local=10.0.0.2"]).is_ok());
}

#[test]
fn an_api_that_others_reach_needs_insecure() {
    assert!(error(&["--keys-listen", "0.0.0.0:4001"]).contains("root on every host"));
    let config = read(&["--keys-listen", "0.0.0.0:4001", "--insecure"]).unwrap();
    assert_eq!(config.warnings.len(), 1);
}

#[test]
fn etcd_endpoints() {
    let config = read(&[
        "--etcd",
        "10.0.0.1,https://db:1/,[::1]:2379",
        "--etcd-ca",
        "ca.pem",
    ])
    .unwrap();
    assert_eq!(
        config.etcd.endpoints,
        [
            "https://10.0.0.1:2379",
            "https://db:1",
            "https://[::1]:2379"
        ]
    );
    assert_eq!(config.warnings, Vec::<String>::new());
    let unix = read(&["--etcd", "unix:///s/c:1"]).unwrap();
    assert_eq!(unix.etcd.endpoints, ["unix:///s/c:1"]);
    assert_eq!(unix.warnings, Vec::<String>::new());

    for wrong in [
        "",
        "ftp://x:1",
        "x:99999",
        "a:1,,b:2",
        "http://x/y",
        "::1",
        "unix://c",
        "x:0",
    ] {
        assert!(
            error(&["--etcd", wrong]).contains("is not an endpoint"),
            "{wrong}"
        );
    }
    assert!(error(&["--etcd", "http://a:1", "--etcd-ca", "x"]).contains("plaintext"));
    assert!(error(&["--etcd", "http://a:1,https://b:1"]).contains("mixed"));
    assert!(error(&["--etcd-cert", "x"]).contains("--etcd-key"));
}

#[test]
fn plaintext_etcd_off_loopback_warns() {
    let warnings = |etcd: &str| read(&["--etcd", etcd]).unwrap().warnings.len();
    assert_eq!(warnings("10.0.0.1:2379"), 1);
    assert_eq!(warnings("127.0.0.1:2379,localhost:1,[::1]:2"), 0);
}

fn user(password: &str) -> Option<EtcdUser> {
    etcd_user(&format!("root:{password}")).ok()
}

#[test]
fn the_password_of_etcd_is_never_shown() {
    let config = read(&["--etcd-user", "root:secret:x"]).unwrap();
    assert_eq!(config.etcd.user, user("secret:x"));
    assert!(!format!("{config:?}").contains("secret"));
    assert_eq!(
        error(&["--etcd-user", "secret"]),
        "--etcd-user: expected name:password"
    );
    let warnings = config.warnings;
    assert!(warnings[0].contains("--etcd-user-file"), "{warnings:?}");
}

#[test]
fn the_user_of_etcd_comes_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("user");
    let name = path.to_str().unwrap();
    let write = |text: &str, mode: u32| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .unwrap();
    };
    write("root:secret:x\n", 0o600);
    let config = read(&["--etcd-user-file", name]).unwrap();
    assert_eq!(config.etcd.user, user("secret:x"));
    assert_eq!(config.warnings, Vec::<String>::new());
    let twice = error(&["--etcd-user-file", name, "--etcd-user", "root:x"]);
    assert!(twice.contains("cannot be used with"), "{twice}");

    write("root:secret", 0o644);
    let config = read(&["--etcd-user-file", name]).unwrap();
    assert!(config.warnings[0].contains("chmod 600"));
    write("secret", 0o600);
    let wrong = error(&["--etcd-user-file", name]);
    assert!(wrong.contains("name:password") && !wrong.contains("secret"));
    assert!(error(&["--etcd-user-file", "/nowhere/u"]).contains("/nowhere/u: "));
}

#[test]
fn labels_are_those_that_constraints_can_name() {
    for (label, says) in [
        ("disk", "expected key=value"),
        ("=x", "expected key=value"),
        ("../x=y", "is not a valid label name"),
        ("a=\u{1b}[31m", "control characters"),
        (&format!("a={}", "x".repeat(257)), "at most 256"),
    ] {
        assert!(error(&["--label", label]).contains(says), "{label}");
    }
    let many: Vec<String> = (0..65).map(|n| format!("--label=l{n}=x")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(error(&many).contains("at most 64"));
    assert!(read(&many[1..]).is_ok());
}

#[test]
fn an_engine_that_is_elsewhere_is_refused_with_what_to_do() {
    for (engine, says) in [
        ("tcp://10.0.0.1:2375", "not an engine on this machine"),
        ("ssh://me@host", "not an engine on this machine"),
        ("unix:///run/user/1000/docker.sock", "rootless"),
        (
            "unix:///home/me/.docker/desktop/docker.sock",
            "Docker Desktop",
        ),
        ("unix://docker.sock", "absolute"),
    ] {
        let text = error(&["--docker", engine]);
        assert!(text.contains(says), "{text}");
        assert!(text.contains("unix:///var/run/docker.sock"), "{text}");
    }
}

#[test]
fn without_a_default_route_the_address_must_be_given() {
    let nowhere = Machine {
        route_source: None,
        ..machine()
    };
    let text = on(&nowhere, "agent", &[]).unwrap_err();
    assert!(text.starts_with("--host-ip: this machine has no default route"));
    assert!(error(&["--host-ip", "0.0.0.0"]).contains("must be a unicast address"));
}

#[test]
fn ports_that_the_world_is_let_to_are_warned_of() {
    let warnings = |args: &[&str]| read(args).unwrap().warnings;
    assert_eq!(warnings(&["--host-ip", "8.8.8.8"]), Vec::<String>::new());
    assert_eq!(
        warnings(&["--instance-ports", "open"]),
        Vec::<String>::new()
    );
    let open = warnings(&["--host-ip", "8.8.8.8", "--instance-ports", "open"]);
    assert!(open[0].contains("reachable from the internet"), "{open:?}");
    let config = read(&["--instance-ports", "open"]).unwrap();
    assert_eq!(config.instance_ports, InstancePorts::Open);
    assert_eq!(
        error(&["--instance-ports", "closed"]),
        "--instance-ports: `closed` is neither peers nor open"
    );
}

#[test]
fn ports_keep_off_the_links_and_warn_of_the_kernel() {
    assert!(error(&["--port-range", "10200-10300"]).contains("where links listen"));
    for wrong in ["x", "2-1", "0-5", "1-70000", "5"] {
        assert!(
            error(&["--port-range", wrong]).contains("is not a port range"),
            "{wrong}"
        );
    }
    let config = read(&["--port-range", "30000-40000"]).unwrap();
    assert_eq!(config.warnings.len(), 1);
}

#[test]
fn other_values_that_are_wrong_name_their_flag() {
    assert!(error(&["--lease-ttl", "4s"]).contains("at least 5s"));
    assert!(error(&["--lease-ttl", "6"]).starts_with("--lease-ttl: `6` has no unit; expected"));
    assert!(error(&["--label", "x"]).contains("key=value"));
    assert!(error(&["--label", "x=1", "--label", "x=2"]).contains("twice"));
    assert!(error(&["--domain", "a..b"]).starts_with("--domain"));
    assert!(error(&["--name", "A_b"]).starts_with("--name"));
    assert_eq!(
        error(&["--log-format", "xml"]),
        "--log-format: `xml` is not one of text, json"
    );
    assert_eq!(
        error(&["--host-ip", "x"]),
        "--host-ip: `x` is not an IP address, such as `10.0.0.1`"
    );
}

#[test]
fn up_has_an_etcd_of_its_own_and_no_peers() {
    let nowhere = Machine {
        route_source: None,
        ..machine()
    };
    let config = on(&nowhere, "up", &[]).unwrap();
    assert!(config.peer_listen.is_empty() && config.own_etcd && config.host_ip_is_gateway);
    assert_eq!((config.etcd.ca, config.warnings), (None, Vec::new()));
    let args = ["--peer-listen", "127.0.0.1:0", "--host-ip", "10.0.0.1"];
    let config = on(&nowhere, "up", &args).unwrap();
    assert_eq!(config.peer_listen, [addr("127.0.0.1:0")]);
    assert!(!config.host_ip_is_gateway);
    for (flag, value) in [("--etcd", "x"), ("--etcd-ca", "x"), ("--etcd-user", "x:y")] {
        assert_eq!(
            on(&nowhere, "up", &[flag, value]).unwrap_err(),
            format!("{flag}: dokkaa up runs an etcd of its own; dokkaa agent joins another")
        );
    }
}

#[test]
fn certificates_that_can_not_be_read_are_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, "x").unwrap();
    let ca = ca.to_str().unwrap();
    let config = read(&["--etcd-ca", ca, "--lease-ttl", "9s"]).unwrap();
    let options = config.etcd.options(config.lease_ttl).unwrap();
    assert_eq!(options.lease_ttl, Duration::from_secs(9));
    let args = ["--etcd-cert", "/nowhere/c", "--etcd-key", ca];
    let etcd = read(&args).unwrap().etcd;
    let error = etcd.options(Duration::ZERO).unwrap_err();
    assert!(error.to_string().starts_with("--etcd-cert: /nowhere/c: "));
}
