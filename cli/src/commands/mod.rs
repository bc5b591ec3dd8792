//! The user's commands: each asks a door and prints what it says.
//!
//! None talks to etcd or to an engine, and none knows more of the cluster than
//! the door tells. What a command prints goes through `output`, which takes a
//! closed pipe for a clean end.

mod apply;
mod ask;
mod backup;
mod client;
mod edit;
mod error;
mod events;
mod files;
mod hosts;
mod lists;
mod logs;
mod output;
mod remove;
mod stream;
mod table;
mod validate;
mod volumes;
mod wait;
mod why;

use clap::CommandFactory;

pub(crate) use error::CommandError;
pub(crate) use output::{columns, print};

use crate::args::{Cli, CompletionArgs, HostsAction, UserCommand};

/// Carries out a command.
pub(crate) async fn run(command: UserCommand) -> Result<(), CommandError> {
    match command {
        UserCommand::Validate(args) => validate::run(&args),
        UserCommand::Apply(args) => apply::apply(&args).await,
        UserCommand::Get(args) => apply::get(&args).await,
        UserCommand::Set(args) => apply::set(&args).await,
        UserCommand::Scale(args) => apply::scale(&args).await,
        UserCommand::Apps(args) => lists::apps(&args).await,
        UserCommand::Ps(args) => lists::ps(&args).await,
        UserCommand::Hosts(args) => match &args.action {
            Some(HostsAction::Rm(rm)) => hosts::remove(rm).await,
            None => lists::hosts(&args.list).await,
        },
        UserCommand::Status(args) => lists::status(&args).await,
        UserCommand::Logs(args) => logs::run(&args).await,
        UserCommand::Events(args) => events::run(&args).await,
        UserCommand::Rm(args) => remove::run(&args).await,
        UserCommand::Why(args) => why::run(&args).await,
        UserCommand::Pause(args) => hosts::pause(&args).await,
        UserCommand::Activate(args) => hosts::activate(&args).await,
        UserCommand::Leave(args) => hosts::leave(&args).await,
        UserCommand::Label(args) => hosts::label(&args).await,
        UserCommand::Volumes(args) => volumes::run(&args).await,
        UserCommand::Backup(args) => backup::backup(&args).await,
        UserCommand::Restore(args) => backup::restore(&args).await,
        UserCommand::Completion(args) => completion(&args),
        UserCommand::Version => output::print(&format!("dokkaa {}\n", env!("CARGO_PKG_VERSION"))),
    }
}

fn completion(args: &CompletionArgs) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dokkaa", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
