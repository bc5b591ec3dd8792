//! A connection to a keys API.

use std::net::SocketAddr;

use anyhow::bail;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub(super) struct Connection {
    requests: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    pub(super) async fn open(server: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self {
            requests,
            host: server.to_string(),
        })
    }

    /// Writes a value that needs no escapes.
    pub(super) async fn put(&mut self, key: &str, value: &str) -> anyhow::Result<String> {
        let form = format!("value={value}");
        whole(self.send(Method::PUT, key, form).await?).await
    }

    /// Reads a key, which a query may follow.
    pub(super) async fn get(&mut self, key: &str) -> anyhow::Result<String> {
        whole(self.send(Method::GET, key, String::new()).await?).await
    }

    /// Waits for a change of a key, which comes as the body: nothing from now on is missed.
    pub(super) async fn wait(&mut self, key: &str) -> anyhow::Result<Incoming> {
        let asked = format!("{key}?wait=true");
        self.send(Method::GET, &asked, String::new()).await
    }

    /// The body of a success, once the headers are there.
    async fn send(
        &mut self,
        method: Method,
        asked: &str,
        form: String,
    ) -> anyhow::Result<Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/v2/keys{asked}"))
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::from(form))?;
        self.requests.ready().await?;
        let response = self.requests.send_request(request).await?;
        let status = response.status();
        if !status.is_success() {
            bail!("{status}: {}", whole(response.into_body()).await?);
        }
        Ok(response.into_body())
    }
}

pub(super) async fn whole(body: Incoming) -> anyhow::Result<String> {
    let bytes = body.collect().await?.to_bytes();
    Ok(String::from_utf8(bytes.into())?)
}
