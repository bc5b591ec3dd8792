//! Manual pages, for packages: one for the program and one for each command.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory as _;

use crate::args::Cli;

/// Not for people, so no command of the command line.
pub(crate) const COMMAND: &str = "man-pages";

/// Writes them into this directory.
pub(crate) fn write(directory: &Path) -> anyhow::Result<ExitCode> {
    clap_mangen::generate_to(Cli::command(), directory)
        .with_context(|| format!("cannot write manual pages to {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path()).expect("written");
        let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect(name);
        assert!(page("dokkaa.1").contains("dokkaa\\-apply(1)"));
        for command in Cli::command()
            .get_subcommands()
            .filter(|of| !of.is_hide_set())
        {
            assert!(page(&format!("dokkaa-{}.1", command.get_name())).contains(".SH NAME"));
        }
    }
}
