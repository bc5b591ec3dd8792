//! Client side of the peer API: one connection per request, pinned to the certificate of the host that is asked.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::header::HOST;
use axum::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::{BodyExt, Collected, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use manifests::{HostName, SlotId};
use model::events::Wanted;
use model::records::Peer;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::identity::Identity;
use super::stream::{self, StreamError};
use super::table::PeerTable;
use super::tls;
use crate::v1::types::{ApiError, CheckPort, HoldReport, LogOptions, Reach, Reasons, Tried};
use crate::v1::{EventStream, HostError, LogStream, Peers};

const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(5);
/// For requests that an engine has to carry out first.
const WORK: Duration = Duration::from_secs(20);
/// Largest answer that is not a stream.
const LARGEST: usize = 4 << 20;

/// Client of other agents.
#[derive(Debug)]
pub struct PeerClient {
    identity: Arc<Identity>,
    table: Arc<PeerTable>,
}

/// Errors of a request to another agent.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    #[error("its record names no peer listener")]
    NoListener,
    #[error("no answer from {0}")]
    Timeout(SocketAddr),
    #[error("{0} accepts the connection and does not answer")]
    Silent(SocketAddr),
    #[error("{0}")]
    Connect(#[source] io::Error),
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),
    #[error("TLS: {0}")]
    Config(#[source] rustls::Error),
    #[error("{0}")]
    Http(#[source] hyper::Error),
    #[error("{0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("it answered {0}: {1}")]
    Status(StatusCode, String),
    #[error("its answer can't be parsed: {0}")]
    Parse(#[source] serde_json::Error),
}

impl PeerError {
    /// An agent without this route is of an older version.
    pub(super) fn or_older(self, lacks: &str) -> Self {
        match self {
            Self::Status(StatusCode::NOT_FOUND, _) => {
                Self::Body(format!("its agent is older and has no {lacks}").into())
            }
            error => error,
        }
    }
}

impl From<PeerError> for (Reach, String) {
    fn from(error: PeerError) -> Self {
        let reach = match &error {
            PeerError::NoListener | PeerError::Config(_) => Reach::Unknown,
            PeerError::Timeout(_) => Reach::TimedOut,
            PeerError::Silent(_) => Reach::Silent,
            PeerError::Connect(error) => Reach::of(error),
            PeerError::Tls(_)
            | PeerError::Http(_)
            | PeerError::Body(_)
            | PeerError::Status(..)
            | PeerError::Parse(_) => Reach::Wrong,
        };
        (reach, error.to_string())
    }
}

impl From<PeerError> for HostError {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::Status(StatusCode::NOT_FOUND, _) => Self::NotFound,
            PeerError::Status(StatusCode::CONFLICT, why) => Self::InUse(why),
            PeerError::Status(StatusCode::BAD_GATEWAY, why) => Self::Engine(why),
            error => Self::Unreachable(error.to_string()),
        }
    }
}

pub(super) struct PeerResponse {
    pub(super) response: Response<Incoming>,
    pub(super) fingerprint: String,
    /// Ends the connection with the request.
    pub(super) connection: AbortOnDropHandle<()>,
}

impl PeerClient {
    /// A client with this certificate, for the hosts in `table`.
    pub fn new(identity: Arc<Identity>, table: Arc<PeerTable>) -> Self {
        Self { identity, table }
    }

    pub(super) fn table(&self) -> &Arc<PeerTable> {
        &self.table
    }

    pub(super) async fn send(
        &self,
        method: Method,
        host: &HostName,
        path: &str,
    ) -> Result<PeerResponse, PeerError> {
        let Peer { addr, fingerprint } = self.table.get(host).ok_or(PeerError::NoListener)?;
        let late = |_| PeerError::Timeout(addr);
        let silent = |_| PeerError::Silent(addr);
        let config = tls::client(&self.identity, fingerprint.clone()).map_err(PeerError::Config)?;
        let stream = timeout(CONNECT, TcpStream::connect(addr)).await;
        let stream = stream.map_err(late)?.map_err(PeerError::Connect)?;
        stream.set_nodelay(true).map_err(PeerError::Connect)?;
        let name = ServerName::IpAddress(addr.ip().into());
        let connector = TlsConnector::from(Arc::new(config));
        let stream = timeout(CONNECT, connector.connect(name, stream)).await;
        let stream = stream.map_err(silent)?.map_err(PeerError::Tls)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(PeerError::Http)?;
        let connection = tokio::spawn(async move {
            // Its error is the response's, too.
            let _ = connection.await;
        });
        let connection = AbortOnDropHandle::new(connection);
        let within = if method == Method::GET { ANSWER } else { WORK };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, addr.to_string())
            .body(Empty::<Bytes>::new())
            .expect("paths of names and numbers are legal");
        let response = timeout(within, sender.send_request(request)).await;
        let response = response.map_err(silent)?.map_err(PeerError::Http)?;
        let status = response.status();
        if !status.is_success() {
            let body = read_body(response).await?;
            return Err(PeerError::Status(status, error_text(&body)));
        }
        Ok(PeerResponse {
            response,
            fingerprint,
            connection,
        })
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        host: &HostName,
        path: &str,
    ) -> Result<T, PeerError> {
        let answer = self.send(Method::GET, host, path).await?;
        let body = read_body(answer.response).await?;
        serde_json::from_slice(&body).map_err(PeerError::Parse)
    }

    async fn post<T: DeserializeOwned>(&self, host: &HostName, path: &str) -> Result<T, PeerError> {
        let answer = self.send(Method::POST, host, path).await?;
        let body = read_body(answer.response).await?;
        serde_json::from_slice(&body).map_err(PeerError::Parse)
    }

    async fn stream<T: DeserializeOwned + Send + 'static>(
        &self,
        host: &HostName,
        path: &str,
        query: &impl Serialize,
    ) -> Result<BoxStream<'static, Result<T, StreamError>>, PeerError> {
        let query = serde_urlencoded::to_string(query).expect("a flat struct");
        let path = format!("{path}?{query}");
        let answer = self.send(Method::GET, host, &path).await?;
        let body = answer.response.into_body();
        let table = self.table.clone();
        let records = stream::decode(body, answer.connection, table, answer.fingerprint);
        Ok(records.boxed())
    }
}

#[async_trait]
impl Peers for PeerClient {
    async fn reasons(&self, host: &HostName) -> Result<Reasons, String> {
        let answer = self.get(host, "/peer/v1/reasons").await;
        answer.map_err(|e| e.to_string())
    }

    async fn hold(&self, host: &HostName) -> Result<HoldReport, String> {
        let answer = self.get(host, "/peer/v1/hold").await;
        answer.map_err(|e| e.to_string())
    }

    async fn check_port(&self, host: &HostName) -> Result<Option<CheckPort>, (Reach, String)> {
        match self.post(host, "/peer/v1/check-port").await {
            Ok(port) => Ok(Some(port)),
            // It is who it should be, and of an older version.
            Err(PeerError::Status(StatusCode::NOT_FOUND, _)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn check(&self, host: &HostName, hosts: &[HostName]) -> Result<Vec<Tried>, String> {
        let names: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
        let path = format!("/peer/v1/check?hosts={}", names.join(","));
        let tried = self.post(host, &path).await;
        tried.map_err(|error| error.or_older("check of hosts").to_string())
    }

    async fn volume_names(&self, host: &HostName) -> Result<BTreeSet<String>, HostError> {
        let names = self.get(host, "/peer/v1/volumes").await;
        Ok(names.map_err(|error| error.or_older("list of volumes"))?)
    }

    async fn remove_volume(
        &self,
        host: &HostName,
        slot: &SlotId,
        volume: &str,
    ) -> Result<(), HostError> {
        let path = format!("/peer/v1/volumes/{slot}/{volume}");
        self.send(Method::DELETE, host, &path).await?;
        Ok(())
    }

    async fn logs(
        &self,
        host: &HostName,
        slot: &SlotId,
        options: &LogOptions,
    ) -> Result<LogStream, HostError> {
        let path = format!("/peer/v1/logs/{slot}");
        let lines = self.stream(host, &path, options).await?;
        let error = |error| match error {
            StreamError::Remote(why) => HostError::Engine(why),
            StreamError::Disconnected(why) => HostError::Unreachable(why),
        };
        Ok(lines.map_err(error).boxed())
    }

    async fn events(&self, host: &HostName, wanted: &Wanted) -> Result<EventStream, String> {
        let events = self.stream(host, "/peer/v1/events", wanted).await;
        let events = events.map_err(|error| error.or_older("events").to_string())?;
        let error = |(StreamError::Remote(why) | StreamError::Disconnected(why))| why;
        Ok(events.map_err(error).boxed())
    }
}

async fn read_body(response: Response<Incoming>) -> Result<Bytes, PeerError> {
    let body = Limited::new(response.into_body(), LARGEST).collect();
    match timeout(ANSWER, body).await {
        Ok(body) => body.map(Collected::to_bytes).map_err(PeerError::Body),
        Err(_) => Err(PeerError::Body("timed out reading its answer".into())),
    }
}

fn error_text(body: &[u8]) -> String {
    match serde_json::from_slice::<ApiError>(body) {
        Ok(error) => error.error,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    }
}
