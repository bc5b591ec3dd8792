//! The systemd unit that runs the agent.

use crate::options::{ConfigError, no_password, one_line};

/// What the unit runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// The agent of a host in a cluster.
    Agent,
    /// A cluster of this one machine, with an etcd of its own.
    Up,
}

/// What goes into the unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// What it runs.
    pub command: Command,
    /// Where `dokkaa` is.
    pub program: String,
    /// The command's flags, each as one word.
    pub flags: Vec<String>,
    /// Environment, in this order.
    pub environment: Vec<(String, String)>,
    /// Units that this one starts after, besides Docker and the network.
    pub after: Vec<String>,
    /// Run before each start, each as its words; all must succeed.
    pub before_start: Vec<Vec<String>>,
}

impl Unit {
    /// The unit for a command with these flags, from where `make up` and `scp`
    /// put the program.
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

/// The text of `dokkaa.service`.
pub fn unit(unit: &Unit) -> Result<String, ConfigError> {
    let (description, command, stop_rules) = match unit.command {
        Command::Agent => ("dokkaa agent", "agent", AGENT_STOP_RULES),
        Command::Up => ("dokkaa, a cluster of this one machine", "up", UP_STOP_RULES),
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
Stopping the agent stops no container: it says that it will be back and ends
within a second. Its slots wait for it for the restart grace (30 s); then other
hosts take them over, while its containers run on unattended until it is back.
To take this host out for good: dokkaa leave";

const UP_STOP_RULES: &str = "\
Stopping it stops no container: the next start goes on with those that run.
To stop the cluster with its containers: dokkaa down.";

const SERVICE: &str = "\
KillMode=mixed
TimeoutStopSec=10
TimeoutStartSec=5min
Restart=on-failure
RestartSec=1
LimitNOFILE=1048576
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target";

/// Words of a command line as systemd reads them back.
fn command_line(words: &[String]) -> Result<String, ConfigError> {
    let mut line = String::new();
    for word in words {
        one_line(word)?;
        if !line.is_empty() {
            line.push(' ');
        }
        // Variables are substituted in command lines, and only there.
        line += &quoted(&word.replace('$', "$$"))?;
    }
    Ok(line)
}

/// One word as systemd reads it back.
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
    fn words_are_quoted_as_systemd_reads_them() {
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
