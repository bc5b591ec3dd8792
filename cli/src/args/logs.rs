//! `logs` and `events`.

use clap::Args;

use super::values::{LogsOf, Selection, logs_of, selection, since};

/// `dokkaa logs`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa logs shop                      the whole app, merged by time
  dokkaa logs shop/web                  all slots of a container
  dokkaa logs -f --tail 20 shop/web     follow, after 20 lines of each slot
  dokkaa logs -t --since 10m shop/web/2 one slot, with timestamps
  dokkaa logs --previous shop/web/0     the instance before this one, or the
                                        one of an update that has failed
  dokkaa logs --before shop/web         what ran before the newest version

On a terminal, control characters other than colors are removed; --raw prints
them. In a pipe, lines are printed as they were written. A host that does not
answer is a line on stderr, not an error.")]
pub(crate) struct LogsArgs {
    /// App, container or slot
    #[arg(value_name = "APP[/CONTAINER[/SLOT]]", value_parser = logs_of)]
    pub(crate) of: LogsOf,
    /// Follow new output
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Number of lines per slot, from the end
    #[arg(short = 'n', long, value_name = "LINES")]
    pub(crate) tail: Option<u32>,
    /// Only lines since a time (RFC 3339) or a duration ago (`10m`, `1h30m`, `2d`)
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub(crate) since: Option<String>,
    /// Print the time of each line
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Print the output of the other instance: the one before, or an update's
    #[arg(short, long, conflicts_with = "follow")]
    pub(crate) previous: bool,
    /// Print the output of the last run of `before` instead
    #[arg(long, conflicts_with = "previous")]
    pub(crate) before: bool,
    /// Print control characters to a terminal, too
    #[arg(long)]
    pub(crate) raw: bool,
}

/// `dokkaa events`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa events                         the last hour of all hosts, by time
  dokkaa events shop/web --since 2d
  dokkaa events -f shop                 the last hour of an app, then new ones
  dokkaa events -o json | jq 'select(.kind == \"exited\")'

Each host keeps its own events, at most 10 MB; repetitions within a minute are
one line with a count. A host that does not answer is a line on stderr, not an
error.")]
pub(crate) struct EventsArgs {
    /// Only this app or container
    #[arg(value_name = "APP|APP/CONTAINER", value_parser = selection)]
    pub(crate) of: Option<Selection>,
    /// Follow new events
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only events since a time (RFC 3339) or a duration ago (`10m`, `1h30m`, `2d`)
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = since)]
    pub(crate) since: String,
    /// Only of the host whose agent answers
    #[arg(long)]
    pub(crate) local: bool,
}
