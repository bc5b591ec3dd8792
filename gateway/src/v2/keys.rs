//! `/v2/keys`: requests and answers.
//!
//! Requests are parsed by `request`, authorized by [`crate::access`], carried
//! out here or by `write`; manifests are validated by the crate `manifests`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use jiff::Timestamp;
use store::kv::{KeyRange, Range, Txn};
use tracing::{info, warn};

use super::answer::{answer, failure, not_allowed, put_headers, success};
use super::error::{ErrorCode, V2Error, unanswered};
use super::event::OP_KEY;
use super::feed::{Place, Search};
use super::form::{self, Form};
use super::lookup::{self, Lookup};
use super::node::V2Event;
use super::path::{KeyPath, MAX_PARTS};
use super::reads::Found;
use super::request::{Get, Operation, Wait, Write, WriteKind};
use super::ring::{EventMatch, Position};
use super::state::V2;
use super::{plan, request, stats, tree, write};
use crate::{access, listener};

const METHODS: &str = "HEAD,GET,PUT,POST,DELETE";

pub(super) async fn handle(v2: Arc<V2>, path: &str, request: Request) -> Response {
    let method = request.method().clone();
    if method == Method::OPTIONS {
        return Response::new(Body::empty());
    }
    if !METHODS.split(',').any(|known| known == method.as_str()) {
        return not_allowed(METHODS);
    }
    let peer = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(peer)| *peer);
    let (parts, body) = request.into_parts();
    let body = if method == Method::PUT || method == Method::POST {
        match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return listener::refuse_body("/v2/keys", &error),
        }
    } else {
        Bytes::new()
    };
    let asked = KeysRequest {
        method,
        path,
        query: parts.uri.query(),
        headers: &parts.headers,
        body: &body,
    };
    let result = serve(&v2, &asked).await;
    let response = match result {
        Ok(response) => response,
        Err(error) => failure(&v2, &error).await,
    };
    if asked.method != Method::GET && asked.method != Method::HEAD {
        let status = response.status().as_u16();
        let index = response
            .headers()
            .get("x-etcd-index")
            .and_then(|index| index.to_str().ok());
        info!(?peer, method = %asked.method, key = path, status, index, "write");
    }
    response
}

struct KeysRequest<'a> {
    method: Method,
    path: &'a str,
    query: Option<&'a str>,
    headers: &'a HeaderMap,
    body: &'a [u8],
}

impl KeysRequest<'_> {
    /// The body, if its content type is that of a form; others are ignored.
    fn form_body(&self) -> Option<&[u8]> {
        let content_type = self.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
            .then_some(self.body)
    }
}

async fn serve(v2: &Arc<V2>, asked: &KeysRequest<'_>) -> Result<Response, V2Error> {
    let Some(key) = KeyPath::new(asked.path) else {
        let cause = format!("the key has more than {MAX_PARTS} parts");
        return Err(V2Error::request(ErrorCode::InvalidField, cause));
    };
    let form = Form::parse(asked.form_body(), asked.query).map_err(|mut cause| {
        if is_app(&key) && form::looks_unencoded(asked.body) {
            cause = format!("{cause}; {}", form::HINT);
        }
        V2Error::request(ErrorCode::InvalidForm, cause)
    })?;
    let operation = request::parse(&asked.method, key, &form)?;
    let kind = stats::kind(&operation);
    let result = carry_out(v2, asked, operation).await;
    v2.stats.count(kind, result.is_ok());
    result
}

async fn carry_out(
    v2: &Arc<V2>,
    asked: &KeysRequest<'_>,
    operation: Operation,
) -> Result<Response, V2Error> {
    match operation {
        Operation::Get(get) => read(v2, &get).await,
        // Boxed, for each GET has room for the largest of them.
        Operation::Wait(wait) => Box::pin(self::wait(v2, wait)).await,
        Operation::Write(write) => {
            allow(&write, asked)?;
            Box::pin(write::write(v2, write)).await
        }
    }
}

fn is_app(key: &KeyPath) -> bool {
    matches!(access::put(key.as_str()), Ok(access::Put::Manifest(_)))
}

/// Authorizes a write, and validates a manifest.
fn allow(write: &Write, asked: &KeysRequest<'_>) -> Result<(), V2Error> {
    let refused =
        |refusal: access::Refusal| V2Error::request(ErrorCode::Unauthorized, refusal.to_string());
    let key = write.key.as_str();
    let (put, value) = match &write.change {
        WriteKind::Delete { .. } | WriteKind::CompareAndDelete(_) => {
            return access::delete(key).map(drop).map_err(refused);
        }
        WriteKind::CreateInOrder(content) => {
            let child = format!("{key}/{}", plan::in_order(0));
            (access::put(&child), content.value())
        }
        WriteKind::Set(content) | WriteKind::Create(content) => (access::put(key), content.value()),
        WriteKind::Update(value) | WriteKind::CompareAndSwap(_, value) => {
            (access::put(key), Some(value.as_slice()))
        }
    };
    match put.map_err(refused)? {
        access::Put::Own => {
            if asked.form_body().is_none() && !asked.body.is_empty() {
                info!(key, "body ignored: not a form; send value=…");
            }
            Ok(())
        }
        access::Put::Manifest(_) => match value {
            // Its value is kept.
            Some(_) if write.refresh && !matches!(write.change, WriteKind::Create(_)) => Ok(()),
            Some(value) => manifest(value, asked),
            None => Err(refused(access::Refusal::NotADirectory(key.to_owned()))),
        },
    }
}

fn manifest(value: &[u8], asked: &KeysRequest<'_>) -> Result<(), V2Error> {
    let by_hand = form::looks_unencoded(asked.body);
    let Err(problems) = manifests::parse::strict(value) else {
        if by_hand {
            let key = asked.path;
            warn!(key, "{}", form::HINT);
        }
        return Ok(());
    };
    let mut lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    if value.is_empty() {
        lines.push("no value was sent: send it as the form field `value`".to_owned());
    }
    if by_hand {
        lines.push(form::HINT.to_owned());
    }
    Err(V2Error::request(ErrorCode::InvalidField, lines.join("\n")))
}

/// Reads are linearized, so `quorum=true` is always kept.
async fn read(v2: &V2, get: &Get) -> Result<Response, V2Error> {
    let (alone, place) = match look(v2, &get.key).await? {
        Looked::Kept(body, revision) => return Ok(success(v2, body, revision).await),
        Looked::File(seen, place) => (Some(seen), place),
        Looked::Other => (None, None),
    };
    let (seen, listing) = if let Some(seen) = alone {
        (seen, None)
    } else {
        // All keys below it are in memory until it is encoded.
        let turn = v2.listings.acquire().await.ok();
        (Box::pin(list(v2, &get.key)).await?, turn)
    };
    if access::hidden(get.key.as_str()) {
        return Err(seen.error(ErrorCode::KeyNotFound, get.key.as_str()));
    }
    seen.walk()?;
    let node = tree::node(&get.key, &seen, get.recursive, Timestamp::now())
        .ok_or_else(|| seen.error(ErrorCode::KeyNotFound, get.key.as_str()))?;
    let is_plain = !node.dir && node.ttl.is_none();
    let body = V2Event::get(node).body();
    if is_plain {
        v2.feed.keep(place, &get.key, &body, seen.revision);
    }
    let response = success(v2, body, seen.revision).await;
    drop(listing);
    Ok(response)
}

/// What a look at a key has found.
enum Looked {
    /// An answer that was kept, and the revision that it is of.
    Kept(Bytes, i64),
    /// A file, and where the answer may be kept; or that it is not there.
    File(Lookup, Option<Place>),
    /// A directory.
    Other,
}

/// Without what is below it.
async fn look(v2: &V2, key: &KeyPath) -> Result<Looked, V2Error> {
    if key.is_root() {
        return Ok(Looked::Other);
    }
    let before = v2.revision();
    let (reply, place) = match v2.reads.get(key).await.map_err(unanswered)? {
        Found::Kept(body, revision) => {
            v2.note(before, revision);
            return Ok(Looked::Kept(body, revision));
        }
        Found::Read(reply, place) => (reply, place),
    };
    v2.note(before, reply.revision);
    let (seen, place) = match Lookup::alone(key, reply) {
        Some(seen) => (seen, place),
        None => (Box::pin(read_all(v2, key)).await?, None),
    };
    Ok(if seen.is_dir() {
        Looked::Other
    } else {
        Looked::File(seen, place)
    })
}

async fn read_all(v2: &V2, key: &KeyPath) -> Result<Lookup, V2Error> {
    let before = v2.revision();
    let reads = lookup::read(key, false);
    let reply = v2.reads.read(reads).await.map_err(unanswered)?;
    v2.note(before, reply.revision);
    Ok(Lookup::new(key, reply))
}

/// By a request of its own, which may take long.
async fn list(v2: &V2, key: &KeyPath) -> Result<Lookup, V2Error> {
    let txn = Txn::new(Vec::new(), lookup::read(key, true));
    let before = v2.revision();
    let reply = v2.kv.txn(txn).await.map_err(unanswered)?;
    v2.note(before, reply.revision);
    Ok(Lookup::new(key, reply))
}

async fn wait(v2: &Arc<V2>, wait: Wait) -> Result<Response, V2Error> {
    let (seen, mut past) = v2.feed.seen();
    let before = v2.revision();
    let revision = v2
        .kv
        .range(Range {
            limit: 1,
            ..Range::new(KeyRange::key(OP_KEY))
        })
        .await
        .map_err(unanswered)?
        .revision;
    v2.note(before, revision);
    if revision < before.max(seen) {
        past = v2.begin_anew(past, revision);
    }
    if access::hidden(wait.key.as_str()) {
        return Err(V2Error::at(
            ErrorCode::KeyNotFound,
            wait.key.as_str(),
            revision,
        ));
    }
    v2.feed.start(revision);
    let (since, history) = match wait.index {
        0 => (revision + 1, 0),
        index => (i64::try_from(index).unwrap_or(i64::MAX), revision),
    };
    if since <= revision {
        v2.feed.reached(v2.written.load(Ordering::Relaxed)).await;
    }
    let search = Search {
        key: wait.key,
        recursive: wait.recursive,
        from: Position::at(since),
        history,
        past,
    };
    if let EventMatch::Cleared(oldest) = v2.feed.look(&search) {
        let cause = format!("the requested history has been cleared [{oldest}/{since}]");
        return Err(V2Error::at(ErrorCode::EventIndexCleared, cause, revision));
    }
    // An event is taken from the feed when the client has read the one before.
    let told = stream::unfold((v2.clone(), search), async |(v2, mut search)| {
        let event = v2.feed.next(&mut search).await?;
        let line = Ok::<_, Infallible>(event.body());
        Some((line, (v2, search)))
    });
    let body = told.take(if wait.stream { usize::MAX } else { 1 });
    let mut response = answer(StatusCode::OK, "application/json", Body::from_stream(body));
    let status = v2.status().await;
    put_headers(response.headers_mut(), status.as_deref(), revision, true);
    Ok(response)
}
