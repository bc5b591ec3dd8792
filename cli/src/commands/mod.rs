//! The user's commands: each asks the API of one agent and prints its answer.
//!
//! None talks to etcd or to Docker. Output goes through `output`, which treats a
//! closed pipe as success.

mod apply;
mod ask;
mod backup;
mod check;
mod client;
mod complete;
mod dns;
mod dns_install;
mod edit;
mod error;
mod events;
pub(crate) mod example;
mod files;
mod history;
mod hosts;
mod lists;
mod logs;
mod output;
mod plan;
mod progress;
mod prune;
mod remove;
mod rollout;
mod stage;
mod stream;
mod table;
mod validate;
mod verbs;
mod volumes;
mod wait;
mod why;

pub(crate) use complete::answer as answer_completion;
pub(crate) use error::CommandError;
pub(crate) use output::{columns, error_text, print};

use crate::args::{GlobalArgs, HostsAction, UserCommand};

/// Carries out a command.
pub(crate) async fn run(command: UserCommand, global: &GlobalArgs) -> Result<(), CommandError> {
    output::set_quiet(global.quiet);
    match command {
        UserCommand::Validate(args) => validate::run(&args),
        UserCommand::Plan(args) => plan::plan(&args, global).await,
        UserCommand::Diff(args) => plan::diff(&args, global).await,
        UserCommand::Apply(args) => apply::apply(&args, global).await,
        UserCommand::Get(args) => apply::get(&args, global).await,
        UserCommand::Set(args) => apply::set(&args, global).await,
        UserCommand::Scale(args) => apply::scale(&args, global).await,
        UserCommand::History(args) => history::history(&args, global).await,
        UserCommand::Rollback(args) => history::rollback(&args, global).await,
        UserCommand::Rollout(args) => rollout::run(&args, global).await,
        UserCommand::Restart(args) => verbs::restart(&args, global).await,
        UserCommand::Stop(args) => verbs::stop(&args, global).await,
        UserCommand::Start(args) => verbs::start(&args, global).await,
        UserCommand::Apps(args) => lists::apps(&args, global).await,
        UserCommand::Ps(args) => lists::ps(&args, global).await,
        UserCommand::Hosts(args) => match &args.action {
            Some(_) if args.check => Err(CommandError::Usage(
                "--check only goes with the list: dokkaa hosts --check".to_owned(),
            )),
            Some(HostsAction::Rm(rm)) => hosts::remove(rm, global).await,
            None if args.check => check::run(global).await,
            None => lists::hosts(global).await,
        },
        UserCommand::Status => lists::status(global).await,
        UserCommand::Logs(args) => logs::run(&args, global).await,
        UserCommand::Events(args) => events::run(&args, global).await,
        UserCommand::Rm(args) => remove::run(&args, global).await,
        UserCommand::Why(args) => why::run(&args, global).await,
        UserCommand::Dns(args) => dns::run(&args, global).await,
        UserCommand::Pause(args) => hosts::pause(&args, global).await,
        UserCommand::Drain(args) => hosts::drain(&args, global).await,
        UserCommand::Activate(args) => hosts::activate(&args, global).await,
        UserCommand::Leave(args) => hosts::leave(&args, global).await,
        UserCommand::Label(args) => hosts::label(&args, global).await,
        UserCommand::Volumes(args) => volumes::run(&args, global).await,
        UserCommand::Backup(args) => backup::backup(&args, global).await,
        UserCommand::Restore(args) => backup::restore(&args, global).await,
        UserCommand::Completion(args) => complete::script(args.shell),
        UserCommand::Version => output::print(&format!("dokkaa {}\n", env!("CARGO_PKG_VERSION"))),
    }
}
