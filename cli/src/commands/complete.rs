//! Shell completion: commands and flags, and the apps, containers, slots and hosts of the cluster.
//!
//! The script of `dokkaa completion` has the shell run this program at each
//! TAB, with a variable that says so. Names are those of the agent at
//! DOKKAA_ADDR; without its answer in time there are none, and nothing is said.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::time::Duration;

use clap::{Arg, Command};
use clap_complete::engine::{
    ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter,
};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, Shell};
use gateway::v1::types::Hosts;

use super::client::Client;
use super::error::CommandError;
use super::output;
use crate::args;

/// Set by the script; its value is the shell.
const VARIABLE: &str = "DOKKAA_COMPLETE";
/// Who presses TAB does not wait for longer.
const WITHIN: Duration = Duration::from_millis(300);
/// Of a help text that nobody sees.
const WIDTH: usize = 80;
/// The one value with names that are no app's.
const HOST: &str = "HOST";

/// Answers the shell, if this process was started for that.
pub(crate) fn answer() -> Result<bool, clap::Error> {
    CompleteEnv::with_factory(|| with_names(args::command()))
        .var(VARIABLE)
        .try_complete(std::env::args_os(), std::env::current_dir().ok().as_deref())
}

/// Prints the script for a shell.
pub(super) fn script(shell: Shell) -> Result<(), CommandError> {
    let mut script = Vec::new();
    Shells::builtins()
        .completer(&shell.to_string())
        .ok_or_else(|| CommandError::Usage(format!("no completion for {shell}")))?
        .write_registration(VARIABLE, "dokkaa", "dokkaa", "dokkaa", &mut script)
        .map_err(|error| CommandError::Failed(error.to_string()))?;
    output::print(&String::from_utf8_lossy(&script))
}

/// An argument takes what the name of its value in the help says: `HOST`, `APP|APP/CONTAINER`.
fn with_names(command: Command) -> Command {
    let with_name = |arg: Arg| {
        let value = arg.get_value_names().and_then(|names| names.first());
        match value.map(ToString::to_string) {
            Some(value) if value == HOST || value.starts_with("APP") => {
                arg.add(ArgValueCompleter::new(Names { value }))
            }
            _ => arg,
        }
    };
    command.mut_args(with_name).mut_subcommands(with_names)
}

/// Names that the cluster has for a value.
struct Names {
    value: String,
}

impl Names {
    fn ask(&self) -> Option<BTreeSet<String>> {
        // Of the words on the line bash breaks addresses at each colon: only the environment says whom to ask.
        let mut global = args::parse(&["dokkaa".into(), "ps".into()], WIDTH)
            .ok()?
            .global;
        global.timeout = Some(WITHIN);
        let client = Client::new(&global).ok()?;
        let asked = async { tokio::time::timeout(WITHIN, self.ask_agent(&client)).await };
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .ok()?
            .block_on(asked)
            .ok()?
            .ok()
    }

    async fn ask_agent(&self, client: &Client) -> Result<BTreeSet<String>, CommandError> {
        if self.value == HOST {
            let hosts: Hosts = client.get("hosts").await?;
            return Ok(hosts.hosts.iter().map(|row| row.host.to_string()).collect());
        }
        let slots = client.slots(None).await?;
        let mut names = BTreeSet::new();
        let end = if self.value.ends_with("=N") { "=" } else { "" };
        for row in &slots.containers {
            if self.value.starts_with("APP|") || self.value.starts_with("APP[") {
                names.insert(row.app.to_string());
            }
            if !self.value.ends_with("/SLOT") {
                names.insert(format!("{}{end}", row.id()));
            }
        }
        if self.value.contains("/SLOT") {
            let rows = slots.slots.iter();
            names.extend(rows.filter_map(|row| Some(row.id().slot(row.slot?).to_string())));
        }
        Ok(names)
    }
}

impl ValueCompleter for Names {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        let begun = current.to_string_lossy();
        let names = self.ask().unwrap_or_default().into_iter();
        let mut candidates: Vec<CompletionCandidate> = names
            .filter(|name| name.starts_with(&*begun))
            .map(CompletionCandidate::new)
            .collect();
        if self.value.ends_with("|DIR") {
            candidates.extend(PathCompleter::dir().complete(current));
        }
        candidates
    }
}
