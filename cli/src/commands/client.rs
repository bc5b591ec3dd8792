//! HTTP client of an agent's API, with typed answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gateway::v1::types::{ApiError, ManifestText, Slots};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use manifests::ContainerId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::error::CommandError;
use super::output;
use crate::args::{GlobalArgs, Selection};

/// Largest answer that is not a stream.
const LARGEST: usize = 256 << 20;
const CONNECT: Duration = Duration::from_secs(5);
/// Without an answer for so long, a note says what is waited for.
const SILENCE: Duration = Duration::from_secs(2);
/// Poll interval of commands that wait for the cluster.
pub(crate) const LOOK: Duration = Duration::from_millis(500);

/// The API of an agent.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    addr: String,
    token: Option<HeaderValue>,
    within: Duration,
    http: HttpClient<HttpConnector, Full<Bytes>>,
    noted: Arc<AtomicBool>,
}

/// An answer that is not 2xx.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The manifest has another revision.
    Conflict,
    /// The manifest is invalid: `line:column field: what`, each.
    Invalid(Vec<String>),
    /// 404, with its text.
    NotFound(String),
    /// Anything else.
    Other(CommandError),
}

impl From<CommandError> for Refusal {
    fn from(error: CommandError) -> Self {
        Self::Other(error)
    }
}

impl From<Refusal> for CommandError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Conflict => Self::Failed(
                "the manifest was changed by somebody else at the same time".to_owned(),
            ),
            Refusal::Invalid(problems) => Self::invalid("manifest", problems),
            Refusal::NotFound(what) => Self::Failed(what),
            Refusal::Other(error) => error,
        }
    }
}

impl Client {
    pub(crate) fn new(global: &GlobalArgs) -> Result<Self, CommandError> {
        let addr = address(&global.addr)?;
        let within = global.answer_within();
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT.min(within)));
        let token = match &global.token {
            None => None,
            Some(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| CommandError::Usage("--token: not a legal token".to_owned()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self {
            addr,
            token,
            within,
            http: HttpClient::builder(TokioExecutor::new()).build(connector),
            noted: Arc::default(),
        })
    }

    /// Slots and containers of a selection.
    pub(crate) async fn slots(&self, of: Option<&Selection>) -> Result<Slots, CommandError> {
        self.get(&selected("slots", of)).await
    }

    /// A manifest, as it was written.
    pub(crate) async fn manifest(&self, id: &ContainerId) -> Result<ManifestText, Refusal> {
        self.send(Method::GET, &format!("manifests/{id}"), &[], Bytes::new())
            .await
    }

    /// GET.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CommandError> {
        Ok(self.try_get(path).await?)
    }

    /// GET; a 404 is a `Refusal::NotFound`.
    pub(crate) async fn try_get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Refusal> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// DELETE.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CommandError> {
        Ok(self.try_delete(path).await?)
    }

    /// DELETE; a 404 is a `Refusal::NotFound`.
    pub(crate) async fn try_delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Refusal> {
        self.send(Method::DELETE, path, &[], Bytes::new()).await
    }

    /// Sends a value as JSON.
    pub(crate) async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        value: &impl Serialize,
    ) -> Result<T, CommandError> {
        let body =
            serde_json::to_vec(value).map_err(|error| CommandError::Failed(error.to_string()))?;
        Ok(self.send(method, path, &[], body.into()).await?)
    }

    /// Any request, with its whole answer.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, String)],
        body: Bytes,
    ) -> Result<T, Refusal> {
        let response = self.request(method, path, headers, body).await?;
        let body = self.read(response).await?;
        serde_json::from_slice(&body)
            .map_err(|_| Refusal::Other(CommandError::Failed(self.not_an_agent())))
    }

    /// A stream of lines; the caller reads the body.
    pub(crate) async fn stream(&self, path: &str) -> Result<Incoming, CommandError> {
        let response = self.request(Method::GET, path, &[], Bytes::new()).await?;
        Ok(response.into_body())
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, String)],
        body: Bytes,
    ) -> Result<Response<Incoming>, Refusal> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/dokkaa/v1/{path}", self.addr));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| CommandError::Usage(format!("--addr: {error}")))?;
        let answered = self.noted_when_slow(self.http.request(request));
        let response = timeout(self.within, answered)
            .await
            .map_err(|_| self.unreached(format!("no answer within {:?}", self.within)))?
            .map_err(|error| self.unreached(root_cause(&error)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = self.read(response).await?;
        Err(self.refusal(status, &body))
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Bytes, CommandError> {
        let body = Limited::new(response.into_body(), LARGEST).collect();
        timeout(self.within, self.noted_when_slow(body))
            .await
            .map_err(|_| self.unreached(format!("no end of its answer within {:?}", self.within)))?
            .map(http_body_util::Collected::to_bytes)
            .map_err(|error| CommandError::Failed(format!("{}: {error}", self.addr)))
    }

    /// Notes once that an answer takes long.
    async fn noted_when_slow<T>(&self, answer: impl Future<Output = T>) -> T {
        let mut answer = std::pin::pin!(answer);
        if let Ok(answer) = timeout(SILENCE, answer.as_mut()).await {
            return answer;
        }
        if !self.noted.swap(true, Ordering::Relaxed) {
            output::note(&format!(
                "waiting for {} to answer, for {:?} at most; --timeout sets that",
                self.addr, self.within
            ));
        }
        answer.await
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> Refusal {
        let Ok(error) = serde_json::from_slice::<ApiError>(body) else {
            let text = String::from_utf8_lossy(body);
            let text = output::one_line(text.lines().next().unwrap_or_default());
            return Refusal::Other(CommandError::Failed(match status {
                StatusCode::UNAUTHORIZED => format!(
                    "{} asks for a token: give --token or DOKKAA_TOKEN",
                    self.addr
                ),
                StatusCode::NOT_FOUND => self.not_an_agent(),
                _ => format!("{} answered {status}: {text}", self.addr),
            }));
        };
        match status {
            StatusCode::PRECONDITION_FAILED => Refusal::Conflict,
            StatusCode::NOT_FOUND => Refusal::NotFound(error.error),
            _ if !error.problems.is_empty() => Refusal::Invalid(error.problems),
            _ => Refusal::Other(CommandError::Failed(error.error)),
        }
    }

    fn not_an_agent(&self) -> String {
        format!("the server at {} is not a dokkaa agent", self.addr)
    }

    fn unreached(&self, why: String) -> CommandError {
        CommandError::Unreached {
            addr: self.addr.clone(),
            why,
        }
    }
}

/// The path of a list, of a selection only.
pub(crate) fn selected(list: &str, of: Option<&Selection>) -> String {
    match of {
        None => list.to_owned(),
        Some(Selection::App(app)) => format!("{list}?app={app}"),
        Some(Selection::Container(id)) => {
            format!("{list}?app={}&container={}", id.app, id.container)
        }
    }
}

/// `http://host:port`, also from a bare `host:port`.
fn address(text: &str) -> Result<String, CommandError> {
    let text = text.trim();
    let whole = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let usage = |what: &str| {
        CommandError::Usage(format!(
            "--addr: `{text}` {what}; expected http://host:port, such as {}",
            crate::args::DEFAULT_ADDR
        ))
    };
    let uri: Uri = whole.parse().map_err(|_| usage("is not a URL"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(usage("is https, which agents of this version do not speak")),
        _ => return Err(usage("is not a URL")),
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(usage("has a path"));
    }
    match uri.authority() {
        Some(authority) if !authority.host().is_empty() => Ok(format!("http://{authority}")),
        _ => Err(usage("names no host")),
    }
}

/// The innermost cause: `Connection refused`, not `client error (Connect)`.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(address("10.0.0.1:4001").unwrap(), "http://10.0.0.1:4001");
        assert_eq!(address("http://h:1/").unwrap(), "http://h:1");
        assert_eq!(address("http://[::1]:4001").unwrap(), "http://[::1]:4001");
        for wrong in ["https://h", "ftp://h", "http://h/x", "http://", "a b", ""] {
            assert_eq!(address(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
