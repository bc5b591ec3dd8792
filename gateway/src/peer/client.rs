//! The calling side: one connection for one question, pinned to the certificate of the host that is asked.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::header::HOST;
use axum::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use manifests::{HostName, SlotId};
use model::events::Wanted;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::identity::Identity;
use super::stream::{self, Broken};
use super::table::Table;
use super::tls;
use crate::v1::types::{ApiError, HoldReport, LogOptions, Reasons};
use crate::v1::{EventStream, LogStream, LogsError, Peers, VolumeError};

const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(5);
/// What the other side has to do first: an engine may take its time.
const WORK: Duration = Duration::from_secs(20);
/// Largest answer that is not a stream.
const LARGEST: usize = 4 << 20;

/// Asks other agents.
#[derive(Debug)]
pub struct Client {
    identity: Arc<Identity>,
    table: Arc<Table>,
}

/// Why a host could not be asked.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("its record names no peer door")]
    NoDoor,
    #[error("no answer from {0}")]
    Silent(std::net::SocketAddr),
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
    Refused(StatusCode, String),
    #[error("it answered what can't be read: {0}")]
    Unreadable(#[source] serde_json::Error),
}

/// Ends the connection's task with the question.
pub(super) struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// A caller of this identity.
    pub fn new(identity: Arc<Identity>, table: Arc<Table>) -> Self {
        Self { identity, table }
    }

    async fn ask(
        &self,
        method: Method,
        host: &HostName,
        path: &str,
    ) -> Result<(Response<Incoming>, Connection, String), AskError> {
        let door = self.table.door(host).ok_or(AskError::NoDoor)?;
        let silent = |_| AskError::Silent(door.addr);
        let config =
            tls::client(&self.identity, door.fingerprint.clone()).map_err(AskError::Config)?;
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect(door.addr))
            .await
            .map_err(silent)?
            .map_err(AskError::Connect)?;
        stream.set_nodelay(true).map_err(AskError::Connect)?;
        let name = ServerName::IpAddress(door.addr.ip().into());
        let connector = TlsConnector::from(Arc::new(config));
        let stream = tokio::time::timeout(CONNECT, connector.connect(name, stream))
            .await
            .map_err(silent)?
            .map_err(AskError::Tls)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(AskError::Http)?;
        let task = Connection(tokio::spawn(async move {
            // What goes wrong is seen by who awaits the answer.
            let _ = connection.await;
        }));
        let within = if method == Method::GET { ANSWER } else { WORK };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, door.addr.to_string())
            .body(Empty::<Bytes>::new())
            .expect("paths of names and numbers are legal");
        let response = tokio::time::timeout(within, sender.send_request(request))
            .await
            .map_err(silent)?
            .map_err(AskError::Http)?;
        Ok((response, task, door.fingerprint))
    }

    /// A whole answer.
    async fn answer(&self, method: Method, host: &HostName, path: &str) -> Result<Bytes, AskError> {
        let (response, connection, _) = self.ask(method, host, path).await?;
        let status = response.status();
        let body = tokio::time::timeout(ANSWER, whole(response))
            .await
            .map_err(|_| AskError::Body("no end of its answer".into()))??;
        drop(connection);
        if !status.is_success() {
            return Err(AskError::Refused(status, error_text(&body)));
        }
        Ok(body)
    }

    async fn read<T: DeserializeOwned>(&self, host: &HostName, path: &str) -> Result<T, AskError> {
        let body = self.answer(Method::GET, host, path).await?;
        serde_json::from_slice(&body).map_err(AskError::Unreadable)
    }
}

#[async_trait]
impl Peers for Client {
    async fn reasons(&self, host: &HostName) -> Result<Reasons, String> {
        let answer = self.read(host, "/peer/v1/reasons").await;
        answer.map_err(|e| e.to_string())
    }

    async fn hold(&self, host: &HostName) -> Result<HoldReport, String> {
        let answer = self.read(host, "/peer/v1/hold").await;
        answer.map_err(|e| e.to_string())
    }

    async fn volume_names(&self, host: &HostName) -> Result<BTreeSet<String>, VolumeError> {
        match self.read(host, "/peer/v1/volumes").await {
            Ok(names) => Ok(names),
            Err(AskError::Refused(StatusCode::NOT_FOUND, _)) => Err(VolumeError::Unreachable(
                "its agent is older and does not list them".to_owned(),
            )),
            Err(AskError::Refused(StatusCode::BAD_GATEWAY, why)) => Err(VolumeError::Engine(why)),
            Err(error) => Err(VolumeError::Unreachable(error.to_string())),
        }
    }

    async fn remove_volume(
        &self,
        host: &HostName,
        slot: &SlotId,
        volume: &str,
    ) -> Result<(), VolumeError> {
        let path = format!("/peer/v1/volumes/{slot}/{volume}");
        match self.answer(Method::DELETE, host, &path).await {
            Ok(_) => Ok(()),
            Err(AskError::Refused(StatusCode::CONFLICT, why)) => Err(VolumeError::InUse(why)),
            Err(AskError::Refused(StatusCode::BAD_GATEWAY, why)) => Err(VolumeError::Engine(why)),
            Err(error) => Err(VolumeError::Unreachable(error.to_string())),
        }
    }

    async fn logs(
        &self,
        host: &HostName,
        slot: &SlotId,
        options: &LogOptions,
    ) -> Result<LogStream, LogsError> {
        let unreachable = |error: AskError| LogsError::Unreachable(error.to_string());
        let path = format!("/peer/v1/logs/{slot}?{}", query(options));
        let (response, connection, fingerprint) = self
            .ask(Method::GET, host, &path)
            .await
            .map_err(unreachable)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(LogsError::NotFound),
            status => {
                let body = tokio::time::timeout(ANSWER, whole(response)).await;
                let text = match body {
                    Ok(Ok(body)) => error_text(&body),
                    _ => status.to_string(),
                };
                return Err(LogsError::Engine(text));
            }
        }
        let lines = stream::decode(
            response.into_body(),
            connection,
            self.table.clone(),
            fingerprint,
        );
        Ok(Box::pin(lines.map(|line| {
            line.map_err(|broken| match broken {
                Broken::There(why) => LogsError::Engine(why),
                Broken::Lost(why) => LogsError::Unreachable(why),
            })
        })))
    }

    async fn events(&self, host: &HostName, wanted: &Wanted) -> Result<EventStream, String> {
        let path = format!("/peer/v1/events?{}", events_query(wanted));
        let asked = self.ask(Method::GET, host, &path).await;
        let (response, connection, fingerprint) = asked.map_err(|e| e.to_string())?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err("its agent is older and tells none".to_owned()),
            status => return Err(format!("it answered {status}")),
        }
        let events = stream::decode(
            response.into_body(),
            connection,
            self.table.clone(),
            fingerprint,
        );
        Ok(Box::pin(events.map(|event| {
            event.map_err(|broken| match broken {
                Broken::There(why) | Broken::Lost(why) => why,
            })
        })))
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, AskError> {
    Limited::new(response.into_body(), LARGEST)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(AskError::Body)
}

fn error_text(body: &[u8]) -> String {
    match serde_json::from_slice::<ApiError>(body) {
        Ok(error) => error.error,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    }
}

fn query(options: &LogOptions) -> String {
    use std::fmt::Write as _;
    let mut query = format!("follow={}&previous={}", options.follow, options.previous);
    if let Some(tail) = options.tail {
        let _ = write!(query, "&tail={tail}");
    }
    if let Some(since) = options.since {
        let _ = write!(query, "&since={since}");
    }
    query
}

fn events_query(wanted: &Wanted) -> String {
    use std::fmt::Write as _;
    let mut query = format!("follow={}", wanted.follow);
    if let Some(app) = &wanted.app {
        let _ = write!(query, "&app={app}");
    }
    if let Some(container) = &wanted.container {
        let _ = write!(query, "&container={container}");
    }
    if let Some(after) = wanted.after {
        let _ = write!(query, "&after={after}");
    }
    query
}
