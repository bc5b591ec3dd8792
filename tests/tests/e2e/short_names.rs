//! Short names in containers cost one query for each type, in the resolvers that are in use.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::engine::Container;
use dokkaa_tests::host::Host;
use dokkaa_tests::process::Ran;
use dokkaa_tests::{images, needs, resolver, wait_for};
use serde_json::json;

use super::{App, CAP, Cluster, web, with};

/// Prints the first address that the C library has for a name.
const LOOKUP: &str = r"
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int count, char **words) {
    struct addrinfo wish = { .ai_socktype = SOCK_STREAM }, *found;
    char text[64];
    int error = getaddrinfo(words[count - 1], 0, &wish, &found);
    if (error) {
        puts(gai_strerror(error));
        return 1;
    }
    getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
    puts(text);
}
";
/// The compiler of each C library, and what the program is called in the container.
const C_LIBRARIES: [(&str, &str); 2] = [("cc", "/bin/glibc"), ("musl-gcc", "/bin/musl")];
/// Docker's own network with a name, where it puts its resolver in between.
const NAMED: &str = "named";
/// How often a cost is taken.
const TRIES: usize = 3;

/// Addresses of services of the app `asking` and of another.
struct Found {
    db: String,
    other: String,
}

/// A container that looks names up, and where it runs.
struct Client<'a> {
    app: &'a App,
    host: &'static Host,
    container: Container,
}

/// Two apps, each with a service `db`.
fn services(app: &App, other: &App) -> Found {
    let addr = |app: &App| {
        app.put("db", &with(web("page"), "services", json!({"db": 80})));
        app.ready("db", 1)[0].0.address().to_string()
    };
    Found {
        db: addr(app),
        other: addr(other),
    }
}

impl<'a> Client<'a> {
    fn put(app: &'a App) -> Self {
        let manifest = json!({
            "image": images::UBUNTU,
            "stop_signal": "SIGKILL",
            "command": ["sleep", "1000"],
        });
        app.put("client", &manifest);
        let (host, container) = app.ready("client", 1).remove(0);
        Self {
            app,
            host,
            container,
        }
    }

    /// Lays the programs into the container.
    fn equip(&self) {
        needs::check(&[needs::C_LIBRARIES]).expect("compilers");
        let folder = tempfile::tempdir().expect("a folder");
        let source = folder.path().join("lookup.c");
        std::fs::write(&source, LOOKUP).expect("written");
        let copy = |program: &Path, to: &str| {
            let to = format!("{}:{to}", self.container.id);
            self.host
                .docker(&["cp", &program.display().to_string(), &to])
                .expect("copied");
        };
        for (compiler, to) in C_LIBRARIES {
            let program = folder.path().join(compiler);
            let mut compile = Command::new(compiler);
            // The other one has glibc as its image does.
            if compiler == "musl-gcc" {
                compile.arg("-static");
            }
            compile.arg("-o").arg(&program).arg(&source);
            Ran::run(compile, None).and_then(Ran::ok).expect("compiled");
            copy(&program, to);
        }
        copy(&needs::find("docker").expect("docker"), "/bin/go");
    }

    fn exec(&self, words: &[&str]) -> Result<String, String> {
        self.app.exec("client", 0, words)
    }

    /// What this costs in queries for addresses, by type and code: the least of some tries, since a query that is sent again
    /// only adds.
    fn cost(&self, mut work: impl FnMut()) -> BTreeMap<String, i64> {
        let costs = (0..TRIES).map(|_| self.cost_once(&mut work));
        costs
            .min_by_key(|cost| cost.values().sum::<i64>())
            .unwrap_or_default()
    }

    fn cost_once(&self, work: impl FnOnce()) -> BTreeMap<String, i64> {
        let before = queries(self.host);
        work();
        let mut after = queries(self.host);
        for (labels, count) in &mut after {
            *count -= before.get(labels).copied().unwrap_or_default();
        }
        after.retain(|_, count| *count != 0);
        after
    }

    /// The C libraries look a name up with so many queries.
    #[track_caller]
    fn costs(&self, name: &str, addr: Option<&str>, wanted: &BTreeMap<String, i64>) {
        for (_, program) in C_LIBRARIES {
            let mut said = Err(String::new());
            let cost = self.cost(|| said = self.exec(&[program, name]));
            assert_eq!(cost, *wanted, "{program} {name}: {said:?}");
            let said = said.as_deref().map(str::trim).ok();
            assert_eq!(said, addr, "{program} {name}");
        }
    }

    /// Docker's client, which is written in Go, tries to connect to a name, once or more.
    fn connections(&self, name: &str) -> BTreeMap<String, i64> {
        let to = format!("tcp://{name}:1");
        let go = ["env", "GODEBUG=netdns=go", "/bin/go", "-H", &to, "version"];
        let mut said = Ok(String::new());
        let cost = self.cost(|| said = self.exec(&go));
        let said = said.expect_err("nothing is there");
        assert!(!said.contains("no such host"), "{name}: {said}");
        cost
    }

    /// What each resolver asks for.
    fn measure(&self, found: &Found) {
        let one = counts("NOERROR", 1);
        let site = resolver::ANSWER.to_string();
        // So that a connection fails at once.
        let at_host = |verb| format!("ip addr {verb} {site}/32 dev lo");
        self.host.sh(&at_host("add")).expect("an address");
        for (name, addr, in_full) in [
            ("db", &found.db, "db.asking.skydns.local."),
            ("db.asked", &found.other, "db.asked.skydns.local."),
            ("site.example", &site, "site.example."),
            ("www.site.example", &site, "www.site.example."),
        ] {
            self.costs(name, Some(addr), &one);
            let cost = self.connections(in_full);
            assert_eq!(self.connections(name), cost, "Go, {name}");
            let times = cost.values().next().copied().unwrap_or_default();
            assert_eq!(cost, counts("NOERROR", times), "Go, {in_full}");
        }
        self.host.sh(&at_host("del")).expect("deleted");
        // Below the app, and as it is.
        self.costs("no.such", None, &counts("NXDOMAIN", 2));
    }
}

/// So many queries of each type.
fn counts(code: &str, count: i64) -> BTreeMap<String, i64> {
    let labels = |kind| format!("type=\"{kind}\",code=\"{code}\"");
    ["A", "AAAA"]
        .map(|kind| (labels(kind), count))
        .into_iter()
        .collect()
}

/// Queries for addresses that the agent of a host has answered, by type and code.
fn queries(host: &Host) -> BTreeMap<String, i64> {
    let metrics = host.metrics().expect("metrics");
    let counted = metrics.lines().filter_map(|line| {
        let counted = line.strip_prefix("dokkaa_dns_queries_total{")?;
        let (labels, count) = counted.split_once("} ")?;
        Some((labels.to_owned(), count.parse().ok()?))
    });
    counted
        .filter(|(labels, _)| labels.starts_with("type=\"A\"") || labels.contains("\"AAAA\""))
        .collect()
}

#[test]
fn a_short_name_costs_one_query_for_each_type() {
    let cluster = Cluster::take();
    let (app, other) = (cluster.app("asking"), cluster.app("asked"));
    let found = services(&app, &other);
    let client = Client::put(&app);
    client.equip();
    let asked_before = cluster.lab.resolver().asked().len();
    client.measure(&found);
    client.costs("nosuch", None, &counts("NXDOMAIN", 2));
    // Others hear of their own names alone.
    let asked = cluster.lab.resolver().asked().split_off(asked_before);
    let is_theirs =
        |name: &String| name.ends_with(".example.") || ["nosuch.", "no.such."].contains(&&**name);
    assert!(asked.iter().all(is_theirs), "{asked:?}");

    // The host gets what is there.
    let at = format!("@{}", client.host.gateway().expect("a gateway"));
    for name in [
        "db.asked.asking.skydns.local",
        "site.example.asking.skydns.local",
    ] {
        let found = client.host.dig(&[&at, name, "A"]).expect("dig");
        assert_eq!(found, [""; 0], "{name}");
    }
    let said = client.host.dokkaa(&["dns", "db.asked.asking.skydns.local"]);
    let said = said.and_then(Ran::ok).expect("explained");
    assert!(said.contains("an alias of db.asked.skydns.local"), "{said}");
}

#[test]
fn dockers_resolver_in_between_changes_nothing() {
    let cluster = Cluster::take();
    let (app, other) = (cluster.app("asking"), cluster.app("asked"));
    let found = services(&app, &other);
    let Client { host, .. } = Client::put(&app);
    host.docker(&["network", "create", NAMED]).expect("created");
    host.stop_agent().expect("stopped");
    host.start_agent(&AgentOptions {
        arguments: vec![format!("--bridge={NAMED}")],
        ..AgentOptions::default()
    })
    .expect("started");
    let container = wait_for("the client on that network", CAP, || {
        let running = app.running("client");
        let (_, one) = running.first().ok_or("it does not run")?;
        let seen = host.engine().inspect(&one.id);
        let seen = seen.map_err(|error| format!("{error:#}"))?;
        let network = &seen["HostConfig"]["NetworkMode"];
        (network == NAMED)
            .then(|| one.clone())
            .ok_or_else(|| network.to_string())
    });
    app.ready("db", 1);
    let client = Client {
        app: &app,
        host,
        container,
    };
    let resolv = client.exec(&["cat", "/etc/resolv.conf"]);
    let resolv = resolv.expect("resolv.conf");
    for line in ["nameserver 127.0.0.11", "search asking.skydns.local"] {
        assert!(resolv.lines().any(|one| one == line), "{resolv}");
    }
    assert!(resolv.contains("ndots:2"), "{resolv}");
    client.equip();
    client.measure(&found);

    // Names of others are answered since the question comes from the container's own address, and times are the agent's.
    let pid = host
        .engine()
        .inspect(&client.container.id)
        .expect("inspect");
    let dig = "dig +noall +answer @127.0.0.11 site.example.asking.skydns.local";
    let dig = format!("nsenter -t {} -n {dig}", pid["State"]["Pid"]);
    let said = host.sh(&dig).expect("dig");
    let records: Vec<Vec<&str>> = said
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let [alias, address] = &records[..] else {
        panic!("{said}");
    };
    assert_eq!(alias[1..], ["1", "IN", "CNAME", "site.example."]);
    assert_eq!(address[2..], ["IN", "A", &resolver::ANSWER.to_string()]);
    let left: u32 = address[1].parse().expect("a TTL");
    assert!(left <= 60, "{said}");

    host.stop_agent().expect("stopped");
    host.start_agent(&AgentOptions::default()).expect("started");
    drop((app, other));
    host.docker(&["network", "rm", NAMED]).expect("removed");
}
