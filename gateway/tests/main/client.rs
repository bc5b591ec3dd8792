//! A small HTTP client that keeps what it is answered as it is.

use std::net::SocketAddr;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// A client of one server.
#[derive(Clone)]
pub(crate) struct Client {
    http: Legacy<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    /// Path and query, encoded.
    pub(crate) path: String,
    /// A form body, encoded.
    pub(crate) form: Option<String>,
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// An answer whose body is still to come.
pub(crate) struct Begun {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
}

impl Ask {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.parse().expect("a method"),
            path: path.to_owned(),
            form: None,
            headers: Vec::new(),
        }
    }

    pub(crate) fn form(mut self, form: &str) -> Self {
        self.form = Some(form.to_owned());
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            http: Legacy::builder(TokioExecutor::new()).build(HttpConnector::new()),
            address,
        }
    }

    pub(crate) async fn begin(&self, ask: Ask) -> Begun {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(format!("http://{}{}", self.address, ask.path));
        if ask.form.is_some() {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let body = Full::from(ask.form.clone().unwrap_or_default());
        let request = request.body(body).expect("a request");
        let response = self
            .http
            .request(request)
            .await
            .unwrap_or_else(|error| panic!("{ask:?}: {error:?}"));
        let (parts, body) = response.into_parts();
        Begun {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        }
    }

    pub(crate) async fn send(&self, ask: Ask) -> Answer {
        self.begin(ask).await.end().await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Ask::new("GET", path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Ask::new("DELETE", path)).await
    }

    pub(crate) async fn put(&self, path: &str, form: &str) -> Answer {
        self.send(Ask::new("PUT", path).form(form)).await
    }
}

impl Begun {
    pub(crate) async fn end(self) -> Answer {
        let body = self.body.collect().await.expect("a body").to_bytes();
        Answer {
            status: self.status,
            headers: self.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {:?}", self.status, self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The error's number and cause, beside the status.
    pub(crate) fn error(&self) -> (u16, u64, String) {
        let json = self.json();
        (
            self.status,
            json["errorCode"].as_u64().unwrap_or_default(),
            json["cause"].as_str().unwrap_or_default().to_owned(),
        )
    }

    /// The node's modified index.
    pub(crate) fn index(&self) -> u64 {
        self.json()["node"]["modifiedIndex"]
            .as_u64()
            .unwrap_or_else(|| panic!("no index: {}", self.body))
    }
}
