//! The systemd unit of `dokkaa up`, from the package or from `cloud-config --format up-unit`.
//!
//! Hosts of a cluster have a unit of this name, too, which runs their agent.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::args::STATE_DIR;

/// Its name.
pub(crate) const UNIT: &str = "dokkaa.service";
/// Variables of the package's unit.
const DEFAULTS: &str = "/etc/default/dokkaa";

/// The unit of this machine.
#[derive(Debug)]
pub(crate) struct Service {
    /// Its text, with that of what changes it.
    unit: String,
    /// The variables that it reads from a file, as they are there.
    defaults: String,
}

impl Service {
    /// Where systemd runs and has it.
    pub(crate) fn find() -> Option<Self> {
        if !Path::new("/run/systemd/system").is_dir() {
            return None;
        }
        let shown = Command::new("systemctl").args(["cat", UNIT]).output();
        let shown = shown.ok().filter(|shown| shown.status.success())?;
        let unit = String::from_utf8_lossy(&shown.stdout).into_owned();
        let reads = unit.lines().any(|line| {
            line.strip_prefix("EnvironmentFile=")
                .is_some_and(|file| file.trim_start_matches('-') == DEFAULTS)
        });
        let defaults = fs::read_to_string(DEFAULTS).ok().filter(|_| reads);
        Some(Self {
            unit,
            defaults: defaults.unwrap_or_default(),
        })
    }

    /// It runs `dokkaa up`.
    pub(crate) fn runs_up(&self) -> bool {
        let mut commands = self.settings("ExecStart=");
        commands.any(|command| command.split_whitespace().nth(1) == Some("up"))
    }

    /// It runs, or would run, the cluster of this state directory.
    pub(crate) fn is_of(&self, state_dir: &Path) -> bool {
        let whole = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        self.runs_up() && whole(&self.state_dir()) == whole(state_dir)
    }

    /// The variables of its file that are not set otherwise.
    fn missing(&self, is_set: impl Fn(&str) -> bool) -> Vec<(&str, &str)> {
        let variables = self.defaults.lines().filter_map(variable);
        variables.filter(|(name, _)| !is_set(name)).collect()
    }

    fn state_dir(&self) -> PathBuf {
        const FLAG: &str = "--state-dir";
        const VARIABLE: &str = "DOKKAA_STATE_DIR";
        let command = self.settings("ExecStart=").last().unwrap_or_default();
        let mut words = command.split_whitespace().map(unquoted);
        let flag = words.find_map(|word| match word.strip_prefix(FLAG)? {
            "" => Some(None),
            rest => rest.strip_prefix('=').map(Some),
        });
        let flag = flag.and_then(|value| value.or_else(|| words.next()));
        let environment = self.settings("Environment=").map(unquoted);
        // The file's come after the unit's own.
        let variable = environment
            .chain(self.defaults.lines())
            .filter_map(|line| variable(line).filter(|(name, _)| *name == VARIABLE))
            .last();
        flag.or(variable.map(|(_, value)| value))
            .unwrap_or(STATE_DIR)
            .into()
    }

    fn settings<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let lines = self.unit.lines();
        lines.filter_map(move |line| line.strip_prefix(name))
    }
}

/// Begins this command anew with the variables that the unit has from its file, where it is about the unit's cluster:
/// with others it would look for it at another place.
pub(crate) fn take_variables(state_dir: &Path) -> anyhow::Result<()> {
    let Some(service) = Service::find().filter(Service::runs_up) else {
        return Ok(());
    };
    let missing = service.missing(|name| std::env::var_os(name).is_some());
    if missing.is_empty() || !(state_dir == Path::new(STATE_DIR) || service.is_of(state_dir)) {
        return Ok(());
    }
    let error = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .envs(missing)
        .exec();
    Err(error).context("cannot start this program again")
}

/// A line `NAME=value`.
fn variable(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.trim().split_once('=')?;
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    is_name(name).then(|| (name, unquoted(value.trim())))
}

fn unquoted(word: &str) -> &str {
    let inner = |quote| word.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(word)
}

/// Asks systemd to do something with the unit.
pub(crate) fn systemctl(words: &[&str]) -> anyhow::Result<()> {
    let ended = Command::new("systemctl").args(words).arg(UNIT).status();
    if !ended.context("cannot run systemctl")?.success() {
        bail!(
            "systemctl {} {UNIT} failed; journalctl -u {UNIT} -n 20 says why",
            words.join(" ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(lines: &str, defaults: &str) -> Service {
        Service {
            unit: format!("[Service]\n{lines}\n"),
            defaults: defaults.to_owned(),
        }
    }

    #[test]
    fn the_unit_of_a_host_s_agent_is_not_started_for_an_example() {
        let unit = |command| {
            let line = format!("ExecStart=/usr/bin/dokkaa {command} --token up");
            service(&line, "")
        };
        assert!(unit("up").runs_up());
        assert!(!unit("agent").runs_up());
    }

    #[test]
    fn a_command_takes_the_unit_s_variables_that_it_lacks() {
        let defaults =
            "; no\n# A=1\nDOKKAA_STATE_DIR=/srv/b\n DOCKER_HOST = x\nTZ=\"a b\"\nnot one\n";
        let service = service("ExecStart=/usr/bin/dokkaa up", defaults);
        assert_eq!(
            service.missing(|name| name == "TZ"),
            [("DOKKAA_STATE_DIR", "/srv/b")]
        );
        // Begun anew, it lacks none.
        assert!(service.missing(|_| true).is_empty());
    }

    #[test]
    fn a_unit_is_of_the_state_directory_that_it_would_have() {
        let up = "ExecStart=/usr/bin/dokkaa up";
        let of = |lines: &str, defaults: &str| {
            let service = service(lines, defaults);
            let dir = service.state_dir();
            assert!(service.is_of(&dir));
            assert!(!service.is_of(Path::new("/srv/other")));
            dir.to_string_lossy().into_owned()
        };
        assert_eq!(of(up, ""), "/var/lib/dokkaa");
        assert_eq!(of(&format!("{up} --state-dir=/srv/a"), ""), "/srv/a");
        assert_eq!(of(&format!("{up} --state-dir \"/srv/a\" -q"), ""), "/srv/a");
        let by_variable = format!("Environment=\"DOKKAA_STATE_DIR=/srv/a\"\n{up}");
        assert_eq!(of(&by_variable, ""), "/srv/a");
        let defaults = "# comment\nDOKKAA_STATE_DIR='/srv/b'\n";
        assert_eq!(of(&by_variable, defaults), "/srv/b");
        assert_eq!(of(&format!("{up} --state-dir=/srv/a"), defaults), "/srv/a");
        // An agent's is of nobody who runs `dokkaa down`.
        let agent = service("ExecStart=/usr/bin/dokkaa agent", "");
        assert!(!agent.is_of(Path::new("/var/lib/dokkaa")));
    }
}
