//! Confirmation of destructive commands.

use std::io::{self, BufRead, IsTerminal, Write};

use super::error::CommandError;
use super::output;

/// Fails where a confirmation is needed and there is no terminal. `confirm` does so, too, once what is asked about has
/// been found and shown.
pub(super) fn possible(yes: bool) -> Result<(), CommandError> {
    if yes || io::stdin().is_terminal() {
        return Ok(());
    }
    Err(CommandError::Usage(
        "confirmation needed, but there is no terminal; use --yes".to_owned(),
    ))
}

/// Asks, unless `--yes` was given; `otherwise` is the error after a no.
pub(super) fn confirm(yes: bool, question: &str, otherwise: &str) -> Result<(), CommandError> {
    if yes {
        return Ok(());
    }
    possible(false)?;
    let mut terminal = io::stderr().lock();
    let asked =
        write!(terminal, "{} [y/N] ", output::one_line(question)).and_then(|()| terminal.flush());
    let mut answer = String::new();
    asked
        .and_then(|()| io::stdin().lock().read_line(&mut answer))
        .map_err(|error| CommandError::Failed(error.to_string()))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CommandError::Failed(otherwise.to_owned())),
    }
}
