//! Arguments of every command, before or after its name.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values::duration;

/// Where the CLI looks for an agent's API unless told otherwise.
pub(crate) const DEFAULT_ADDR: &str = "http://127.0.0.1:4001";

/// Connection and output.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// API of any agent of the cluster
    #[arg(
        long,
        global = true,
        env = "DOKKAA_ADDR",
        value_name = "URL",
        default_value = DEFAULT_ADDR
    )]
    pub(crate) addr: String,
    /// Token to send; agents of this version ask for none
    #[arg(
        long,
        global = true,
        env = "DOKKAA_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<String>,
    /// How long to wait for an answer, and with --wait for the end [default: 30s, with --wait 5m]
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Output format; wide prints all columns
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t
    )]
    pub(crate) output: Format,
    /// Print results and errors only: no progress, notices or warnings
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Print no colors; so does any NO_COLOR
    #[arg(
        long,
        global = true,
        env = "NO_COLOR",
        hide_env = true,
        value_parser = is_not_false
    )]
    pub(crate) no_color: bool,
}

impl GlobalArgs {
    /// Those of a command to the API at `addr`.
    pub(crate) fn of(addr: &str) -> Self {
        Self {
            addr: addr.to_owned(),
            token: None,
            timeout: None,
            output: Format::default(),
            quiet: false,
            no_color: false,
        }
    }

    /// The longest time for one answer.
    pub(crate) fn answer_within(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(30))
    }

    /// The longest time for `--wait`.
    pub(crate) fn converged_within(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(300))
    }
}

/// Any text of NO_COLOR counts (no-color.org); `false` is what clap takes for a flag that is absent.
#[expect(clippy::unnecessary_wraps, reason = "a value parser may fail")]
fn is_not_false(text: &str) -> Result<bool, std::convert::Infallible> {
    Ok(text != "false")
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Wide,
    Json,
}
