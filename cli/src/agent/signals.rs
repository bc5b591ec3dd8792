//! What ends an agent.

use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{Signal as Source, SignalKind, signal};

/// systemd is asked no longer than this.
const ASK: Duration = Duration::from_millis(200);

/// A signal that ends the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
}

/// The signals that end an agent.
pub(crate) struct Signals {
    terminate: Source,
    interrupt: Source,
}

impl Signals {
    /// Catches them from now on.
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
        }
    }
}

/// systemd is shutting the machine down, not only the agent.
pub(crate) async fn machine_goes_down() -> bool {
    if !Path::new("/run/systemd/system").exists() {
        return false;
    }
    let ask = tokio::process::Command::new("systemctl")
        .arg("is-system-running")
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(ASK, ask).await {
        Ok(Ok(output)) => output.stdout.trim_ascii() == b"stopping",
        _ => false,
    }
}
