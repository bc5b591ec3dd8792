//! The servers that are compared, each a process of its own on a free port of loopback.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use dns::{Config, Dns, Forwarding, Zone};
use dokkaa_tests::needs;
use dokkaa_tests::process::Process;
use listen::Binder;
use tokio_util::sync::CancellationToken;

use super::load::ask_once;
use super::services::{DOMAIN, Services, first_address, name};
use crate::agents::{CAP, on_processor};
use crate::idle::resident_mb;

/// Threads of an agent, at most.
const THREADS: usize = 4;
/// Times a second that a service moves to another host, where they do.
pub(super) const MOVES: u32 = 100;

/// Words by which this program is one of the servers.
pub(crate) const DOKKAA: &str = "name-server";
pub(crate) const ECHO: &str = "echo";

/// A server that answers.
pub(super) struct Server {
    process: Process,
    pub(super) at: SocketAddr,
}

impl Server {
    /// dokkaa's, with so many services of so many instances; one of them moves a hundred times a second.
    pub(super) fn dokkaa(services: usize, instances: u32, moves: bool) -> anyhow::Result<Self> {
        let words = [
            services.to_string(),
            instances.to_string(),
            moves.to_string(),
        ];
        let server = Self::start(DOKKAA, |port, _| {
            let mut command = vec![own_program()?, DOKKAA.to_owned(), port.to_string()];
            command.extend(words);
            Ok(command)
        })?;
        server.knows(services)
    }

    pub(super) fn unbound(services: usize) -> anyhow::Result<Self> {
        let server = Self::start("unbound", |port, folder| {
            let config = folder.join("unbound.conf");
            std::fs::write(&config, unbound_config(port, services)?)?;
            let flags = ["-d".to_owned(), "-c".to_owned(), path(&config)?];
            Ok([vec![program("unbound")?], flags.to_vec()].concat())
        })?;
        server.knows(services)
    }

    pub(super) fn knot(services: usize) -> anyhow::Result<Self> {
        let server = Self::start("knotd", |port, folder| {
            let (config, zone) = (folder.join("knot.conf"), folder.join("zone"));
            std::fs::write(&zone, zone_file(services)?)?;
            std::fs::write(&config, knot_config(port, &path(folder)?))?;
            Ok(vec![program("knotd")?, "-c".to_owned(), path(&config)?])
        })?;
        server.knows(services)
    }

    /// One that sends back what it gets.
    pub(super) fn echo() -> anyhow::Result<Self> {
        let server = Self::start(ECHO, |port, _| {
            Ok(vec![own_program()?, ECHO.to_owned(), port.to_string()])
        })?;
        server.answers(0, |_| Ok(()))
    }

    /// Seconds on a processor since its start.
    pub(super) fn on_processor(&self) -> anyhow::Result<f64> {
        on_processor(self.process.pid())
    }

    pub(super) fn resident_mb(&self) -> anyhow::Result<f64> {
        resident_mb(self.process.pid())
    }

    fn start(
        name: &str,
        command: impl FnOnce(u16, &Path) -> anyhow::Result<Vec<String>>,
    ) -> anyhow::Result<Self> {
        let at = free_port()?;
        // Its end is the end of the process.
        let folder = tempfile::Builder::new()
            .prefix("dokkaa-bench-")
            .tempdir()?
            .keep();
        let words = command(at.port(), &folder)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let process = Process::leashed(name, &words, &folder, &folder.join("log"))?;
        Ok(Self { process, at })
    }

    /// Waits until it has the first and the last of these services, with their addresses.
    fn knows(mut self, services: usize) -> anyhow::Result<Self> {
        for service in [0, services.saturating_sub(1)] {
            self = self.answers(service, |answer| {
                let has = services == 0 || says(answer, first_address(service));
                has.then_some(()).ok_or_else(|| format!("{answer:?}"))
            })?;
        }
        Ok(self)
    }

    fn answers(
        mut self,
        service: usize,
        is_it: impl Fn(&[u8]) -> Result<(), String>,
    ) -> anyhow::Result<Self> {
        let at = self.at;
        self.process.wait_while_running("its answer", CAP, || {
            ask_once(at, service).and_then(|answer| is_it(&answer))
        })?;
        Ok(self)
    }
}

/// An answer, and this address is among its records.
pub(super) fn says(answer: &[u8], address: IpAddr) -> bool {
    let IpAddr::V4(address) = address else {
        return false;
    };
    answer.get(3).is_some_and(|code| code % 16 == 0)
        && answer.windows(4).any(|octets| octets == address.octets())
}

/// dokkaa's server, as an agent runs it: on a port, until it is killed.
pub(crate) fn serve(words: &[String]) -> anyhow::Result<()> {
    let [port, services, instances, moves] = words else {
        bail!("a name server needs a port, services, instances, and whether they move");
    };
    let (services, moves): (usize, bool) = (services.parse()?, moves.parse()?);
    let mut all = Services::new(services, instances.parse()?)?;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse()?));
    let threads = std::thread::available_parallelism()?.get();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.min(THREADS))
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let directory = Arc::new(ArcSwap::from_pointee(all.directory.clone()));
        let handle = Dns::start(
            config(listen)?,
            Arc::clone(&directory),
            CancellationToken::new(),
        );
        let mut clock = tokio::time::interval(Duration::from_secs(1) / MOVES);
        for turn in 1.. {
            clock.tick().await;
            if !moves {
                break;
            }
            // Each service moves in its turn, not the one that was asked for.
            let (service, moved) = (turn % services, turn / services + 1);
            all.place(service, moved)?;
            directory.store(Arc::new(all.directory.clone()));
        }
        handle.stopped().await;
        Ok(())
    })
}

/// Of a server that answers at once.
pub(super) fn config(listen: SocketAddr) -> anyhow::Result<Config> {
    let begin = CancellationToken::new();
    begin.cancel();
    Ok(Config {
        listen: vec![listen],
        zone: Zone::new(DOMAIN, [listen.ip()])?,
        records: Arc::default(),
        forwarding: Forwarding::default(),
        bridges: Vec::new(),
        allowed: Vec::new(),
        binder: Binder::default(),
        begin,
    })
}

/// The least that a server over UDP does.
pub(crate) fn echo(words: &[String]) -> anyhow::Result<()> {
    let [port] = words else {
        bail!("an echo needs a port");
    };
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port.parse()?))?;
    let mut packet = [0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut packet)?;
        socket.send_to(&packet[..length], client)?;
    }
}

fn unbound_config(port: u16, services: usize) -> anyhow::Result<String> {
    let mut config = format!(
        "server:\n interface: 127.0.0.1@{port}\n port: {port}\n num-threads: 1\n \
         do-ip6: no\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n use-syslog: no\n \
         module-config: \"iterator\"\n local-zone: \"{DOMAIN}.\" static\n"
    );
    for service in 0..services {
        let (name, address) = (name(service), first_address(service));
        writeln!(config, " local-data: \"{name}.{DOMAIN}. 1 IN A {address}\"")?;
    }
    config.push_str("remote-control:\n control-enable: no\n");
    Ok(config)
}

fn knot_config(port: u16, folder: &str) -> String {
    format!(
        "server:\n  rundir: {folder}\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  \
         tcp-workers: 1\n  background-workers: 1\ndatabase:\n  storage: {folder}\n\
         log:\n  - target: stderr\n    any: warning\n\
         zone:\n  - domain: {DOMAIN}\n    file: {folder}/zone\n    journal-content: none\n"
    )
}

fn zone_file(services: usize) -> anyhow::Result<String> {
    let mut zone = format!(
        "$ORIGIN {DOMAIN}.\n$TTL 1\n@ SOA ns hostmaster 1 3600 3600 3600 1\n@ NS ns\n\
         ns A 127.0.0.1\n"
    );
    for service in 0..services {
        writeln!(zone, "{} A {}", name(service), first_address(service))?;
    }
    Ok(zone)
}

fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn program(name: &str) -> anyhow::Result<String> {
    let found = needs::find(name);
    let found = found.with_context(|| {
        format!("{name} is not on this machine; install it with: scripts/setup.sh up test bench")
    })?;
    path(&found)
}

fn own_program() -> anyhow::Result<String> {
    path(&std::env::current_exe()?)
}

fn path(path: &Path) -> anyhow::Result<String> {
    Ok(path.to_str().context("a path that is no text")?.to_owned())
}
