//! `dokkaa down`: stops the agent, its etcd and the cluster's containers, and
//! removes the firewall rules.
//!
//! A unit that runs it is disabled. Manifests and volumes stay for the next `up`. Processes are identified by pid
//! file and start time, containers by the cluster's label and `instances.json`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, bail};
use conductor::firewall;
use conductor::instances::Instances;
use engine::Engine;
use futures_util::{TryStreamExt, stream};
use model::identity::Notes;
use store::host::StateDir;
use uuid::Uuid;

use crate::args::values::duration_or_seconds;
use crate::pid_file::ProcessMark;
use crate::service::{self, Service};
use crate::{embedded_etcd, up};

const STOP_GRACE: Duration = Duration::from_secs(10);
// As many as an agent stops at a time.
const STOPS_AT_A_TIME: usize = 4;

/// What `down` takes besides state directory and engine.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DownArgs {
    /// Remove the state, too: manifests, identity, log; volumes stay
    #[arg(long)]
    pub(crate) purge: bool,
    /// How long containers may take to stop before they are killed; a bare number is in seconds
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration_or_seconds)]
    pub(crate) stop_timeout: Duration,
    /// Log file that --purge removes
    #[arg(
        long,
        value_name = "FILE",
        env = "DOKKAA_LOG_FILE",
        default_value = up::DEFAULT_LOG
    )]
    pub(crate) log_file: PathBuf,
}

/// Stops the cluster of this state directory. `engine` is called only once the agent
/// has ended and there is a cluster.
pub(crate) async fn run<E: Engine>(
    args: &DownArgs,
    state_dir: &Path,
    engine: impl FnOnce() -> anyhow::Result<E>,
) -> anyhow::Result<ExitCode> {
    let files = up::Files::of(state_dir);
    if !files.exist() {
        say(&format!(
            "no cluster of dokkaa up in {}: nothing to do",
            state_dir.display()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let agent = files.running();
    // First, whether or not its process runs just now: it would be back in a second, and after a reboot.
    if Service::find().is_some_and(|unit| unit.is_of(state_dir)) {
        service::systemctl(&["disable", "--now", "--quiet"])?;
    }
    if let Some(agent) = agent {
        end_agent(&agent)?;
        say("agent stopped");
    }
    if embedded_etcd::Files::of(state_dir)
        .end_leftover()
        .context("etcd does not end")?
    {
        say("etcd stopped");
    }
    // Opening it fails while any agent still has it.
    let cluster = StateDir::open(state_dir)?.cluster();
    if let Some(cluster) = cluster {
        let instances = Instances::open(state_dir).with_context(|| {
            format!(
                "cannot read which containers are ours in {}",
                state_dir.display()
            )
        })?;
        let removed =
            remove_containers(&engine()?, cluster.id, instances.notes(), args.stop_timeout)
                .await
                .context("not every container of this cluster could be removed")?;
        say(&format!("{removed} containers removed"));
    }
    match firewall::remove().await {
        Ok(true) => say("firewall rules removed"),
        Ok(false) => {}
        // Who may not change them could not set them either.
        Err(error) => say_error(&model::error::chain(&error)),
    }
    if args.purge {
        purge(state_dir, &args.log_file)?;
        say(&format!("{} removed", state_dir.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Stops the agent, through systemd if it is a unit's process.
fn end_agent(agent: &ProcessMark) -> anyhow::Result<()> {
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", agent.pid())).unwrap_or_default();
    if let Some(unit) = service_of(&cgroups) {
        let status = Command::new("systemctl")
            .args(["stop", unit])
            .status()
            .context("cannot run systemctl")?;
        if !status.success() {
            bail!("systemctl stop {unit} failed: {status}");
        }
    }
    agent.end(STOP_GRACE).context("the agent does not end")?;
    Ok(())
}

/// System service of a process with these cgroups.
fn service_of(cgroups: &str) -> Option<&str> {
    cgroups.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        let unit = path.strip_prefix("/system.slice/")?;
        (unit.ends_with(".service") && !unit.contains('/')).then_some(unit)
    })
}

/// Stops and removes this host's containers of one cluster, but no copies made by hand; returns their number.
async fn remove_containers(
    engine: &impl Engine,
    cluster: Uuid,
    notes: &Notes,
    timeout: Duration,
) -> anyhow::Result<usize> {
    let ours = notes.all_own(&engine.list(Some(cluster)).await?.labelled);
    let count = ours.len();
    stream::iter(ours.into_iter().map(Ok::<_, anyhow::Error>))
        .try_for_each_concurrent(STOPS_AT_A_TIME, |container| async move {
            if container.running().is_some() {
                engine.stop(&container.docker_id, timeout).await?;
            }
            Ok(engine.remove(&container.docker_id, true).await?)
        })
        .await?;
    Ok(count)
}

/// Removes the state directory and the log, and the log's folder if nothing
/// else is in it.
fn purge(state_dir: &Path, log_file: &Path) -> anyhow::Result<()> {
    fs::remove_dir_all(state_dir)
        .with_context(|| format!("cannot remove {}", state_dir.display()))?;
    for log in up::logs(log_file) {
        match fs::remove_file(&log) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {}", log.display()));
            }
            _ => {}
        }
    }
    if let Some(dir) = log_file.parent()
        && let Err(error) = fs::remove_dir(dir)
    {
        // It has other files, or does not exist.
        tracing::debug!(dir = %dir.display(), %error, "left where it is");
    }
    Ok(())
}

fn say(text: &str) {
    let _unread = writeln!(io::stdout().lock(), "{text}");
}

fn say_error(text: &str) {
    let _unread = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_seen_on_both_kinds_of_cgroups() {
        assert_eq!(
            service_of("0::/system.slice/dokkaa.service\n"),
            Some("dokkaa.service")
        );
        assert_eq!(
            service_of("12:pids:/\n1:name=systemd:/system.slice/dokkaa.service\n"),
            Some("dokkaa.service")
        );
        for other in [
            "0::/\n",
            "0::/user.slice/user-0.slice/session-1.scope\n",
            "0::/system.slice/docker.service/child\n",
            "",
        ] {
            assert_eq!(service_of(other), None, "{other}");
        }
    }

    #[test]
    fn purging_leaves_the_files_of_others() {
        let dir = tempfile::tempdir().expect("directory");
        let state = dir.path().join("state");
        let logs = dir.path().join("logs");
        for made in [state.join("etcd"), logs.clone()] {
            fs::create_dir_all(made).expect("made");
        }
        for file in ["agent.log", "agent.log.1", "other.log"] {
            fs::write(logs.join(file), "").expect("written");
        }
        purge(&state, &logs.join("agent.log")).expect("purged");
        assert!(!state.exists());
        let left: Vec<_> = fs::read_dir(&logs)
            .expect("read")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        assert_eq!(left, ["other.log"]);

        fs::remove_file(logs.join("other.log")).expect("removed");
        fs::create_dir(&state).expect("made");
        purge(&state, &logs.join("agent.log")).expect("purged again");
        assert!(!logs.exists());
    }
}
