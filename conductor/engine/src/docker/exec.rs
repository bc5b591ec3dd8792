//! A command inside a container.

use std::time::Duration;

use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures_util::StreamExt;
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
        match timeout(limit, reading).await {
            Ok(read) => read?,
            Err(_) => return Ok(ExecOutput { code: None, output }),
        }
    }
    let code = engine.read(docker.inspect_exec(&exec)).await?.exit_code;
    Ok(ExecOutput { code, output })
}
