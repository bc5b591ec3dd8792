//! The client against a registry that answers as it is told.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

/// What was asked: method, path with query, and authorization.
type Asked = (String, String, Option<String>);

/// A registry on a port of this machine, without HTTPS.
struct Served {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: JoinSet<()>,
}

type Reply = Response<Full<Bytes>>;

fn reply(status: u16, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut reply = Response::builder().status(status);
    for (name, value) in headers {
        reply = reply.header(*name, *value);
    }
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    reply.body(body).expect("a response")
}

async fn serve(answer: impl Fn(&str, &Asked) -> Reply + Send + Sync + 'static) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (asked, base) = (Arc::new(Mutex::new(Vec::new())), address.clone());
    let (known, answer) = (asked.clone(), Arc::new(answer));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (asked, answer, base) = (known.clone(), answer.clone(), base.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let header = request.headers().get(AUTHORIZATION);
                let one = (
                    request.method().to_string(),
                    request.uri().to_string(),
                    header.and_then(|value| Some(value.to_str().ok()?.to_owned())),
                );
                let said = answer(&base, &one);
                asked.lock().expect("no panic").push(one);
                async move { Ok::<_, std::convert::Infallible>(said) }
            });
            let io = TokioIo::new(stream);
            connections.spawn(async move {
                let serving = hyper::server::conn::http1::Builder::new();
                // One that speaks TLS gets an error.
                let _ = serving.serve_connection(io, service).await;
            });
        }
    });
    Served {
        address,
        asked,
        _tasks: tasks,
    }
}

impl Served {
    async fn newest(
        &self,
        image: &str,
        tags: Option<&str>,
        credentials: Option<Credentials>,
    ) -> Result<(String, String), RegistryError> {
        let image: Reference = format!("{}/{image}", self.address)
            .parse()
            .expect("an image");
        let reach = Reach {
            insecure: vec!["127.0.0.0/8".to_owned()],
            certificates: None,
        };
        let tags = tags.map(|tags| tags.parse().expect("a pattern"));
        let registry = Registry::of(&image, credentials, &reach).await?;
        let (image, digest) = registry.newest(&image, tags.as_ref()).await?;
        Ok((image.version().to_owned(), digest))
    }

    /// But for whether it has HTTPS.
    fn asked(&self) -> Vec<Asked> {
        let mut asked = self.asked.lock().expect("no panic").clone();
        asked.retain(|(_, path, _)| path != "/v2/");
        asked
    }
}

fn digest(of: u8) -> String {
    format!("sha256:{of:064x}")
}

fn login() -> Credentials {
    Credentials::Password {
        username: "u".to_owned(),
        password: "p".to_owned(),
        server: String::new(),
    }
}

const BASIC: &str = "Basic dTpw";

#[tokio::test]
async fn the_digest_of_a_tag_is_asked_for_without_a_pull() {
    let registry = serve(|_, _| reply(200, &[(DIGEST, &digest(1))], "")).await;
    let said = registry.newest("team/web:1", None, None).await;
    assert_eq!(said.expect("an answer"), ("1".to_owned(), digest(1)));
    let asked = registry.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].0, "HEAD");
    assert_eq!(asked[0].1, "/v2/team/web/manifests/1");
    // Without the header the manifest itself tells.
    let registry =
        serve(|_, (method, ..)| reply(200, &[], if method == "GET" { "{}" } else { "" }));
    let said = registry.await.newest("web", None, None).await;
    let (tag, digest) = said.expect("an answer");
    assert_eq!(tag, "latest");
    assert_eq!(digest, sha256(b"{}"));
}

#[tokio::test]
async fn all_pages_of_tags_are_read_and_the_newest_is_taken() {
    let registry = serve(|_, (_, path, _)| {
        let tags = |tags: &str| format!(r#"{{"name":"web","tags":{tags}}}"#);
        if path.ends_with("/manifests/1.10") {
            return reply(200, &[(DIGEST, &digest(7))], "");
        }
        if path.ends_with("last=1.9") {
            return reply(200, &[], &tags(r#"["1.10", "2.0"]"#));
        }
        let next = r#"</v2/web/tags/list?n=1000&last=1.9>; rel="next""#;
        reply(200, &[("link", next)], &tags(r#"["1.9", "latest"]"#))
    });
    let registry = registry.await;
    let said = registry.newest("web:1.2", Some("1.*"), None).await;
    assert_eq!(said.expect("an answer"), ("1.10".to_owned(), digest(7)));
    let paths: Vec<String> = registry.asked().into_iter().map(|one| one.1).collect();
    assert_eq!(
        paths,
        [
            "/v2/web/tags/list?n=1000",
            "/v2/web/tags/list?n=1000&last=1.9",
            "/v2/web/manifests/1.10"
        ]
    );
}

#[tokio::test]
async fn a_password_is_sent_where_it_is_asked_for() {
    let registry = serve(|_, (.., authorization)| match authorization.as_deref() {
        Some(BASIC) => reply(200, &[(DIGEST, &digest(1))], ""),
        _ => reply(
            401,
            &[(WWW_AUTHENTICATE.as_str(), r#"Basic realm="x""#)],
            "",
        ),
    });
    let registry = registry.await;
    let said = registry.newest("web:1", None, Some(login())).await;
    assert_eq!(said.expect("an answer").1, digest(1));
    let without = registry.newest("web:1", None, None).await;
    let why = without.expect_err("a refusal").to_string();
    assert!(why.contains("docker login"), "{why}");
    let first = registry.asked().remove(0);
    assert_eq!(first.2, None, "nothing is sent unasked");
}

#[tokio::test]
async fn a_token_is_had_from_where_the_registry_says() {
    let registry = serve(|base, (method, path, authorization)| {
        if path.starts_with("/token") {
            let is_asked = path.contains("scope=repository%3Aweb%3Apull")
                && path.contains("service=reg")
                && method == "GET"
                && authorization.as_deref() == Some(BASIC);
            return if is_asked {
                reply(200, &[], r#"{"token": "t1", "expires_in": 60}"#)
            } else {
                reply(400, &[], "")
            };
        }
        if authorization.as_deref() == Some("Bearer t1") {
            return reply(200, &[(DIGEST, &digest(1))], "");
        }
        let realm = format!(r#"Bearer realm="http://{base}/token",service="reg""#);
        reply(401, &[(WWW_AUTHENTICATE.as_str(), &realm)], "")
    });
    let registry = registry.await;
    let said = registry.newest("web:1", None, Some(login())).await;
    assert_eq!(said.expect("an answer").1, digest(1));
    let refused = registry.newest("web:1", None, None).await;
    assert!(
        matches!(refused, Err(RegistryError::Refused(..))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_registry_that_is_busy_says_for_how_long() {
    for (status, header, expected) in [
        (429, Some("90"), Some(90)),
        (503, None, None),
        (429, Some("Sun, 29 Nov 2026 10:00:00 GMT"), None),
    ] {
        let registry = serve(move |_, _| {
            let headers: Vec<(&str, &str)> =
                header.map(|h| ("retry-after", h)).into_iter().collect();
            reply(status, &headers, "")
        });
        let said = registry.await.newest("web:1", None, None).await;
        let Err(RegistryError::Busy { retry_after, .. }) = said else {
            panic!("{said:?}");
        };
        assert_eq!(retry_after, expected.map(Duration::from_secs));
    }
}

#[tokio::test]
async fn what_is_no_answer_is_said() {
    for (status, digest, words) in [
        (404, "", "has no web"),
        (500, "", "can't be understood: 500"),
        (200, "latest", "not a valid digest"),
    ] {
        let registry = serve(move |_, _| reply(status, &[(DIGEST, digest)], ""));
        let said = registry.await.newest("web:1", None, None).await;
        let why = said.expect_err(words).to_string();
        assert!(why.contains(words), "{why}");
    }
    let large = serve(|_, _| reply(200, &[], &"x".repeat(5 << 20))).await;
    let said = large.newest("web:1", None, None).await;
    assert!(
        matches!(said, Err(RegistryError::Unreachable(..))),
        "{said:?}"
    );
}

#[tokio::test]
async fn https_is_left_out_only_where_the_engine_leaves_it_out() {
    let registry = serve(|_, _| reply(200, &[(DIGEST, &digest(1))], "")).await;
    let image: Reference = format!("{}/web:1", registry.address)
        .parse()
        .expect("an image");
    let reached = Registry::of(&image, None, &Reach::default()).await;
    let said = reached.expect("a client").newest(&image, None).await;
    assert!(
        matches!(said, Err(RegistryError::Unreachable(..))),
        "{said:?}"
    );
    assert!(registry.asked().is_empty());

    assert!(contains("10.0.0.0/8", IpAddr::from([10, 9, 8, 7])));
    assert!(!contains("10.0.0.0/8", IpAddr::from([11, 0, 0, 1])));
    assert!(contains("0.0.0.0/0", IpAddr::from([11, 0, 0, 1])));
    assert!(contains("::1/128", "::1".parse().expect("an address")));
    assert!(!contains("127.0.0.0/8", "::1".parse().expect("an address")));
    assert!(!contains("r.example:5000", IpAddr::from([127, 0, 0, 1])));
}

#[test]
fn a_link_names_the_next_page_of_the_same_registry() {
    assert_eq!(
        next_page(r#"<https://other/v2/a/tags/list?last=x>; rel="next""#).as_deref(),
        Some("/v2/a/tags/list?last=x")
    );
    assert_eq!(next_page(r#"</v2/x>; rel="prev""#), None);
    assert_eq!(next_page("nonsense"), None);
}
