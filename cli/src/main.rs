//! `dokkaa`: the agent and its command line in one binary.
//!
//! Only wires: reads the command line, carries out a command, turns how it
//! ended into one line on stderr and an exit code.

mod agent;
mod args;
mod cloud_config;
mod commands;
mod config;
mod down;
mod embedded_etcd;
mod etcd_env;
mod example;
mod hints;
mod limits;
mod local;
mod man;
mod metrics;
mod name_service;
mod pid_file;
mod service;
mod up;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use model::error::chain;

use agent::Misconfigured;
use args::{Cli, Command, GlobalArgs, ParseError, UserCommand};
use commands::CommandError;

/// Columns of a help text that goes into a file or a pager.
const HELP_IN_A_PIPE: usize = 80;
/// A help text in fewer columns than this has one word a line.
const NARROWEST_HELP: usize = 60;

fn main() -> ExitCode {
    name_service::without_plugins();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Not for people, so no command of the command line.
    let ended = match arguments.split_at_checked(2) {
        Some(([_, command], rest)) if command == embedded_etcd::CHILD_COMMAND => {
            local::become_etcd(rest)
        }
        Some(([_, command], [directory])) if command == man::COMMAND => {
            man::write(Path::new(directory))
        }
        Some(([_, command], _)) if command == example::WEB_COMMAND => example::become_web(),
        Some(([_, command], _)) if command == example::CRAWLER_COMMAND => example::become_crawler(),
        _ => match parse(&arguments) {
            Ok(Some(cli)) => run(cli),
            Ok(None) => Ok(ExitCode::SUCCESS),
            Err(ParseError::Usage(line)) => {
                let _ = writeln!(io::stderr(), "{line}");
                return ExitCode::from(2);
            }
            Err(ParseError::Clap(error)) => {
                let code = error.exit_code() as u8;
                if let Some(hint) = hints::other_command(&error) {
                    let _ = writeln!(io::stderr(), "{hint}");
                } else {
                    // Help and version are errors to clap, too. Who asked for them may be gone.
                    let _ = hints::with_safe_guesses(error).print();
                }
                return ExitCode::from(code);
            }
        },
    };
    ended.unwrap_or_else(|error| end(&error))
}

/// None after the answer to a shell that completes a command line.
fn parse(arguments: &[OsString]) -> Result<Option<Cli>, ParseError> {
    if commands::answer_completion()? {
        return Ok(None);
    }
    args::parse(arguments, help_width()).map(Some)
}

/// Columns of the terminal.
fn help_width() -> usize {
    commands::columns()
        .unwrap_or(HELP_IN_A_PIPE)
        .max(NARROWEST_HELP)
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Local(command) => local::run(command),
        Command::User(command) => run_user(command, &cli.global),
    }
}

fn run_user(command: UserCommand, global: &GlobalArgs) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(commands::run(command, global))?;
    Ok(ExitCode::SUCCESS)
}

/// Says how it ended, once, and with which exit code.
fn end(error: &anyhow::Error) -> ExitCode {
    let of_command = error.downcast_ref::<CommandError>();
    let code = match of_command {
        Some(error) => error.exit_code(),
        None if error.is::<Misconfigured>() => 2,
        None if is_closed_pipe(error) => 0,
        None => 1,
    };
    if code != 0 && !of_command.is_some_and(CommandError::is_said) {
        let text = commands::error_text(chain(error.as_ref()));
        let _ = writeln!(io::stderr(), "{text}");
    }
    ExitCode::from(code)
}

/// Who read our output has gone: a clean end.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
