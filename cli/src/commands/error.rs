//! How a command ends when it is not done, and with which exit code.

/// Why a command is not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// Who read our output has gone: a clean end.
    #[error("the output is closed")]
    Closed,
    /// It was tried, and failed.
    #[error("{0}")]
    Failed(String),
    /// It was asked for in a way that can't be right.
    #[error("{0}")]
    Usage(String),
    /// A manifest is invalid.
    #[error("{}", lines(of, problems))]
    Invalid {
        /// Which.
        of: String,
        /// `line:column field: what`, each.
        problems: Vec<String>,
    },
    /// `--wait`: it will not come as wanted.
    #[error("{0}")]
    NotConverged(String),
    /// `--wait`: it did not come in time.
    #[error("{0}")]
    TimedOut(String),
    /// No agent answered.
    #[error(
        "no agent answers at {addr} ({why}); start one with `dokkaa up` or `dokkaa agent`, or name another with --addr or DOKKAA_ADDR"
    )]
    Unreached {
        /// Where it was looked for.
        addr: String,
        /// What happened there.
        why: String,
    },
}

impl CommandError {
    /// The process's exit code; part of the interface.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Invalid { .. } => 3,
            Self::NotConverged(_) => 4,
            Self::TimedOut(_) => 5,
            Self::Unreached { .. } => 6,
        }
    }
}

fn lines(of: &str, problems: &[String]) -> String {
    let lines: Vec<String> = problems.iter().map(|p| format!("{of}:{p}")).collect();
    lines.join("\n")
}
