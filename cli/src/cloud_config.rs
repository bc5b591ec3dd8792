//! `dokkaa cloud-config`: prints user data for new hosts, or the agent's unit.
//!
//! It reads the certificates it is told to, and writes to standard output only.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use cloud_config::{Binary, Command, Etcd, Options, Tls, Unit};

const EXAMPLES: &str = "Examples:
  dokkaa cloud-config --format cloud-init \\
      --discovery https://discovery.example/3f8a
  dokkaa cloud-config --format coreos --etcd https://10.0.0.9:2379 \\
      --etcd-ca ca.pem --etcd-cert host.pem --etcd-key host.key
  dokkaa cloud-config --format unit -- --etcd https://10.0.0.9:2379 \\
      > /etc/systemd/system/dokkaa.service

Certificates and the password are part of the user data; on the host they are
files readable by root only. Anyone who can read the user data on the platform
has access to etcd, and with it to every host.";

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// User data for CoreOS Container Linux and Flatcar
    Coreos,
    /// User data for Debian and Ubuntu
    CloudInit,
    /// systemd unit of the agent, with the flags after `--`
    Unit,
    /// systemd unit of `dokkaa up`, with the flags after `--`
    UpUnit,
}

/// What `cloud-config` takes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CloudConfigArgs {
    /// What to print
    #[arg(long, value_enum)]
    format: Format,
    /// Discovery URL of etcd: every host runs a member
    #[arg(long, value_name = "URL", conflicts_with = "etcd")]
    discovery: Option<String>,
    /// Endpoints of an etcd that runs elsewhere
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    etcd: Vec<String>,
    /// CA certificate of etcd, PEM
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    etcd_ca: Option<PathBuf>,
    /// Client certificate of the agent, PEM; with --discovery that of the etcd members
    #[arg(long, value_name = "FILE", requires_all = ["etcd_ca", "etcd_key"])]
    etcd_cert: Option<PathBuf>,
    /// Key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    etcd_key: Option<PathBuf>,
    /// File with the etcd user of the agent, as name:password
    #[arg(long, value_name = "FILE", requires = "etcd")]
    etcd_user_file: Option<PathBuf>,
    /// URL to download dokkaa from; without it, it has to be on the host already
    #[arg(long, value_name = "URL", requires = "binary_sha256")]
    binary_url: Option<String>,
    /// SHA-256 of the download, in hex
    #[arg(long, value_name = "SUM", requires = "binary_url")]
    binary_sha256: Option<String>,
    /// Program that a unit runs [default: the one that prints it]
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    program: Option<String>,
    /// More flags of the agent
    #[arg(last = true, value_name = "AGENT FLAGS")]
    agent_flags: Vec<String>,
}

/// Prints it.
pub(crate) fn run(args: CloudConfigArgs) -> anyhow::Result<ExitCode> {
    if !args.says_where_etcd_is() {
        writeln!(
            io::stderr().lock(),
            "error: user data needs --discovery <URL> or --etcd <LIST>"
        )?;
        return Ok(ExitCode::from(2));
    }
    if args.program.is_some() && !args.is_unit() {
        let mut err = io::stderr().lock();
        writeln!(
            err,
            "error: --program is for units; user data installs its own"
        )?;
        return Ok(ExitCode::from(2));
    }
    let text = match args.format {
        Format::Unit => args.unit(Command::Agent)?,
        Format::UpUnit => args.unit(Command::Up)?,
        Format::Coreos => cloud_config::coreos(&options(args)?)?,
        Format::CloudInit => cloud_config::cloud_init(&options(args)?)?,
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

impl CloudConfigArgs {
    /// User data says it; a unit has only the flags after `--`.
    fn says_where_etcd_is(&self) -> bool {
        self.is_unit() || self.discovery.is_some() || !self.etcd.is_empty()
    }

    fn is_unit(&self) -> bool {
        matches!(self.format, Format::Unit | Format::UpUnit)
    }

    /// The package's program is elsewhere than one that was copied: who prints a unit for this machine has its path.
    fn unit(self, command: Command) -> anyhow::Result<String> {
        let program = if let Some(program) = self.program {
            program
        } else {
            let this = std::env::current_exe().context("cannot find this program")?;
            let path = this.into_os_string().into_string();
            path.ok().context("this program's path is not UTF-8")?
        };
        Ok(cloud_config::unit(&Unit {
            program,
            ..Unit::new(command, self.agent_flags)
        })?)
    }
}

fn options(args: CloudConfigArgs) -> anyhow::Result<Options> {
    let etcd = match args.discovery {
        Some(url) => Etcd::Discovery(url),
        None => Etcd::Elsewhere(args.etcd),
    };
    let tls = match (args.etcd_ca, args.etcd_cert, args.etcd_key) {
        (Some(ca), Some(cert), Some(key)) => Some(Tls {
            ca: read(&ca)?,
            cert: read(&cert)?,
            key: read(&key)?,
        }),
        _ => None,
    };
    let binary = match (args.binary_url, args.binary_sha256) {
        (Some(url), Some(sha256)) => Some(Binary { url, sha256 }),
        _ => None,
    };
    let etcd_user = args.etcd_user_file.as_deref().map(read).transpose()?;
    Ok(Options {
        etcd,
        tls,
        binary,
        etcd_user: etcd_user.map(|user| user.trim_end().to_owned()),
        agent_flags: args.agent_flags,
    })
}

/// systemd takes no other.
fn absolute(path: &str) -> Result<String, String> {
    if !path.starts_with('/') {
        return Err("not an absolute path".to_owned());
    }
    Ok(path.to_owned())
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: CloudConfigArgs,
    }

    fn parse(line: &str) -> Result<CloudConfigArgs, clap::Error> {
        let words = std::iter::once("cloud-config").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args)
    }

    #[test]
    fn user_data_says_where_etcd_is_a_unit_need_not() {
        let says = |line: &str| parse(line).expect("read").says_where_etcd_is();
        assert!(!says("--format coreos"));
        assert!(says("--format coreos --discovery https://d/x"));
        assert!(says("--format cloud-init --etcd 10.0.0.1:1,10.0.0.2:1"));
        assert!(says("--format up-unit"));
        assert!(parse("--format coreos --etcd a:1 --discovery https://d/x").is_err());
        let unit = parse("--format unit -- --etcd https://10.0.0.9:1 --label a=b").expect("read");
        assert_eq!(
            unit.agent_flags,
            ["--etcd", "https://10.0.0.9:1", "--label", "a=b"]
        );
    }

    #[test]
    fn a_unit_runs_the_program_that_prints_it_or_the_named_one() {
        let unit = |line: &str| {
            let args = parse(line).expect("read");
            let text = args.unit(Command::Agent).expect("a unit");
            let command = text
                .lines()
                .find_map(|line| line.strip_prefix("ExecStart="));
            command.expect("a command").to_owned()
        };
        let this = std::env::current_exe().expect("this test");
        assert_eq!(
            unit("--format unit -- -q"),
            format!("{} agent -q", this.display())
        );
        assert_eq!(
            unit("--format unit --program /usr/bin/dokkaa"),
            "/usr/bin/dokkaa agent"
        );
        assert!(parse("--format unit --program dokkaa").is_err());
    }

    #[test]
    fn certificates_and_binaries_are_whole_or_absent() {
        let base = "--format coreos --etcd a:1";
        for half in [
            "--etcd-ca x",
            "--etcd-cert x",
            "--etcd-ca x --etcd-key y",
            "--binary-url https://x",
            "--binary-sha256 x",
        ] {
            assert!(parse(&format!("{base} {half}")).is_err(), "{half}");
        }
        let all = "--etcd-ca x --etcd-cert y --etcd-key z --binary-url u --binary-sha256 s";
        assert!(parse(&format!("{base} {all}")).is_ok());
    }
}
