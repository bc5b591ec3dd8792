//! From words to `Cli`: what clap alone does not do.

use std::error::Error as _;
use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, ColorChoice, CommandFactory, FromArgMatches};

use super::{Cli, Command, LocalCommand};

/// Arguments of the connection to an agent.
const CONNECTION: [&str; 3] = ["addr", "token", "timeout"];

/// Arguments of the agent that `dokkaa up` answers itself.
const OF_ANOTHER_ETCD: [&str; 6] = [
    "etcd",
    "etcd_ca",
    "etcd_cert",
    "etcd_key",
    "etcd_user",
    "etcd_user_file",
];

/// Why a command line is not carried out.
#[derive(Debug)]
pub(crate) enum ParseError {
    /// One line for people, which names flag or variable, value and what is expected.
    Usage(String),
    /// clap's own: help, version, what it can say best.
    Clap(clap::Error),
}

impl From<clap::Error> for ParseError {
    fn from(error: clap::Error) -> Self {
        Self::Clap(error)
    }
}

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
        let user = !matches!(
            path,
            "up" | "down" | "etcd-env" | "agent" | "reset-id" | "cloud-config"
        );
        let list = matches!(
            path,
            "apps"
                | "ps"
                | "hosts"
                | "volumes"
                | "status"
                | "logs"
                | "events"
                | "why"
                | "dns"
                | "history"
                | "rollout"
                | "rollout status"
        );
        Self {
            connection: user && !matches!(path, "validate" | "completion" | "version"),
            output: list || matches!(path, "get" | "backup" | "plan" | "diff"),
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
    command
        .mut_subcommands(|command| with_global(command, "", &global))
        .mut_subcommand("up", with_its_own_etcd)
}

/// Its etcd is on this machine, and so is its only agent.
fn with_its_own_etcd(up: clap::Command) -> clap::Command {
    up.mut_args(|arg| match arg.get_id().as_str() {
        id if OF_ANOTHER_ETCD.contains(&id) => arg.env(None::<&'static str>).hide(true),
        "peer_listen" => arg.default_value("off"),
        _ => arg,
    })
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
pub(crate) fn parse(arguments: &[OsString], width: usize) -> Result<Cli, ParseError> {
    parse_with(command(), arguments, width)
}

/// Whoever runs the tests has variables of his own.
#[cfg(test)]
pub(crate) fn parse_without_variables(line: &[&str]) -> Result<Cli, ParseError> {
    fn without_variables(command: clap::Command) -> clap::Command {
        command
            .mut_args(|arg| arg.env(None::<&'static str>))
            .mut_subcommands(without_variables)
    }
    let words: Vec<_> = line.iter().map(OsString::from).collect();
    parse_with(without_variables(command()), &words, 80)
}

fn parse_with(
    command: clap::Command,
    arguments: &[OsString],
    width: usize,
) -> Result<Cli, ParseError> {
    let flags = || arguments.iter().take_while(|text| *text != "--");
    let color = if flags().any(|text| text == "--no-color") {
        ColorChoice::Never
    } else {
        ColorChoice::Auto
    };
    let mut command = command.term_width(width).color(color);
    let matches =
        command
            .try_get_matches_from_mut(arguments)
            .map_err(|error| match wrong_value(&error, &command, flags()) {
                Some(line) => ParseError::Usage(line),
                None => ParseError::Clap(error),
            })?;
    let (path, of_command) = leaf(&matches);
    let is_given = |id| of_command.value_source(id) == Some(ValueSource::CommandLine);
    let uses = Uses::of(&path);
    let refused = command
        .get_arguments()
        .filter(|arg| arg.is_global_set())
        .map(|arg| arg.get_id().as_str())
        .find(|id| uses.refuses(id) && is_given(id));
    if let Some(id) = refused {
        return Err(ParseError::Usage(format!(
            "--{id}: `dokkaa {path}` does not take it"
        )));
    }
    let mut cli = Cli::from_arg_matches(&matches)?;
    match &mut cli.command {
        Command::Local(LocalCommand::Up(_)) => {
            if let Some(id) = OF_ANOTHER_ETCD.into_iter().find(|id| is_given(id)) {
                return Err(ParseError::Usage(format!(
                    "--{}: dokkaa up runs an etcd of its own; dokkaa agent joins another",
                    id.replace('_', "-")
                )));
            }
        }
        Command::Local(LocalCommand::Agent(agent)) => {
            agent.etcd.is_user_visible = is_given("etcd_user");
        }
        _ => {}
    }
    Ok(cli)
}

/// A value of a flag that its parser refused. Where the flag was not given, its variable was.
fn wrong_value<'a>(
    error: &clap::Error,
    command: &clap::Command,
    mut flags: impl Iterator<Item = &'a OsString>,
) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg)?.split(' ').next()?;
    let long = flag.strip_prefix("--")?;
    let what = match (error.kind(), error.get(ContextKind::ValidValue)) {
        // Not with the value, which may be a secret: the parser's own words have it where it is none.
        (ErrorKind::ValueValidation, _) => error.source()?.to_string(),
        (ErrorKind::InvalidValue, Some(ContextValue::Strings(valid))) if !valid.is_empty() => {
            let value = text(ContextKind::InvalidValue).filter(|value| !value.is_empty())?;
            format!("`{value}` is not one of {}", valid.join(", "))
        }
        _ => return None,
    };
    let variable = find(command, long).and_then(Arg::get_env);
    let is_flag = flags.any(|given| {
        let rest = given.to_str().and_then(|given| given.strip_prefix(flag));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    });
    let name = match variable {
        Some(variable) if !is_flag => variable.to_string_lossy().into_owned(),
        _ => flag.to_owned(),
    };
    Some(format!("{name}: {what}"))
}

/// The argument of a flag, which is the same in all commands that have it.
fn find<'a>(command: &'a clap::Command, long: &str) -> Option<&'a Arg> {
    command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(long) && arg.get_env().is_some())
        .or_else(|| {
            command
                .get_subcommands()
                .find_map(|inner| find(inner, long))
        })
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

    fn read(line: &str) -> Result<Cli, ParseError> {
        parse_without_variables(&line.split(' ').collect::<Vec<_>>())
    }

    fn refused(line: &str) -> String {
        match read(line).unwrap_err() {
            ParseError::Usage(what) => what,
            ParseError::Clap(error) => panic!("{line}: {error}"),
        }
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
                "--output: `dokkaa scale` does not take it",
            ),
            (
                "dokkaa hosts rm h3 -o json",
                "--output: `dokkaa hosts rm` does not take it",
            ),
            (
                "dokkaa --addr h:1 agent",
                "--addr: `dokkaa agent` does not take it",
            ),
            ("dokkaa up -q", "--quiet: `dokkaa up` does not take it"),
        ] {
            assert_eq!(refused(line), says);
        }
    }

    #[test]
    fn every_flag_of_the_agent_has_a_variable_and_its_default() {
        let mut all = Cli::command();
        all.build();
        let agent = all.find_subcommand("agent").unwrap();
        let found: Vec<String> = agent
            .get_arguments()
            .filter(|arg| !arg.is_global_set() && arg.get_id() != "help")
            .map(|arg| {
                let default: Vec<_> = arg
                    .get_default_values()
                    .iter()
                    .map(|v| v.to_string_lossy())
                    .collect();
                format!(
                    "{} {} {}",
                    arg.get_long().unwrap(),
                    arg.get_env().unwrap().to_string_lossy(),
                    default.join(" ")
                )
            })
            .collect();
        assert_eq!(
            found.iter().map(|line| line.trim_end()).collect::<Vec<_>>(),
            [
                "etcd ETCD_ADDR 127.0.0.1:2379",
                "etcd-ca DOKKAA_ETCD_CA",
                "etcd-cert DOKKAA_ETCD_CERT",
                "etcd-key DOKKAA_ETCD_KEY",
                "etcd-user-file DOKKAA_ETCD_USER_FILE",
                "etcd-user DOKKAA_ETCD_USER",
                "lease-ttl DOKKAA_LEASE_TTL 6s",
                "restart-grace DOKKAA_RESTART_GRACE 30s",
                "docker DOCKER_HOST unix:///var/run/docker.sock",
                "docker-config DOKKAA_DOCKER_CONFIG /root/.docker",
                "bridge DOKKAA_BRIDGE bridge",
                "port-range DOKKAA_PORT_RANGE 20000-29999",
                "instance-ports DOKKAA_INSTANCE_PORTS peers",
                "disk-limits DOKKAA_DISK_LIMITS 85,95",
                "host-ip HOST_IP",
                "name DOKKAA_NAME",
                "label DOKKAA_LABELS",
                "state-dir DOKKAA_STATE_DIR /var/lib/dokkaa",
                "keys-listen DOKKAA_KEYS_LISTEN 127.0.0.1:4001",
                "dns-listen DOKKAA_DNS_LISTEN",
                "peer-listen DOKKAA_PEER_LISTEN",
                "metrics-listen DOKKAA_METRICS_LISTEN 127.0.0.1:4002",
                "allow-host DOKKAA_ALLOW_HOST",
                "insecure DOKKAA_INSECURE false",
                "domain DOKKAA_DOMAIN skydns.local",
                "skydns-publish DOKKAA_SKYDNS_PUBLISH false",
                "dns-upstream DOKKAA_DNS_UPSTREAM",
                "dns-stub DOKKAA_DNS_STUB",
                "dns-allow DOKKAA_DNS_ALLOW",
                "log-format DOKKAA_LOG_FORMAT text",
                "log-filter DOKKAA_LOG_FILTER info",
            ]
        );
    }

    #[test]
    fn every_duration_takes_the_one_grammar() {
        for line in [
            "dokkaa ps --timeout",
            "dokkaa logs shop --since",
            "dokkaa events --since",
            "dokkaa down --stop-timeout",
            "dokkaa agent --lease-ttl",
            "dokkaa agent --restart-grace",
        ] {
            for text in ["90s", "1m30s", "2d", "1h500ms", "60000ms"] {
                assert!(read(&format!("{line} {text}")).is_ok(), "{line} {text}");
            }
            for text in ["1w", "1s1m", "1.5s", "s"] {
                let flag = line.rsplit(' ').next().unwrap();
                let error = refused(&format!("{line} {text}"));
                assert!(error.starts_with(&format!("{flag}: `{text}` ")), "{error}");
                assert!(
                    error.contains("1m30s") || error.contains("1h30m"),
                    "{error}"
                );
            }
        }
        assert!(read("dokkaa down --stop-timeout 90").is_ok());
        assert!(refused("dokkaa ps --timeout 90").contains("has no unit"));
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
