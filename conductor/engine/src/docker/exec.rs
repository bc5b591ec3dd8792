//! A command inside a container.

use std::time::Duration;

use bollard::Docker;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures_util::StreamExt;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::timeout;

use super::client::{DockerEngine, WRITE, failure};
use crate::{EngineError, ExecOutput, Operation};

/// Bytes of a command's output that are kept.
const OUTPUT: usize = 16 * 1024;

/// Only the command itself counts against the limit: an engine that does not answer says nothing about it.
pub(super) async fn run(
    engine: &DockerEngine,
    id: &str,
    command: &[String],
    limit: Duration,
) -> Result<ExecOutput, EngineError> {
    let docker = engine.docker().await?;
    let options = CreateExecOptions::<String> {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(command.to_vec()),
        ..CreateExecOptions::default()
    };
    let exec = engine.read(docker.create_exec(id, options)).await?.id;
    let start = docker.start_exec(&exec, None::<StartExecOptions>);
    let started = engine.call(Operation::Start, WRITE, start).await?;
    let mut output = Vec::new();
    if let StartExecResults::Attached {
        output: mut stream, ..
    } = started
    {
        // What is beyond the limit is read too: the command would wait for its reader otherwise.
        let reading = async {
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.map_err(|error| failure(Operation::Other, &error))?;
                let room = OUTPUT - output.len();
                let bytes = chunk.as_ref();
                output.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Ok::<_, EngineError>(())
        };
        if let Ok(read) = timeout(limit, reading).await {
            read?;
        } else {
            end(engine, &docker, &exec).await;
            return Ok(ExecOutput { code: None, output });
        }
    }
    let code = engine.read(docker.inspect_exec(&exec)).await?.exit_code;
    Ok(ExecOutput { code, output })
}

/// Kills a command that ran into its limit, as the engine does with those of its own healthchecks; the API has no call for
/// it. What it has started lives on.
async fn end(engine: &DockerEngine, docker: &Docker, exec: &str) {
    let pid = || async {
        let shown = engine.read(docker.inspect_exec(exec)).await.ok()?;
        let pid = shown.pid.filter(|_| shown.running == Some(true))?;
        Pid::from_raw(i32::try_from(pid).ok()?)
    };
    let Some(process) = pid().await else { return };
    let Ok(held) = pidfd_open(process, PidfdFlags::empty()) else {
        return;
    };
    // Held, the number is no other process's.
    if pid().await == Some(process)
        && let Err(error) = pidfd_send_signal(held, Signal::KILL)
    {
        tracing::debug!(%error, "a command that ran into its time limit goes on");
    }
}
