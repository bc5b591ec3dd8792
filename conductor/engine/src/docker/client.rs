//! The connection to the engine: the API version agreed on, deadlines, the class of a failure.
//!
//! Agrees on a version before the first call and again after each loss of the
//! connection; connects anew by itself. Holds no state of containers.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bollard::errors::Error;
use bollard::{Docker, models};
use model::error::chain;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::sockets::Namespaces;
use super::version::{self, ApiVersion, VersionError, choose};
use crate::{EngineError, Operation};

/// Deadline of a call that only reads.
pub(super) const READ: Duration = Duration::from_secs(20);
/// Deadline of a call that changes something: a loaded disk makes a create or remove slow.
pub(super) const WRITE: Duration = Duration::from_secs(60);
/// The client library's own deadline in seconds, for headers only; ours are shorter.
const LIBRARY: u64 = 3600;

/// A Docker Engine behind a unix socket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DockerEngine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    pinned: Option<ApiVersion>,
    /// None until a version was agreed on, and after the connection was lost.
    client: Mutex<Option<Client>>,
    namespaces: Namespaces,
}

/// A connection with an agreed version.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) docker: Docker,
    pub(super) version: ApiVersion,
    /// Where it keeps images and containers, once that was seen.
    pub(super) folders: Arc<OnceLock<Vec<PathBuf>>>,
}

impl DockerEngine {
    /// The engine behind `socket`. Nothing is asked of it yet.
    pub fn new(socket: &Path) -> Self {
        Self::with(socket, None)
    }

    /// The same, but always spoken to in `version`.
    pub fn pinned(socket: &Path, version: ApiVersion) -> Self {
        Self::with(socket, Some(version))
    }

    fn with(socket: &Path, pinned: Option<ApiVersion>) -> Self {
        Self {
            shared: Arc::new(Shared {
                socket: socket.to_owned(),
                pinned,
                client: Mutex::new(None),
                namespaces: Namespaces::default(),
            }),
        }
    }

    pub(super) async fn client(&self) -> Result<Client, EngineError> {
        let mut known = self.shared.client.lock().await;
        if let Some(client) = known.as_ref() {
            return Ok(client.clone());
        }
        let client = self.negotiate().await?;
        tracing::debug!(api = %client.version, "negotiated the Docker API version");
        *known = Some(client.clone());
        Ok(client)
    }

    /// Those of its containers that were looked into.
    pub(super) fn namespaces(&self) -> &Namespaces {
        &self.shared.namespaces
    }

    pub(super) async fn docker(&self) -> Result<Docker, EngineError> {
        Ok(self.client().await?.docker)
    }

    async fn negotiate(&self) -> Result<Client, EngineError> {
        let path = self.shared.socket.to_string_lossy();
        let plain = Docker::connect_with_unix(&path, LIBRARY, bollard::API_DEFAULT_VERSION)
            .map_err(|error| failure(Operation::Other, &error))?;
        let version = if let Some(version) = self.shared.pinned {
            version
        } else {
            let shown = within(Operation::Other, READ, plain.version()).await?;
            agree(&shown).map_err(|error| EngineError::Engine(error.to_string()))?
        };
        let docker = plain.with_request_modifier(move |mut request| {
            *request.uri_mut() = version::in_version(request.uri(), version);
            request
        });
        Ok(Client {
            docker,
            version,
            folders: Arc::default(),
        })
    }

    /// The next call negotiates again.
    pub(super) async fn forget(&self) {
        *self.shared.client.lock().await = None;
    }

    /// Reads something.
    pub(super) async fn read<T>(
        &self,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, EngineError> {
        self.call(Operation::Other, READ, call).await
    }

    /// Waits for a call, up to the deadline.
    pub(super) async fn call<T>(
        &self,
        operation: Operation,
        deadline: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, EngineError> {
        let result = within(operation, deadline, call).await;
        if let Err(EngineError::Unresponsive(_) | EngineError::Engine(_)) = &result {
            self.forget().await;
        }
        result
    }
}

/// The version to speak with the engine that shows this.
fn agree(shown: &models::SystemVersion) -> Result<ApiVersion, VersionError> {
    let newest = shown.api_version.as_deref().unwrap_or_default().parse()?;
    let oldest = shown
        .min_api_version
        .as_deref()
        .map(str::parse)
        .transpose()?;
    choose(newest, oldest)
}

async fn within<T>(
    operation: Operation,
    deadline: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, EngineError> {
    match timeout(deadline, call).await {
        Ok(result) => result.map_err(|error| failure(operation, &error)),
        Err(_) => Err(late(deadline)),
    }
}

/// "No such …" as an answer.
pub(super) fn absent<T>(result: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(EngineError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn late(deadline: Duration) -> EngineError {
    EngineError::Unresponsive(format!("no answer in {} s", deadline.as_secs()))
}

/// The class of a failed call.
pub(super) fn failure(operation: Operation, error: &Error) -> EngineError {
    match error {
        Error::DockerResponseServerError {
            status_code,
            message,
        } => EngineError::from_answer(operation, *status_code, message),
        Error::DockerStreamError { error } => EngineError::from_answer(operation, 0, error),
        Error::RequestTimeoutError
        | Error::IOError { .. }
        | Error::HyperResponseError { .. }
        | Error::HyperLegacyError { .. }
        | Error::SocketNotFoundError(_) => EngineError::Unresponsive(chain(error)),
        _ => EngineError::Engine(chain(error)),
    }
}
