//! Why the engine did not do what it was asked, classed by whose fault it is.
//!
//! Docker says little by status code: a missing host path is a 400, a taken
//! port a 500. So the class comes from the text too, of engines from 20.10 on.

use std::time::Duration;

/// What was asked for when something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Pull of an image.
    Pull,
    /// Making a container.
    Create,
    /// Starting one.
    Start,
    /// Anything else.
    Other,
}

/// What is wrong with the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostFault {
    /// An address and port that is to be published is in use.
    PortTaken,
    /// An address that is to be published is not this machine's.
    AddressMissing,
    /// A path or volume that is to be mounted does not exist or does not fit.
    Mount,
    /// The disk is full.
    NoSpace,
    /// Not enough memory, processes or other resources.
    Resources,
    /// The network to join does not exist.
    Network,
    /// The registry can't be reached from here.
    RegistryUnreachable,
}

/// Why the engine did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// There is no such container or image, here or in its registry.
    #[error("{0}")]
    NotFound(String),
    /// Something else is going on with the same object; try again.
    #[error("{0}")]
    Conflict(String),
    /// It can't work on any host: the manifest's fault.
    #[error("{0}")]
    BadRequest(String),
    /// It can't work on this host as it is now.
    #[error("{message}")]
    HostFault {
        /// What is wrong.
        fault: HostFault,
        /// What the engine says.
        message: String,
    },
    /// The registry wants (other) credentials, or has no such repository: it does not say which.
    #[error("{0}")]
    Auth(String),
    /// The registry wants us to come back later.
    #[error("{message}")]
    RateLimited {
        /// When, if it said so.
        retry_after: Option<Duration>,
        /// What it said.
        message: String,
    },
    /// The engine did not answer, or not in time. What was asked may have happened.
    #[error("the Docker Engine does not answer: {0}")]
    Unresponsive(String),
    /// The engine failed in a way that is not known; worth another try.
    #[error("{0}")]
    Engine(String),
}
