//! `dns install` and `dns uninstall`: the names of the cluster for the host itself.
//!
//! Where systemd-resolved answers, a drop-in routes the zone to the agent; for other resolvers the lines are printed.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use gateway::v1::types::DnsServer;

use super::client::Client;
use super::error::CommandError;
use super::output;
use crate::args::{DnsInstallArgs, GlobalArgs};

/// resolved.conf(5), from the root of the file system.
const DROP_IN: &str = "etc/systemd/resolved.conf.d/dokkaa.conf";
/// resolved.conf(5): folders of `resolved.conf`, of which the first that is there counts, and of `resolved.conf.d`, where
/// one hides those of its name in later folders.
const CONFIGURED: [&str; 4] = [
    "etc/systemd",
    "run/systemd",
    "usr/local/lib/systemd",
    "usr/lib/systemd",
];
const RESOLVED: &str = "systemd-resolved";
/// Exists while systemd-resolved runs.
const RESOLVED_RUNS: &str = "run/systemd/resolve/resolv.conf";
const DNS_PORT: u16 = 53;

/// What answers the host's own questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolver {
    Resolved,
    Dnsmasq,
    Unbound,
    Resolvconf,
    /// The C library asks what `/etc/resolv.conf` names.
    File,
}

pub(super) async fn install(
    args: &DnsInstallArgs,
    global: &GlobalArgs,
) -> Result<(), CommandError> {
    let server: DnsServer = Client::new(global)?.get("dns").await?;
    let root = Path::new("/");
    let resolver = Resolver::of(root);
    let lines = resolver.lines(&server).map_err(CommandError::Failed)?;
    if let Some(warning) = multicast(root, &server.domain) {
        output::note(&warning);
    }
    let others = match resolver {
        Resolver::Resolved => global_servers(root),
        _ => None,
    };
    if args.print || resolver != Resolver::Resolved {
        if let Some(others) = &others {
            output::note(others);
        }
        output::print(&format!("{}\n{lines}", resolver.how()))?;
        if !args.print {
            return Err(CommandError::Failed(
                "nothing was changed: this host's resolver is not systemd-resolved, and its \
                 configuration is yours to edit, as above"
                    .to_owned(),
            ));
        }
        return Ok(());
    }
    if let Some(others) = others {
        return Err(CommandError::Failed(format!(
            "nothing was changed: {others}"
        )));
    }
    let path = root.join(DROP_IN);
    if std::fs::read_to_string(&path).is_ok_and(|present| present == lines) {
        return output::print(&format!(
            "{} is there already: names below {} go to the agent\n",
            path.display(),
            server.domain
        ));
    }
    write(&path, &lines)?;
    restart()?;
    output::print(&format!(
        "{} is written: names below {} go to the agent\nTry: resolvectl query ns.{}\n",
        path.display(),
        server.domain,
        server.domain
    ))
}

pub(super) fn uninstall() -> Result<(), CommandError> {
    let path = Path::new("/").join(DROP_IN);
    match std::fs::remove_file(&path) {
        Ok(()) => {
            restart()?;
            output::print(&format!("{} is removed\n", path.display()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => output::print(&format!(
            "{} is not there; lines for another resolver go by hand\n",
            path.display()
        )),
        Err(error) => Err(failed(&path, &error)),
    }
}

fn write(path: &Path, text: &str) -> Result<(), CommandError> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, text))
        .map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &std::io::Error) -> CommandError {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => "; run it as root",
        _ => "",
    };
    CommandError::Failed(format!("{}: {error}{hint}", path.display()))
}

fn restart() -> Result<(), CommandError> {
    let ended = Command::new("systemctl")
        .args(["restart", RESOLVED])
        .status();
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(CommandError::Failed(format!(
            "systemctl restart {RESOLVED} ended with {status}"
        ))),
        Err(error) => Err(CommandError::Failed(format!("systemctl: {error}"))),
    }
}

impl Resolver {
    fn of(root: &Path) -> Self {
        let is_there = |path: &str| root.join(path).exists();
        if is_there(RESOLVED_RUNS) {
            Self::Resolved
        } else if is_there("run/dnsmasq") || is_there("run/dnsmasq.pid") {
            Self::Dnsmasq
        } else if is_there("run/unbound.pid") || is_there("run/unbound.ctl") {
            Self::Unbound
        } else if is_there("etc/resolvconf") {
            Self::Resolvconf
        } else {
            Self::File
        }
    }

    /// What is to be done with the lines.
    fn how(self) -> &'static str {
        match self {
            Self::Resolved => {
                "# /etc/systemd/resolved.conf.d/dokkaa.conf; then: systemctl restart systemd-resolved"
            }
            Self::Dnsmasq => "# /etc/dnsmasq.d/dokkaa.conf; then: systemctl restart dnsmasq",
            Self::Unbound => {
                "# /etc/unbound/unbound.conf.d/dokkaa.conf; then: unbound-control reload"
            }
            Self::Resolvconf => {
                "# First in /etc/resolvconf/resolv.conf.d/head; then: resolvconf -u\n\
                 # The agent forwards all other names to the resolvers below it."
            }
            Self::File => {
                "# First in /etc/resolv.conf.\n\
                 # The agent forwards all other names to the resolvers below it."
            }
        }
    }

    /// The lines of its configuration.
    fn lines(self, server: &DnsServer) -> Result<String, String> {
        let domain = &server.domain;
        let servers: Vec<SocketAddr> = reachable(&server.listen);
        let first = servers
            .first()
            .ok_or("the agent answers no DNS at present; `dokkaa hosts` says why")?;
        let all = |show: &dyn Fn(&SocketAddr) -> String, between: &str| {
            let shown: Vec<String> = servers.iter().map(show).collect();
            shown.join(between)
        };
        Ok(match self {
            Self::Resolved => {
                let shown = all(&|addr| with_port(*addr, ":", true), " ");
                format!("[Resolve]\nDNS={shown}\nDomains=~{domain}\n")
            }
            Self::Dnsmasq => all(
                &|addr| format!("server=/{domain}/{}\n", with_port(*addr, "#", false)),
                "",
            ),
            Self::Unbound => {
                let forward = |addr: &SocketAddr| {
                    format!("    forward-addr: {}\n", with_port(*addr, "@", false))
                };
                let own = if first.ip().is_loopback() {
                    "    do-not-query-localhost: no\n"
                } else {
                    ""
                };
                format!(
                    "server:\n    domain-insecure: \"{domain}\"\n{own}forward-zone:\n    name: \"{domain}\"\n{}",
                    all(&forward, "")
                )
            }
            Self::Resolvconf | Self::File => {
                if first.port() != DNS_PORT {
                    return Err(format!(
                        "the agent answers on port {}, and resolv.conf knows port {DNS_PORT} only: start it with --dns-listen {}:{DNS_PORT}",
                        first.port(),
                        first.ip()
                    ));
                }
                format!("nameserver {}\n", first.ip())
            }
        })
    }
}

/// Addresses that this host can ask: of a wildcard its loopback.
fn reachable(listen: &[SocketAddr]) -> Vec<SocketAddr> {
    let asked = |addr: &SocketAddr| match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            SocketAddr::new([127, 0, 0, 1].into(), addr.port())
        }
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), addr.port())
        }
        _ => *addr,
    };
    listen.iter().map(asked).collect()
}

/// The port where it is not the usual one, behind the resolver's own mark.
fn with_port(addr: SocketAddr, mark: &str, brackets: bool) -> String {
    match addr {
        _ if addr.port() == DNS_PORT => addr.ip().to_string(),
        SocketAddr::V6(_) if brackets => format!("[{}]{mark}{}", addr.ip(), addr.port()),
        _ => format!("{}{mark}{}", addr.ip(), addr.port()),
    }
}

/// Why the drop-in would not do: systemd-resolved has other servers for all interfaces, and asks one of all of these at a
/// time, whatever the name.
fn global_servers(root: &Path) -> Option<String> {
    let folders = CONFIGURED.map(|folder| root.join(folder));
    let mut main = folders.iter().map(|folder| folder.join("resolved.conf"));
    let mut files: Vec<PathBuf> = main.find(|path| path.exists()).into_iter().collect();
    let mut drop_ins = BTreeMap::new();
    for folder in &folders {
        let Ok(entries) = std::fs::read_dir(folder.join("resolved.conf.d")) else {
            continue;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|it| it == "conf") {
                let name = path.file_name().map(ToOwned::to_owned);
                drop_ins.entry(name).or_insert(path);
            }
        }
    }
    files.extend(drop_ins.into_values());
    let own = root.join(DROP_IN);
    let mut servers: Vec<(String, PathBuf)> = Vec::new();
    for path in files.into_iter().filter(|path| *path != own) {
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let set = text.lines().filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == "DNS").then(|| value.trim().to_owned())
        });
        for value in set {
            // An empty one takes back those before it.
            if value.is_empty() {
                servers.clear();
            } else {
                servers.push((value, path.clone()));
            }
        }
    }
    let (value, path) = servers.first()?;
    Some(format!(
        "systemd-resolved has servers for all interfaces already (DNS={value} in {}), and would ask any of \
         them for the cluster's names, too. Give them to the network interface instead (DNS= in its .network \
         file, nameservers in netplan; until the next boot: resolvectl dns INTERFACE {value}), and try again",
        path.display()
    ))
}

/// Programs of this host ask multicast DNS for such names first.
fn multicast(root: &Path, domain: &str) -> Option<String> {
    let switch: PathBuf = root.join("etc/nsswitch.conf");
    let is_asked = std::fs::read_to_string(switch).is_ok_and(|text| {
        let mut hosts = text.lines().filter(|line| line.starts_with("hosts:"));
        hosts.any(|line| line.contains("mdns"))
    });
    let avahi = root.join("run/avahi-daemon").exists();
    let last = domain.rsplit('.').next().unwrap_or_default();
    (last.eq_ignore_ascii_case("local") && (is_asked || avahi)).then(|| {
        format!(
            "names that end in .local are multicast DNS's (RFC 6762), which this host asks, too: if they \
             don't resolve, start all agents with another --domain, such as --domain dokkaa.internal; it is {domain} now"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(listen: &[&str]) -> DnsServer {
        DnsServer {
            domain: "skydns.local".to_owned(),
            listen: listen
                .iter()
                .map(|addr| addr.parse().expect("addr"))
                .collect(),
            ..DnsServer::default()
        }
    }

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            write(&root.path().join(name), text).expect("written");
        }
        root
    }

    #[test]
    fn each_resolver_has_its_lines() {
        let bridge = server(&["172.17.0.1:53"]);
        let lines = |resolver: Resolver, server: &DnsServer| resolver.lines(server).expect("lines");
        assert_eq!(
            lines(Resolver::Resolved, &bridge),
            "[Resolve]\nDNS=172.17.0.1\nDomains=~skydns.local\n"
        );
        let two = server(&["0.0.0.0:5353", "[::]:5353"]);
        assert_eq!(
            lines(Resolver::Resolved, &two),
            "[Resolve]\nDNS=127.0.0.1:5353 [::1]:5353\nDomains=~skydns.local\n"
        );
        assert_eq!(
            lines(Resolver::Dnsmasq, &two),
            "server=/skydns.local/127.0.0.1#5353\nserver=/skydns.local/::1#5353\n"
        );
        let unbound = lines(Resolver::Unbound, &two);
        assert!(
            unbound.contains("    forward-addr: 127.0.0.1@5353\n"),
            "{unbound}"
        );
        assert!(unbound.contains("do-not-query-localhost: no"), "{unbound}");
        assert!(!lines(Resolver::Unbound, &bridge).contains("localhost"));
        assert_eq!(lines(Resolver::File, &bridge), "nameserver 172.17.0.1\n");
    }

    #[test]
    fn what_can_not_be_written_is_said() {
        let why = Resolver::File.lines(&server(&["172.17.0.1:5353"]));
        assert!(
            why.expect_err("no port there")
                .contains("--dns-listen 172.17.0.1:53")
        );
        let why = Resolver::Resolved.lines(&server(&[]));
        assert!(why.expect_err("nothing to ask").contains("no DNS"));
    }

    #[test]
    fn the_resolver_is_found_by_what_runs() {
        for (file, resolver) in [
            (RESOLVED_RUNS, Resolver::Resolved),
            ("run/dnsmasq/dnsmasq.pid", Resolver::Dnsmasq),
            ("run/unbound.pid", Resolver::Unbound),
            ("etc/resolvconf/interface-order", Resolver::Resolvconf),
            ("etc/resolv.conf", Resolver::File),
        ] {
            assert_eq!(Resolver::of(root(&[(file, "")]).path()), resolver, "{file}");
        }
    }

    #[test]
    fn other_servers_for_all_interfaces_are_found() {
        let main = "etc/systemd/resolved.conf";
        let found = |files: &[(&str, &str)]| global_servers(root(files).path());
        let none: [&[(&str, &str)]; 5] = [
            &[],
            &[(main, "[Resolve]\n#DNS=1.1.1.1\nFallbackDNS=9.9.9.9\n")],
            &[(DROP_IN, "[Resolve]\nDNS=172.17.0.1\n")],
            &[
                (main, "[Resolve]\nDNS=1.1.1.1\n"),
                ("etc/systemd/resolved.conf.d/none.conf", "[Resolve]\nDNS=\n"),
            ],
            &[
                (
                    "usr/lib/systemd/resolved.conf.d/a.conf",
                    "[Resolve]\nDNS=1.1.1.1\n",
                ),
                ("etc/systemd/resolved.conf.d/a.conf", ""),
            ],
        ];
        for files in none {
            assert_eq!(found(files), None, "{files:?}");
        }
        for (file, text) in [
            (main, "[Resolve]\nDNS = 1.1.1.1\n"),
            ("usr/lib/systemd/resolved.conf", "[Resolve]\nDNS=1.1.1.1\n"),
            (
                "run/systemd/resolved.conf.d/a.conf",
                "[Resolve]\nDNS=\nDNS=1.1.1.1\n",
            ),
        ] {
            let why = found(&[(file, text)]).expect(file);
            assert!(
                why.contains(&format!("{file})")) && why.contains("DNS=1.1.1.1"),
                "{why}"
            );
        }
    }

    #[test]
    fn multicast_dns_is_noticed_for_local_names_only() {
        let switch = "hosts: files mdns4_minimal [NOTFOUND=return] dns\n";
        let asks = root(&[("etc/nsswitch.conf", switch)]);
        let warning = multicast(asks.path(), "skydns.local").expect("a warning");
        assert!(warning.contains("--domain dokkaa.internal"), "{warning}");
        assert_eq!(multicast(asks.path(), "dokkaa.internal"), None);
        let avahi = root(&[("run/avahi-daemon/pid", "")]);
        assert!(multicast(avahi.path(), "skydns.local").is_some());
        let plain = root(&[("etc/nsswitch.conf", "hosts: files dns\n")]);
        assert_eq!(multicast(plain.path(), "skydns.local"), None);
    }
}
