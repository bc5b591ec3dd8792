//! The systemd unit that runs the agent.

use crate::files::{ETCD_USER, tls_paths};
use crate::options::{ConfigError, Etcd, Options, no_password, one_line};

/// Command of the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// The agent of a host in a cluster.
    Agent,
    /// A single-machine cluster with an embedded etcd.
    Up,
}

/// Options of the unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The command.
    pub command: Command,
    /// Path of `dokkaa`.
    pub program: String,
    /// Flags of the command, one word each.
    pub flags: Vec<String>,
    /// Environment, in order.
    pub environment: Vec<(String, String)>,
    /// Units to start after, besides Docker and the network.
    pub after: Vec<String>,
    /// Commands before each start, as words; all must succeed.
    pub before_start: Vec<Vec<String>>,
}

impl Unit {
    /// A unit with flags, for the program at its usual path.
    pub fn new(command: Command, flags: Vec<String>) -> Self {
        Self {
            command,
            program: "/usr/local/bin/dokkaa".into(),
            flags,
            environment: Vec::new(),
            after: Vec::new(),
            before_start: Vec::new(),
        }
    }
}

/// `dokkaa.service` of an agent: `base` with the options; `set_etcd` adds the endpoints.
pub(crate) fn agent_unit(
    options: &Options,
    mut base: Unit,
    (etcd_unit, fetch): (&str, &str),
    set_etcd: impl FnOnce(&mut Unit, String),
) -> Result<String, ConfigError> {
    match &options.etcd {
        Etcd::Discovery(_) => {
            set_etcd(&mut base, "127.0.0.1:2379".to_owned());
            base.after.push(etcd_unit.to_owned());
        }
        Etcd::Elsewhere(endpoints) => {
            set_etcd(&mut base, endpoints.join(","));
            if options.tls.is_some() {
                let paths = tls_paths();
                base.flags.extend([
                    format!("--etcd-ca={}", paths.ca),
                    format!("--etcd-cert={}", paths.cert),
                    format!("--etcd-key={}", paths.key),
                ]);
            }
        }
    }
    if options.etcd_user.is_some() {
        base.flags.push(format!("--etcd-user-file={ETCD_USER}"));
    }
    base.flags.extend(options.agent_flags.iter().cloned());
    if options.binary.is_some() {
        base.before_start.push(vec![fetch.to_owned()]);
    }
    unit(&base)
}

/// Text of `dokkaa.service`.
pub fn unit(unit: &Unit) -> Result<String, ConfigError> {
    let (description, command, stop_rules) = match unit.command {
        Command::Agent => ("dokkaa agent", "agent", AGENT_STOP_RULES),
        Command::Up => ("dokkaa, a single-machine cluster", "up", UP_STOP_RULES),
    };
    let mut lines = vec!["[Unit]".to_owned(), format!("Description={description}")];
    let mut after = vec!["network-online.target", "docker.service"];
    after.extend(unit.after.iter().map(String::as_str));
    lines.push(format!("Wants={}", after.join(" ")));
    lines.push(format!("After={}", after.join(" ")));
    lines.extend(["StartLimitIntervalSec=0", "", "[Service]", "Type=notify"].map(str::to_owned));
    for (name, value) in &unit.environment {
        one_line(value)?;
        lines.push(format!(
            "Environment={}",
            quoted(&format!("{name}={value}"))?
        ));
    }
    for words in &unit.before_start {
        lines.push(format!("ExecStartPre={}", command_line(words)?));
    }
    no_password(&unit.flags)?;
    let mut words = vec![unit.program.clone(), command.to_owned()];
    words.extend(unit.flags.iter().cloned());
    lines.push(format!("ExecStart={}", command_line(&words)?));
    lines.extend(stop_rules.lines().map(|line| format!("# {line}")));
    lines.extend(SERVICE.lines().map(str::to_owned));
    Ok(lines.join("\n") + "\n")
}

const AGENT_STOP_RULES: &str = "\
Stopping the agent stops no container. Its slots are reserved for the restart
grace (30 s); then other hosts take them over, while its containers keep running
unattended until it is back. To remove this host for good: dokkaa leave";

const UP_STOP_RULES: &str = "\
Stopping it stops no container: the next start adopts the running ones.
To stop the cluster with its containers: dokkaa down.";

const SERVICE: &str = "\
KillMode=mixed
TimeoutStopSec=10
TimeoutStartSec=5min
Restart=on-failure
RestartSec=1
LimitNOFILE=1048576
FileDescriptorStoreMax=512
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target";

/// A command line, quoted for systemd.
fn command_line(words: &[String]) -> Result<String, ConfigError> {
    let mut line = String::new();
    for word in words {
        one_line(word)?;
        if !line.is_empty() {
            line.push(' ');
        }
        // systemd substitutes variables in command lines only.
        line += &quoted(&word.replace('$', "$$"))?;
    }
    Ok(line)
}

/// One word, quoted for systemd.
fn quoted(word: &str) -> Result<String, ConfigError> {
    one_line(word)?;
    let word = word.replace('%', "%%");
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%$[]?&~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return Ok(word);
    }
    Ok(format!(
        "\"{}\"",
        word.replace('\\', r"\\").replace('"', r#"\""#)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_systemd() {
        let line = |word: &str| command_line(&[word.to_owned()]);
        assert_eq!(
            line("--etcd=https://a:1,https://b:2").as_deref(),
            Ok("--etcd=https://a:1,https://b:2")
        );
        assert_eq!(line("a b").as_deref(), Ok("\"a b\""));
        assert_eq!(line("100%$x").as_deref(), Ok("100%%$$x"));
        assert_eq!(line(r#"a\"b;"#).as_deref(), Ok(r#""a\\\"b;""#));
        assert_eq!(line("").as_deref(), Ok("\"\""));
        assert!(line("a\nExecStop=b").is_err());
    }
}
