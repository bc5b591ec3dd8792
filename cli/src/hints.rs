//! Command lines as people type them who come from other tools.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Verbs of docker, kubectl and nomad that dokkaa has another name for, or no command yet.
const OTHERS: &[(&[&str], &str)] = &[
    (
        &["kill"],
        "does not exist; see `dokkaa stop` and `dokkaa restart`; of one container, on its host (`dokkaa ps -o wide` shows host and id): docker kill ID",
    ),
    (
        &["exec", "attach", "debug", "shell", "ssh"],
        "is not in this version; on the host of the slot (`dokkaa ps -o wide` shows host and id): docker exec -it ID sh",
    ),
    (
        &["run", "create", "deploy", "job", "jobs"],
        "is not in this version; `dokkaa apply APP/CONTAINER FILE` runs a manifest, and goes on running it: there are no one-off jobs yet",
    ),
    (
        &["alloc", "allocs", "pod", "pods", "task", "tasks"],
        "does not exist; they are called slots: `dokkaa ps` lists them, `dokkaa why APP/CONTAINER/SLOT` explains one, `dokkaa logs` prints its output",
    ),
    (
        &["compose"],
        "does not exist; `dokkaa apply DIR` runs an app, each container with a manifest of its own: DIR/APP/CONTAINER.json",
    ),
    (
        &["deployment", "deployments", "undo", "revert"],
        "does not exist; see `dokkaa rollout` for an update under way, `dokkaa history` for versions, and `dokkaa rollback` for the way back",
    ),
    (
        &["eval", "inspect", "describe", "explain"],
        "does not exist; see `dokkaa why APP/CONTAINER`, and `dokkaa get` for its manifest",
    ),
    (
        &[
            "edit",
            "patch",
            "replace",
            "update",
            "upgrade",
            "annotate",
            "autoscale",
        ],
        "does not exist; `dokkaa set` changes fields of a manifest, `dokkaa get` and `dokkaa apply` all of it",
    ),
    (
        &["delete", "remove", "destroy"],
        "does not exist; see `dokkaa rm` for apps and containers, `dokkaa hosts rm` for hosts and `dokkaa volumes rm` for data",
    ),
    (&["wait"], "does not exist; see `dokkaa apply --wait`"),
    (
        &["ls", "list"],
        "does not exist; see `dokkaa apps`, `dokkaa ps`, `dokkaa hosts` and `dokkaa volumes`",
    ),
    (
        &[
            "node",
            "nodes",
            "node-pool",
            "machine",
            "machines",
            "host",
            "server",
            "swarm",
        ],
        "does not exist; see `dokkaa hosts`; a host joins when `dokkaa agent` starts on it",
    ),
    (
        &[
            "service",
            "services",
            "stack",
            "stacks",
            "container",
            "containers",
            "app",
        ],
        "does not exist; see `dokkaa apps` and `dokkaa ps`",
    ),
    (&["volume"], "does not exist; see `dokkaa volumes`"),
    (
        &["info", "cluster-info", "system", "operator", "health"],
        "does not exist; see `dokkaa status` and `dokkaa hosts`",
    ),
    (
        &["monitor"],
        "does not exist; see `dokkaa events -f` and `dokkaa logs -f`",
    ),
    (
        &["cordon", "taint"],
        "does not exist; `dokkaa pause HOST` gives a host no more slots, `dokkaa drain HOST` moves them away",
    ),
    (
        &["uncordon", "unpause", "resume"],
        "does not exist; see `dokkaa activate` for a host, and `dokkaa rollout resume` for an update",
    ),
    (
        &[
            "network",
            "networks",
            "expose",
            "port",
            "port-forward",
            "proxy",
        ],
        "is not in this version; services are published by the manifest, `dokkaa ps` shows where, and `dokkaa why` shows links",
    ),
    (
        &[
            "image", "images", "pull", "push", "build", "rmi", "tag", "commit",
        ],
        "does not exist; hosts pull what a manifest names; build and push it with docker",
    ),
    (
        &["secret", "secrets", "config", "var"],
        "is not in this version; `env` of a manifest sets variables",
    ),
    (
        &["env"],
        "is called `dokkaa etcd-env`; for the environment of a container, on the host of the slot (`dokkaa ps -o wide` shows host and id): docker exec ID env",
    ),
    (
        &["top", "stats"],
        "is not in this version; on the host of the slot: docker stats",
    ),
    (
        &["cp", "rename"],
        "is not in this version; see `dokkaa --help`",
    ),
    (
        &["prune"],
        "does not exist; `dokkaa apply DIR --prune` removes what the apps in a directory have besides; hosts remove images when their disk is full",
    ),
    (
        &["login", "logout"],
        "does not exist; `docker login` as root on each host: agents use its config.json (dokkaa agent --docker-config)",
    ),
    (
        &["help"],
        "does not exist; see `dokkaa --help` and `dokkaa COMMAND --help`",
    ),
];

/// The same after `dokkaa hosts`.
const OTHERS_OF_HOSTS: &[(&[&str], &str)] = &[
    (
        &["delete", "remove", "forget"],
        "does not exist; `dokkaa leave HOST` takes a live host out of the cluster, `dokkaa hosts rm HOST` forgets a missing one",
    ),
    (
        &["ls", "list", "get", "show", "describe", "inspect", "status"],
        "does not exist; `dokkaa hosts` lists all of them",
    ),
    (&["label"], "does not exist; see `dokkaa label`"),
    (
        &["drain", "pause", "cordon", "leave", "activate", "uncordon"],
        "does not exist; see `dokkaa pause`, `dokkaa drain`, `dokkaa leave` and `dokkaa activate`",
    ),
];

/// Commands that nobody is led to by a typing error.
const NEVER_SUGGESTED: [&str; 6] = ["rm", "restore", "leave", "down", "stop", "restart"];
/// So many letters are a typing error.
const TYPING_ERROR: usize = 2;

/// What there is instead of a command that is not there.
pub(crate) fn other_command(error: &clap::Error) -> Option<String> {
    let name = unknown_command(error)?;
    let usage = error.get(ContextKind::Usage)?.to_string();
    let (after, others) = if usage.contains("dokkaa hosts") {
        ("dokkaa hosts", OTHERS_OF_HOSTS)
    } else {
        ("dokkaa", OTHERS)
    };
    let (_, hint) = others.iter().find(|(names, _)| names.contains(&name))?;
    Some(format!("`{after} {name}` {hint}"))
}

/// Without guesses that are far from what was typed, or that take something away.
pub(crate) fn with_safe_guesses(mut error: clap::Error) -> clap::Error {
    if let (Some(name), Some(ContextValue::Strings(guesses))) = (
        unknown_command(&error),
        error.get(ContextKind::SuggestedSubcommand),
    ) {
        let is_near = |guess: &&String| {
            strsim::damerau_levenshtein(guess, name) <= TYPING_ERROR
                && !NEVER_SUGGESTED.contains(&guess.as_str())
        };
        let guesses: Vec<String> = guesses.iter().filter(is_near).cloned().collect();
        error.remove(ContextKind::SuggestedSubcommand);
        if !guesses.is_empty() {
            error.insert(
                ContextKind::SuggestedSubcommand,
                ContextValue::Strings(guesses),
            );
        }
    }
    error
}

fn unknown_command(error: &clap::Error) -> Option<&str> {
    match error.get(ContextKind::InvalidSubcommand)? {
        ContextValue::String(name) if error.kind() == ErrorKind::InvalidSubcommand => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::args::Cli;

    #[test]
    fn no_hint_hides_a_command_that_is_there() {
        let cli = Cli::command();
        for (names, hint) in OTHERS {
            for name in *names {
                assert!(cli.find_subcommand(name).is_none(), "{name}: {hint}");
            }
        }
    }

    #[test]
    fn every_hint_is_found_and_names_commands_that_are_there() {
        let mut cli = Cli::command();
        cli.build();
        for (after, others) in [("dokkaa", OTHERS), ("dokkaa hosts", OTHERS_OF_HOSTS)] {
            for (names, hint) in others {
                for name in *names {
                    let line = format!("{after} {name} x");
                    let error = Cli::try_parse_from(line.split(' ')).expect_err(&line);
                    assert_eq!(error.exit_code(), 2, "{line}");
                    let told = other_command(&error);
                    assert_eq!(told, Some(format!("`{after} {name}` {hint}")), "{line}");
                }
                let commands = hint.split("`dokkaa ").skip(1);
                for command in commands.filter(|text| !text.starts_with(['-', 'C'])) {
                    let name = command.split([' ', '`']).next().unwrap_or_default();
                    assert!(cli.find_subcommand(name).is_some(), "{name}: {hint}");
                }
            }
        }
    }

    #[test]
    fn guesses_are_near_and_harmless() {
        let guesses = |name: &str| {
            let error = Cli::try_parse_from(["dokkaa", name, "x"]).expect_err(name);
            let error = with_safe_guesses(error);
            assert_eq!(error.exit_code(), 2);
            match error.get(ContextKind::SuggestedSubcommand) {
                Some(ContextValue::Strings(names)) => names.clone(),
                _ => Vec::new(),
            }
        };
        assert_eq!(guesses("aply"), ["apply"]);
        assert_eq!(guesses("volume-s"), ["volumes"]);
        for name in ["reset", "restor", "rmm", "leav", "frobnicate"] {
            assert_eq!(guesses(name), Vec::<String>::new(), "{name}");
        }
    }
}
