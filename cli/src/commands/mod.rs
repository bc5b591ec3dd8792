//! The user's commands: each asks a door and prints what it says.
//!
//! None talks to etcd or to an engine, and none knows more of the cluster than
//! the door tells. What a command prints goes through `output`, which takes a
//! closed pipe for a clean end.

mod apply;
mod client;
mod edit;
mod error;
mod files;
mod lists;
mod logs;
mod output;
mod remove;
mod validate;
mod wait;
mod why;

use clap::CommandFactory;

pub(crate) use error::CommandError;

use crate::args::{Cli, Command, CompletionArgs};

/// Carries out a command.
pub(crate) async fn run(command: Command) -> Result<(), CommandError> {
    match command {
        Command::Validate(args) => validate::run(&args),
        Command::Apply(args) => apply::apply(&args).await,
        Command::Get(args) => apply::get(&args).await,
        Command::Set(args) => apply::set(&args).await,
        Command::Scale(args) => apply::scale(&args).await,
        Command::Ps(args) => lists::ps(&args).await,
        Command::Hosts(args) => lists::hosts(&args).await,
        Command::Status(args) => lists::status(&args).await,
        Command::Logs(args) => logs::run(&args).await,
        Command::Rm(args) => remove::run(&args).await,
        Command::Why(args) => why::run(&args).await,
        Command::Completion(args) => completion(&args),
        Command::Version => output::print(&format!("dokkaa {}\n", env!("CARGO_PKG_VERSION"))),
    }
}

fn completion(args: &CompletionArgs) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dokkaa", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
