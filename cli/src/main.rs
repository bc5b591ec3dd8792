//! `dokkaa`: the agent and its command line in one binary.
//!
//! Only wires: reads the command line, carries out a command, turns how it
//! ended into one line on stderr and an exit code.

mod args;
mod commands;
mod config;

use std::process::ExitCode;

use clap::Parser;

use args::Cli;
use commands::CommandError;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, too. Who asked for them may be gone.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return end(&CommandError::Failed(error.to_string())),
    };
    match runtime.block_on(commands::run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(&error),
    }
}

fn end(error: &CommandError) -> ExitCode {
    if !matches!(error, CommandError::Closed) {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "{error}");
    }
    ExitCode::from(error.exit_code())
}
