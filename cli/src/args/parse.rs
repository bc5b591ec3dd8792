//! From words to `Cli`: what clap alone does not do.

use std::ffi::{OsStr, OsString};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, ColorChoice, CommandFactory, FromArgMatches};

use super::Cli;

/// Arguments of the connection to an agent.
const CONNECTION: [&str; 3] = ["addr", "token", "timeout"];

/// What a command makes of the global arguments.
struct Uses {
    /// It asks an agent. Others of the user's commands ignore how.
    connection: bool,
    /// It prints a list, or JSON anyway.
    output: bool,
    /// It is one of the user's commands, not one of this machine.
    user: bool,
}

impl Uses {
    fn of(path: &str) -> Self {
        let user = !matches!(path, "up" | "down" | "etcd-env" | "agent" | "cloud-config");
        let list = matches!(
            path,
            "apps" | "ps" | "hosts" | "volumes" | "status" | "logs" | "events" | "why"
        );
        Self {
            connection: user && !matches!(path, "validate" | "completion" | "version"),
            output: list || matches!(path, "get" | "backup"),
            user,
        }
    }

    /// Not in its help.
    fn hides(&self, id: &str) -> bool {
        match id {
            "output" => !self.output,
            "quiet" => !self.user,
            _ => !self.connection && CONNECTION.contains(&id),
        }
    }

    /// Not to be taken silently: who gives it expects something else.
    fn refuses(&self, id: &str) -> bool {
        self.hides(id) && (!self.user || id == "output")
    }
}

/// All commands, each with the global arguments that it has a use for.
pub(crate) fn command() -> clap::Command {
    let command = without_empty_variables(Cli::command());
    let global: Vec<Arg> = command
        .get_arguments()
        .filter(|arg| arg.is_global_set())
        .cloned()
        .collect();
    command.mut_subcommands(|command| with_global(command, "", &global))
}

/// An argument that is there already is not propagated to: a hidden copy stays hidden.
fn with_global(command: clap::Command, parent: &str, global: &[Arg]) -> clap::Command {
    let path = format!("{parent}{}", command.get_name());
    let uses = Uses::of(&path);
    let hidden = global
        .iter()
        .filter(|arg| uses.hides(arg.get_id().as_str()))
        .map(|arg| arg.clone().hide(true));
    command
        .args(hidden)
        .mut_subcommands(|command| with_global(command, &format!("{path} "), global))
}

/// An empty variable counts as unset.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| {
            if arg.get_env().is_some_and(is_empty) {
                arg.env(None::<&'static str>)
            } else {
                arg
            }
        })
        .mut_subcommands(without_empty_variables)
}

/// Reads a command line; help is so wide.
pub(crate) fn parse(arguments: &[OsString], width: usize) -> Result<Cli, clap::Error> {
    let flags = arguments.iter().take_while(|text| *text != "--");
    let color = if flags.into_iter().any(|text| text == "--no-color") {
        ColorChoice::Never
    } else {
        ColorChoice::Auto
    };
    let mut command = command().term_width(width).color(color);
    let matches = command.try_get_matches_from_mut(arguments)?;
    let (path, of_command) = leaf(&matches);
    let uses = Uses::of(&path);
    let refused = command.get_arguments().find(|arg| {
        let id = arg.get_id().as_str();
        arg.is_global_set()
            && uses.refuses(id)
            && of_command.value_source(id) == Some(ValueSource::CommandLine)
    });
    if let Some(arg) = refused {
        let what = format!("`dokkaa {path}` does not take --{}", arg.get_id());
        return Err(command.error(ErrorKind::UnknownArgument, what));
    }
    Cli::from_arg_matches(&matches)
}

/// The last command of the line, and what was given to it.
fn leaf(mut matches: &ArgMatches) -> (String, &ArgMatches) {
    let mut path = Vec::new();
    while let Some((name, inner)) = matches.subcommand() {
        path.push(name);
        matches = inner;
    }
    (path.join(" "), matches)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::args::Format;

    const WIDTH: usize = 80;

    fn read(line: &str) -> Result<Cli, clap::Error> {
        let words: Vec<_> = line.split(' ').map(OsString::from).collect();
        parse(&words, WIDTH)
    }

    fn every_command(mut look: impl FnMut(&str, &mut clap::Command)) {
        fn walk(
            path: &str,
            command: &mut clap::Command,
            look: &mut impl FnMut(&str, &mut clap::Command),
        ) {
            look(path, command);
            for inner in command.get_subcommands_mut() {
                walk(&format!("{path} {}", inner.get_name()), inner, look);
            }
        }
        let mut all = command().term_width(WIDTH);
        all.build();
        walk("dokkaa", &mut all, &mut look);
    }

    #[test]
    fn the_definitions_hold_together() {
        command().debug_assert();
    }

    #[test]
    fn every_command_but_version_shows_examples_in_80_columns() {
        every_command(|path, command| {
            let help = command.render_long_help().to_string();
            if !matches!(path, "dokkaa" | "dokkaa version") {
                assert!(help.contains("Examples:"), "{path}");
            }
            // What is wider would be wrapped, and its columns lost.
            let examples = command.get_after_help().map(ToString::to_string);
            for line in help
                .lines()
                .chain(examples.iter().flat_map(|text| text.lines()))
            {
                assert!(line.chars().count() <= WIDTH, "{path}: {line}");
            }
        });
    }

    #[test]
    fn global_flags_before_and_after_every_command_of_the_user() {
        for line in [
            "dokkaa --addr h:1 --timeout 1m30s -o json -q --no-color ps shop",
            "dokkaa ps --addr h:1 --timeout 1m30s -o json -q --no-color shop",
            "dokkaa --addr=h:1 --timeout=90s ps shop -ojson -q --no-color",
            "dokkaa -ojson --addr h:1 hosts -q --no-color --timeout 90s",
            "dokkaa volumes --addr h:1 -o json shop --timeout 90s -q --no-color",
        ] {
            let global = read(line).unwrap().global;
            assert_eq!(global.addr, "h:1", "{line}");
            assert_eq!(global.answer_within().as_secs(), 90, "{line}");
            assert_eq!(global.output, Format::Json, "{line}");
            assert!(global.quiet && global.no_color, "{line}");
        }
        for line in [
            "dokkaa --addr h:1 hosts rm h3",
            "dokkaa hosts --addr h:1 rm h3",
            "dokkaa hosts rm --addr h:1 h3",
            "dokkaa volumes --addr h:1 rm shop/db/0",
        ] {
            assert_eq!(read(line).unwrap().global.addr, "h:1", "{line}");
        }
        assert!(read("dokkaa --addr h:1").is_err());
    }

    #[test]
    fn a_global_flag_without_a_use_is_ignored_only_where_that_is_harmless() {
        for line in [
            "dokkaa --addr h:1 --timeout 5s version",
            "dokkaa validate -q --token x f.json",
            "dokkaa -o json get shop/web",
            "dokkaa --no-color agent",
        ] {
            assert!(read(line).is_ok(), "{line}");
        }
        for (line, says) in [
            (
                "dokkaa -o json scale shop/web=1",
                "`dokkaa scale` does not take --output",
            ),
            (
                "dokkaa hosts rm h3 -o json",
                "`dokkaa hosts rm` does not take --output",
            ),
            (
                "dokkaa --addr h:1 agent",
                "`dokkaa agent` does not take --addr",
            ),
            ("dokkaa up -q", "`dokkaa up` does not take --quiet"),
        ] {
            let error = read(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn help_shows_the_global_flags_that_a_command_uses() {
        every_command(|path, command| {
            let help = command.render_long_help().to_string();
            let shows = |flag: &str| help.contains(&format!(" --{flag}"));
            let uses = Uses::of(path.trim_start_matches("dokkaa").trim_start());
            if path != "dokkaa" {
                assert_eq!(shows("addr <"), uses.connection, "{path}");
                assert_eq!(shows("output <"), uses.output, "{path}");
                assert_eq!(shows("quiet"), uses.user, "{path}");
            }
            assert!(shows("no-color"), "{path}");
        });
    }
}
