//! One client at a time, at one of the endpoints; the next one after a failure.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_client::{Channel, Client, ConnectOptions, Error};
use tonic::Code;
use tonic::transport::Endpoint;
use tracing::debug;

use super::access;
use super::own_certificate::OwnCertificate;
use crate::kv::KvError;

/// The endpoints, and a client at the one that is in use.
#[derive(Debug)]
pub(super) struct Clients {
    targets: Arc<Vec<(String, Endpoint)>>,
    connect: ConnectOptions,
    own: Option<Arc<OwnCertificate>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    index: usize,
    /// Counts endpoints given up: a failure is only counted against the client that failed.
    generation: u64,
    client: Option<Client>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("index", &self.index)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// A client, and which one it is.
#[derive(Clone)]
pub(super) struct Attempt {
    pub(super) client: Client,
    pub(super) generation: u64,
}

impl Clients {
    pub(super) fn new(
        targets: Arc<Vec<(String, Endpoint)>>,
        connect: ConnectOptions,
        own: Option<Arc<OwnCertificate>>,
        first: usize,
    ) -> Self {
        Self {
            state: Mutex::new(State {
                index: first % targets.len().max(1),
                ..State::default()
            }),
            targets,
            connect,
            own,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.targets.len()
    }

    /// The client in use, connected when it is first used; with a user it logs in first.
    pub(super) async fn attempt(&self) -> Result<Attempt, KvError> {
        let (index, generation) = {
            let state = self.state();
            if let Some(client) = &state.client {
                return Ok(Attempt {
                    client: client.clone(),
                    generation: state.generation,
                });
            }
            (state.index, state.generation)
        };
        let (_, endpoint) = &self.targets[index];
        let channel = Channel::Tonic(endpoint.connect_lazy());
        let made = Client::from_channel(channel, Some(self.connect.clone())).await;
        let client = made.map_err(|error| self.failed_with(generation, error))?;
        let mut state = self.state();
        if state.generation == generation {
            state.client = Some(client.clone());
        }
        Ok(Attempt { client, generation })
    }

    /// What an error means; one that speaks against the endpoint makes the next one the one in use.
    pub(super) fn failed(&self, attempt: &Attempt, error: Error) -> KvError {
        self.failed_with(attempt.generation, error)
    }

    fn failed_with(&self, generation: u64, error: Error) -> KvError {
        let name = self.name(generation);
        let error = map(error, &name, self.own.as_deref());
        if let KvError::Unavailable(why) = &error {
            debug!(endpoint = name, %why, "etcd endpoint given up");
            self.give_up_generation(generation);
        }
        error
    }

    /// No answer in time from the endpoint that was in use then. Another may be by now, which is not to blame.
    pub(super) fn late(&self, generation: u64) -> KvError {
        let why = Failure(format!("{}: no answer in time", self.name(generation)));
        self.give_up_generation(generation);
        KvError::Unavailable(Arc::new(why))
    }

    /// The endpoint is to be left.
    pub(super) fn give_up(&self, attempt: &Attempt) {
        self.give_up_generation(attempt.generation);
    }

    /// Whatever is in use is to be left.
    pub(super) fn give_up_present(&self) {
        let generation = self.state().generation;
        self.give_up_generation(generation);
    }

    /// Which endpoint is in use; counts those given up.
    pub(super) fn generation(&self) -> u64 {
        self.state().generation
    }

    /// The endpoint that was in use then is to be left, if it has not been.
    pub(super) fn give_up_generation(&self, generation: u64) {
        let mut state = self.state();
        if state.generation == generation {
            state.generation += 1;
            state.index = (state.index + 1) % self.targets.len();
            state.client = None;
        }
    }

    /// The endpoint that was in use then: each that was given up was followed by the next one.
    fn name(&self, generation: u64) -> String {
        let state = self.state();
        let count = self.targets.len();
        let since = (state.generation.saturating_sub(generation) % count as u64) as usize;
        self.targets[(state.index + count - since) % count]
            .0
            .clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What went wrong, for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Failure(pub(super) String);

/// What an error of the client means.
fn map(error: Error, endpoint: &str, own: Option<&OwnCertificate>) -> KvError {
    let unavailable = |why: String| {
        let why = match access::certificate(&why, own) {
            Some(meaning) => format!("{meaning} ({why})"),
            None => why,
        };
        KvError::Unavailable(Arc::new(Failure(format!("{endpoint}: {why}"))))
    };
    let status = match error {
        Error::GRpcStatus(status) => status,
        Error::InvalidArgs(why) => return KvError::Refused(why),
        // The answer to the first renewal of a lease that has ended.
        Error::LeaseKeepAliveError(why) if why.contains("not found") => {
            return KvError::LeaseNotFound;
        }
        other => return unavailable(other.to_string()),
    };
    let message = status.message();
    match status.code() {
        // Also the code for a message above the decode limit.
        Code::OutOfRange if message.contains("compacted") => KvError::Compacted,
        Code::ResourceExhausted if message.contains("database space exceeded") => KvError::NoSpace,
        // A member that has much to apply; the others may have not.
        Code::ResourceExhausted if message.contains("too many requests") => {
            unavailable(message.to_owned())
        }
        Code::NotFound if message.contains("lease not found") => KvError::LeaseNotFound,
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::Aborted
        | Code::Unauthenticated => {
            let mut why = message.to_owned();
            if why.contains("no leader") {
                why.push_str(": too few members of etcd run, or they are electing one");
            }
            unavailable(causes(why, std::error::Error::source(&status)))
        }
        _ => access::refused(message),
    }
}

/// A message and its causes, each said once: the layers of the client repeat each other.
fn causes(message: String, mut source: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut said = vec![message];
    while let Some(error) = source {
        let cause = error.to_string();
        if cause != "transport error" && !said.iter().any(|known| known.contains(&cause)) {
            said.push(cause);
        }
        source = error.source();
    }
    said.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cause_is_said_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Layer(&'static str, #[source] Option<Box<Layer>>);
        let mut chain = None;
        for text in ["Connection refused", "tcp connect error", "transport error"] {
            chain = Some(Box::new(Layer(text, chain)));
        }
        let chain = chain.expect("three layers");
        let why = causes("tcp connect error".to_owned(), Some(&*chain));
        assert_eq!(why, "tcp connect error: Connection refused");
    }

    #[test]
    fn a_member_that_is_behind_is_not_a_refusal() {
        // Etcd 3.4 and 3.5 say it with the code for what they have no code for.
        for code in [Code::Unknown, Code::ResourceExhausted] {
            let status = tonic::Status::new(code, "etcdserver: too many requests");
            let error = map(Error::GRpcStatus(status), "m1", None);
            let KvError::Unavailable(why) = &error else {
                panic!("{error:?}");
            };
            assert_eq!(why.to_string(), "m1: etcdserver: too many requests");
        }
    }
}
