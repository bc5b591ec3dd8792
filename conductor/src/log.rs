//! How the agent's log lines read.

use agent::{AgentLog, StateFile};

/// Writes a line.
pub(crate) fn write(line: AgentLog) {
    match line {
        AgentLog::Followed(revision) => {
            tracing::info!(revision, "etcd is followed: all is planned");
        }
        AgentLog::NotFollowed => {
            tracing::warn!("etcd can't be followed for now: only crashed containers are restarted");
        }
        AgentLog::Distrusted(reason) => tracing::error!(
            reason,
            "etcd is not the one that this host knows: nothing is changed but restarts of crashed containers"
        ),
        AgentLog::Restored(epoch) => tracing::warn!(
            epoch,
            "a restore was accepted: what runs here without a manifest is kept, and nothing is placed before the hosts are back"
        ),
        AgentLog::ManifestWarnings(of, revision, warnings) => {
            let warnings = warnings.join("; ");
            tracing::warn!(%of, %revision, warnings, "manifest has warnings; running it anyway");
        }
        AgentLog::ManifestInvalid(of, revision, errors) => {
            let errors = errors.join("; ");
            tracing::error!(%of, %revision, errors, "the manifest is not valid: nothing is changed for it");
        }
        AgentLog::EngineBack => tracing::info!("the Docker Engine answers again"),
        AgentLog::EngineUnresponsive(why) => {
            tracing::error!(why, "the Docker Engine does not answer");
        }
        AgentLog::NetworkChanged(now) => tracing::warn!(
            host_ip = %now.host_ip, gateway = %now.gateway, network = now.network,
            "the engine's network has changed: containers are replaced"
        ),
        AgentLog::GuardFailed(kind, work) => {
            tracing::debug!(%kind, ?work, "a write's guard did not hold");
        }
        AgentLog::Planned(revision, plan) => tracing::info!(revision, plan, "plan"),
        AgentLog::Waits(slot, reason) => tracing::info!(%slot, %reason, "slot is waiting"),
        AgentLog::SharedAddress(addr, one, other) => tracing::error!(
            %addr, %one, %other,
            "the Docker Engine gave one address to two containers: links are refused to both until one of them is restarted"
        ),
        AgentLog::Copied(copied) => tracing::warn!("{copied}"),
        AgentLog::NotSaved(file, error, true) => {
            tracing::debug!(error, "cannot write {}", name(file));
        }
        AgentLog::NotSaved(file @ StateFile::Orphans, error, false) => tracing::error!(
            error,
            "cannot write {}, which notes what an accepted restore left; only crashed containers are restarted",
            name(file)
        ),
        AgentLog::NotSaved(file @ StateFile::Instances, error, false) => tracing::error!(
            error,
            "cannot write {}; it is kept in memory and tried again",
            name(file)
        ),
        AgentLog::SavedAgain(file) => tracing::info!("{} is written again", name(file)),
    }
}

fn name(file: StateFile) -> &'static str {
    match file {
        StateFile::Orphans => "orphans.json",
        StateFile::Instances => "instances.json",
    }
}
