//! One request, one connection, and an answer of limited size.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use model::error::chain;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::{RegistryError, tls};

/// Until a connection is there, and until an answer is.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(20);
/// Largest answer: a page of tags, or a manifest.
const LARGEST: usize = 4 << 20;

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Asks one registry, and others that it names for its tokens.
pub(super) struct Client {
    /// As people call it.
    registry: String,
    /// `https://host`, or `http://host`.
    base: String,
    tls: Arc<ClientConfig>,
    /// The engine asks it without HTTPS if it has none.
    pub(super) may_be_plain: bool,
}

impl Client {
    /// For the registry at `host`; with HTTPS, unless it has none and need not.
    pub(super) async fn of(
        registry: &str,
        host: &str,
        may_be_plain: bool,
        certificates: Option<PathBuf>,
    ) -> Result<Self, RegistryError> {
        let name = registry.to_owned();
        // It reads files.
        let config =
            tokio::task::spawn_blocking(move || tls::config(&name, certificates.as_deref()));
        let unreachable = |why: String| RegistryError::Unreachable(registry.to_owned(), why);
        let config = config.await.map_err(|e| unreachable(e.to_string()))?;
        let mut client = Self {
            registry: registry.to_owned(),
            base: format!("https://{host}"),
            tls: Arc::new(config.map_err(|e| unreachable(e.to_string()))?),
            may_be_plain,
        };
        if may_be_plain
            && client
                .send(&Method::GET, "/v2/", Vec::new(), None)
                .await
                .is_err()
        {
            client.base = format!("http://{host}");
        }
        Ok(client)
    }

    /// Sends a request, to a path of the registry or to an address of its own; with a form, if there is one.
    pub(super) async fn send(
        &self,
        method: &Method,
        target: &str,
        headers: Vec<(HeaderName, String)>,
        form: Option<String>,
    ) -> Result<Answer, RegistryError> {
        let whole = if target.starts_with('/') {
            format!("{}{target}", self.base)
        } else {
            target.to_owned()
        };
        let sent = self.exchange(method, &whole, headers, form).await;
        sent.map_err(|why| RegistryError::Unreachable(self.registry.clone(), why))
    }

    async fn exchange(
        &self,
        method: &Method,
        address: &str,
        headers: Vec<(HeaderName, String)>,
        form: Option<String>,
    ) -> Result<Answer, String> {
        let uri: Uri = address
            .parse()
            .map_err(|_| format!("{address:?} is no address"))?;
        let host = uri
            .host()
            .ok_or("no host")?
            .trim_matches(['[', ']'])
            .to_owned();
        let plain = match uri.scheme_str() {
            Some("https") => false,
            Some("http") if self.may_be_plain => true,
            _ => return Err(format!("{address} is not HTTPS")),
        };
        let port = uri.port_u16().unwrap_or(if plain { 80 } else { 443 });
        let late = |_| format!("no connection to {host} in {} s", CONNECT.as_secs());
        let connect = TcpStream::connect((host.as_str(), port));
        let stream = timeout(CONNECT, connect).await.map_err(late)?;
        let stream = stream.map_err(|e| chain(&e))?;
        let mut request = Request::builder()
            .method(method)
            .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(HOST, uri.authority().map_or(host.as_str(), |a| a.as_str()))
            .header(USER_AGENT, concat!("dokkaa/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if form.is_some() {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let body = Full::new(Bytes::from(form.unwrap_or_default()));
        let request = request.body(body).map_err(|e| e.to_string())?;
        let answer = async {
            if plain {
                return talk(stream, request).await;
            }
            let name = ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
            let connector = TlsConnector::from(self.tls.clone());
            let stream = connector.connect(name, stream).await;
            talk(stream.map_err(|e| chain(&e))?, request).await
        };
        let silent = |_| format!("no answer in {} s", ANSWER.as_secs());
        timeout(ANSWER, answer).await.map_err(silent)?
    }
}

/// One request over a connection.
async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Answer, String> {
    let shaken = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|e| chain(&e))?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // Its error is the answer's, too.
        let _ = connection.await;
    }));
    let response = sender.send_request(request).await.map_err(|e| chain(&e))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, LARGEST).collect().await;
    let body = body.map_err(|e| e.to_string())?.to_bytes();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body,
    })
}
