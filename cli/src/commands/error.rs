//! Errors of commands, and their exit codes.

use std::fmt::Display;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The reader of our output has closed the pipe: exit code 0.
    #[error("the output is closed")]
    Closed,
    /// The operation failed.
    #[error("{0}")]
    Failed(String),
    /// Invalid arguments.
    #[error("{0}")]
    Usage(String),
    /// A manifest is invalid.
    #[error("{}", .0.join("\n"))]
    Invalid(
        /// `manifest:line:column field: what`, each.
        Vec<String>,
    ),
    /// `--wait`: it failed.
    #[error("{0}")]
    NotConverged(String),
    /// `rollout status`: it has failed; how, is printed.
    #[error("the rollout has failed")]
    RolloutFailed,
    /// `--wait`: timed out.
    #[error("{0}")]
    TimedOut(String),
    /// `plan`: something would change; what, is printed.
    #[error("something would change")]
    Changes,
    /// No agent answered.
    #[error(
        "no agent answers at {addr} ({why}); start one with `dokkaa up` or `dokkaa agent`, or name another with --addr or DOKKAA_ADDR"
    )]
    Unreached {
        /// Its URL.
        addr: String,
        /// The cause.
        why: String,
    },
}

impl CommandError {
    /// The problems of one manifest.
    pub(crate) fn invalid(of: &str, problems: impl IntoIterator<Item = impl Display>) -> Self {
        let problems = problems.into_iter();
        Self::Invalid(problems.map(|problem| format!("{of}:{problem}")).collect())
    }

    /// The process's exit code; part of the interface.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Invalid(_) => 3,
            Self::NotConverged(_) | Self::RolloutFailed => 4,
            Self::TimedOut(_) => 5,
            Self::Unreached { .. } => 6,
            Self::Changes => 10,
        }
    }

    /// The command has said all there is to say.
    pub(crate) fn is_said(&self) -> bool {
        matches!(self, Self::Closed | Self::Changes | Self::RolloutFailed)
    }
}
