//! Runs the machine's `iptables`, the one that Docker uses, whichever part of the kernel that speaks to.

use std::io;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::rules::{Family, Shown};

/// How long one call may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Others change rules too, and hold the lock meanwhile.
const LOCK_WAIT: &str = "--wait=5";

/// What came of a call, if nothing good.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// There is no such program.
    #[error(
        "there is no program {program}: install the package iptables, also where Docker uses nftables"
    )]
    Missing {
        /// Its name.
        program: &'static str,
    },
    /// It could not be run.
    #[error("can't run {program}")]
    Run {
        /// Its name.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It refused, or the kernel did.
    #[error("{program} failed: {said}")]
    Failed {
        /// Its name.
        program: &'static str,
        /// Its complaint.
        said: String,
    },
    /// It did not end.
    #[error("{program} did not end within {} s", LIMIT.as_secs())]
    Silent {
        /// Its name.
        program: &'static str,
    },
}

/// The table `filter` of one family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Iptables {
    show: &'static str,
    restore: &'static str,
}

impl Iptables {
    pub(super) fn new(family: Family) -> Self {
        let (show, restore) = match family {
            Family::V4 => ("iptables", "iptables-restore"),
            Family::V6 => ("ip6tables", "ip6tables-restore"),
        };
        Self { show, restore }
    }

    pub(super) fn of(ip: IpAddr) -> Self {
        Self::new(Family::of(ip))
    }

    /// What stands.
    pub(super) async fn shown(&self) -> Result<Shown, IptablesError> {
        let text = call(self.show, "-S", "").await?;
        Ok(Shown::read(&text))
    }

    /// Whether nf_tables is behind it, which counts changes.
    pub(super) async fn is_counted(&self) -> Result<bool, IptablesError> {
        let version = call(self.show, "--version", "").await?;
        Ok(version.contains("nf_tables"))
    }

    /// Changes it, as a whole or not at all.
    pub(super) async fn load(&self, input: &str) -> Result<(), IptablesError> {
        call(self.restore, "--noflush", input).await.map(drop)
    }
}

/// Runs it to its end; what it printed.
async fn call(program: &'static str, flag: &str, input: &str) -> Result<String, IptablesError> {
    let run = |source| IptablesError::Run { program, source };
    let mut child = Command::new(program)
        .args([LOCK_WAIT, flag])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => IptablesError::Missing { program },
            _ => run(source),
        })?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // One that ends before it has read all says why by itself.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let ended = timeout(LIMIT, async {
        tokio::join!(feed, child.wait_with_output()).1
    });
    let output = ended
        .await
        .map_err(|_| IptablesError::Silent { program })?
        .map_err(run)?;
    if !output.status.success() {
        let said = complaint(&String::from_utf8_lossy(&output.stderr));
        return Err(IptablesError::Failed { program, said });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What it complained about, in one line.
fn complaint(stderr: &str) -> String {
    let lines = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with("Try `"));
    lines.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_way_to_fail_says_what_it_was() {
        let missing = call("no-such-program", "-S", "").await;
        assert!(
            matches!(missing, Err(IptablesError::Missing { .. })),
            "{missing:?}"
        );
        let failed = call("false", "-S", "").await;
        assert!(
            matches!(failed, Err(IptablesError::Failed { .. })),
            "{failed:?}"
        );
        assert_eq!(
            complaint("# Warning: tables\niptables v1.8.9: no\nTry `iptables -h'\n"),
            "iptables v1.8.9: no"
        );
    }
}
