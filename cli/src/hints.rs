//! Command lines as people type them who come from other tools.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Flags of every command that asks an agent, each with a value.
const GLOBAL: [&str; 5] = ["--addr", "--token", "--timeout", "--output", "-o"];

/// Commands that are not there, and what is.
const OTHERS: &[(&[&str], &str)] = &[
    (
        &["restart"],
        "is not in this version; a container that ends is started again by itself, and by hand on its host (`dokkaa ps -o wide` shows host and id): docker restart ID",
    ),
    (
        &["stop", "kill"],
        "is not in this version; `dokkaa scale APP/CONTAINER=0` stops all slots and keeps the manifest and the volumes",
    ),
    (
        &["start"],
        "is not in this version; `dokkaa scale APP/CONTAINER=N` starts slots, `dokkaa apply` writes a manifest",
    ),
    (
        &["exec", "attach", "shell", "ssh"],
        "is not in this version; on the host of the slot (`dokkaa ps -o wide` shows host and id): docker exec -it ID sh",
    ),
    (
        &["run", "create", "deploy", "job"],
        "is not in this version; `dokkaa apply APP/CONTAINER FILE` runs a manifest, and goes on running it: there are no one-off jobs yet",
    ),
    (
        &["env"],
        "is called `dokkaa etcd-env`; for the environment of a container, on the host of the slot (`dokkaa ps -o wide` shows host and id): docker exec ID env",
    ),
    (
        &["rollback"],
        "is not in this version; `dokkaa apply` or `dokkaa set` the manifest as it was",
    ),
    (
        &["ls", "list"],
        "does not exist; see `dokkaa apps`, `dokkaa ps`, `dokkaa hosts` and `dokkaa volumes`",
    ),
    (&["nodes", "node"], "does not exist; see `dokkaa hosts`"),
    (
        &["services", "service", "stack", "stacks", "containers"],
        "does not exist; see `dokkaa apps` and `dokkaa ps`",
    ),
    (
        &["inspect", "describe", "explain"],
        "does not exist; see `dokkaa why APP/CONTAINER`, and `dokkaa get` for its manifest",
    ),
    (&["delete", "remove"], "does not exist; see `dokkaa rm`"),
    (
        &["top", "stats"],
        "is not in this version; on the host of the slot: docker stats",
    ),
    (
        &["cp", "port-forward", "prune", "diff"],
        "is not in this version",
    ),
    (
        &["drain", "cordon"],
        "does not exist; `dokkaa pause HOST` gives a host no more slots, `dokkaa leave HOST` takes it out of the cluster",
    ),
    (&["uncordon"], "does not exist; see `dokkaa activate`"),
    (
        &["login"],
        "does not exist; `docker login` as root on each host: agents use its config.json (dokkaa agent --docker-config)",
    ),
];

/// Flags of the connection and the format that come before the command go behind it, where clap wants them.
pub(crate) fn sorted(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let mut at = 1;
    while let Some(argument) = arguments.get(at).and_then(|text| text.to_str()) {
        let has_value = |flag: &str| {
            let rest = argument.strip_prefix(flag);
            rest.is_some_and(|rest| rest.starts_with('=') || (flag == "-o" && !rest.is_empty()))
        };
        if GLOBAL.contains(&argument) {
            at += 2;
        } else if GLOBAL.iter().any(|flag| has_value(flag)) {
            at += 1;
        } else {
            break;
        }
    }
    // Without a command they are for clap to refuse.
    if at == 1 || at >= arguments.len() {
        return arguments;
    }
    let flags: Vec<OsString> = arguments.drain(1..at).collect();
    let end = arguments.iter().position(|text| text == OsStr::new("--"));
    let end = end.unwrap_or(arguments.len());
    arguments.splice(end..end, flags);
    arguments
}

/// What there is instead of a command that is not there.
pub(crate) fn other_command(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let ContextValue::String(name) = error.get(ContextKind::InvalidSubcommand)? else {
        return None;
    };
    let (_, hint) = OTHERS
        .iter()
        .find(|(names, _)| names.contains(&name.as_str()))?;
    Some(format!("`dokkaa {name}` {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_may_come_before_the_command() {
        let sorted = |line: &str| {
            let words = line.split(' ').map(OsString::from).collect();
            let words: Vec<_> = super::sorted(words)
                .into_iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect();
            words.join(" ")
        };
        for (written, read) in [
            ("dokkaa --addr h:1 ps shop", "dokkaa ps shop --addr h:1"),
            (
                "dokkaa --addr=h:1 -o json volumes rm x",
                "dokkaa volumes rm x --addr=h:1 -o json",
            ),
            ("dokkaa -ojson ps", "dokkaa ps -ojson"),
            ("dokkaa --timeout 5s x -- y", "dokkaa x --timeout 5s -- y"),
            ("dokkaa --addr h:1", "dokkaa --addr h:1"),
            ("dokkaa ps --addr h:1", "dokkaa ps --addr h:1"),
            ("dokkaa --version", "dokkaa --version"),
        ] {
            assert_eq!(sorted(written), read);
        }
    }

    #[test]
    fn no_hint_hides_a_command_that_is_there() {
        use clap::CommandFactory;
        let cli = crate::args::Cli::command();
        for (names, hint) in OTHERS {
            for name in *names {
                assert!(cli.find_subcommand(name).is_none(), "{name}: {hint}");
            }
        }
    }
}
