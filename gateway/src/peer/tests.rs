//! The peer listener on loopback: who gets in, who does not, and for how long.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use manifests::{ContainerId, HostName, SlotId};
use model::events::{Happened, Kind, Wanted};
use model::images::{OfferedImage, WantedArchive, WantedImage};
use model::logs::OutputStream;
use model::records::Peer;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use store::memory::MemKv;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Archive, Identity, ImageServer, PeerClient, PeerTable, router, serve};
use crate::v1::memory::MemAgent;
use crate::v1::types::{LogOptions, Reach};
use crate::v1::{AgentHandle, HostError, LogRecord, Peers};

const LONG: Duration = Duration::from_secs(20);

/// `h1` asks, `h2` has a server; both know each other by their records.
struct Fixture {
    asking: MemAgent,
    asked: MemAgent,
    images: Arc<FakeImages>,
    identity: Arc<Identity>,
    server_identity: Arc<Identity>,
    /// What the asking side knows, and what the server knows.
    asking_table: Arc<PeerTable>,
    server_table: Arc<PeerTable>,
    addr: SocketAddr,
    _stop: DropGuard,
}

impl Fixture {
    async fn open() -> Self {
        let kv = MemKv::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let asked = MemAgent::new("h2", kv.clone());
        let images = Arc::new(FakeImages::default());
        let server_identity = Arc::new(Identity::fresh());
        let server_table = Arc::new(PeerTable::default());
        let server = serve(
            vec![listener],
            server_identity.clone(),
            server_table.clone(),
            router(
                Arc::new(asked.clone()),
                images.clone(),
                Arc::new(PeerClient::new(
                    server_identity.clone(),
                    server_table.clone(),
                )),
            ),
            listen::Limits {
                all: 64,
                per_source: 32,
            },
            stop.clone(),
        );
        tokio::spawn(async move { server.await.unwrap() });
        let fixture = Self {
            asking: MemAgent::new("h1", kv),
            asked,
            images,
            identity: Arc::new(Identity::fresh()),
            server_identity,
            asking_table: Arc::new(PeerTable::default()),
            server_table,
            addr,
            _stop: stop.drop_guard(),
        };
        // Nobody calls h1.
        fixture.put_record("h1", "127.0.0.1:1".parse().unwrap(), &fixture.identity);
        fixture.put_record("h2", addr, &fixture.server_identity);
        fixture.update(false);
        fixture
    }

    fn put_record(&self, host: &str, addr: SocketAddr, identity: &Identity) {
        let fingerprint = identity.fingerprint().to_owned();
        self.asking.put_host(host, Some(Peer { addr, fingerprint }));
    }

    fn remove_record(&self, host: &str) {
        let host = host.parse().unwrap();
        self.asking.delete(&manifests::keys::Key::HostRecord(host));
    }

    fn update(&self, stale: bool) {
        let snapshot = self.asking.view().unwrap().snapshot;
        self.asking_table.update(&snapshot, stale);
        self.server_table.update(&snapshot, stale);
    }

    fn client(&self) -> PeerClient {
        PeerClient::new(self.identity.clone(), self.asking_table.clone())
    }

    async fn ask(&self) -> Result<(), String> {
        self.client().reasons(&h2()).await.map(drop)
    }

    /// What the server answers to a caller who does as he likes.
    async fn raw(&self, config: ClientConfig) -> std::io::Result<String> {
        let stream = TcpStream::connect(self.addr).await?;
        let name = ServerName::IpAddress(self.addr.ip().into());
        let mut stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        // In TLS 1.3 the caller learns only now whether it was let in.
        let request = "GET /peer/v1/reasons HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// One image, in as many chunks as are wanted.
#[derive(Default)]
struct FakeImages {
    busy: AtomicBool,
    /// The archive breaks off after so many chunks; 0: it is whole.
    breaks: AtomicUsize,
    /// Chunks that were asked for so far.
    given: Arc<AtomicUsize>,
}

const CHUNK: usize = 1 << 20;
const CHUNKS: usize = 64;

#[async_trait::async_trait]
impl ImageServer for FakeImages {
    async fn offer(&self, wanted: &WantedImage) -> Result<Option<OfferedImage>, HostError> {
        Ok((wanted.name == "team/app:1&x").then(|| OfferedImage {
            id: "sha256:one".to_owned(),
            content: wanted.content.clone().unwrap_or_default(),
            busy: self.busy.load(Ordering::Relaxed),
            ..OfferedImage::default()
        }))
    }

    async fn archive(&self, wanted: &WantedArchive) -> Result<Option<Archive>, HostError> {
        if wanted.id != "sha256:one" {
            return Err(HostError::NotFound);
        }
        if self.busy.load(Ordering::Relaxed) || wanted.beside == Some(0) {
            return Ok(None);
        }
        let (given, breaks) = (self.given.clone(), self.breaks.load(Ordering::Relaxed));
        Ok(Some(Box::pin(futures_util::stream::iter(0..CHUNKS).map(
            move |n| {
                given.fetch_add(1, Ordering::Relaxed);
                if breaks > 0 && n == breaks {
                    return Err(std::io::Error::other("the engine ended"));
                }
                Ok(bytes::Bytes::from(vec![n as u8; CHUNK]))
            },
        ))))
    }
}

fn archive_of(id: &str) -> WantedArchive {
    WantedArchive {
        id: id.to_owned(),
        beside: None,
    }
}

fn h2() -> HostName {
    "h2".parse().unwrap()
}

fn slot() -> SlotId {
    "shop/web".parse::<ContainerId>().unwrap().slot(0)
}

fn record(line: &str) -> LogRecord {
    LogRecord {
        time: jiff::Timestamp::from_second(1_700_000_000).unwrap(),
        source: OutputStream::Stderr,
        line: line.to_owned(),
    }
}

/// A caller who takes any server; with a certificate and a key that need not belong together.
fn caller(
    certificate: Option<(&CertificateDer<'static>, &Identity)>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    #[derive(Debug)]
    struct Mismatched(Arc<rustls::sign::CertifiedKey>);
    impl rustls::client::ResolvesClientCert for Mismatched {
        fn resolve(
            &self,
            _: &[&[u8]],
            _: &[rustls::SignatureScheme],
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(self.0.clone())
        }

        fn has_certs(&self) -> bool {
            true
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    match certificate {
        None => config.with_no_client_auth(),
        Some((certificate, signer)) => {
            let key = provider
                .key_provider
                .load_private_key(signer.key.clone_key())
                .unwrap();
            let certified = rustls::sign::CertifiedKey::new(vec![certificate.clone()], key);
            config.with_client_cert_resolver(Arc::new(Mismatched(Arc::new(certified))))
        }
    }
}

#[derive(Debug)]
struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[tokio::test]
async fn members_reach_each_other() {
    let fixture = Fixture::open().await;
    fixture.ask().await.unwrap();
    let own = caller(
        Some((&fixture.identity.certificate, &fixture.identity)),
        &[&TLS13],
    );
    assert!(fixture.raw(own).await.unwrap().starts_with("HTTP/1.1 200"));
    let unknown = fixture.client().reasons(&"h9".parse().unwrap()).await;
    assert!(unknown.unwrap_err().contains("no peer listener"));
}

#[tokio::test]
async fn a_certificate_without_its_key_does_not_get_in() {
    let fixture = Fixture::open().await;
    let thief = Identity::fresh();
    let replayed = caller(Some((&fixture.identity.certificate, &thief)), &[&TLS13]);
    assert!(fixture.raw(replayed).await.is_err());
}

#[tokio::test]
async fn a_stranger_and_somebody_without_a_certificate_do_not_get_in() {
    let fixture = Fixture::open().await;
    let stranger = Identity::fresh();
    let config = caller(Some((&stranger.certificate, &stranger)), &[&TLS13]);
    assert!(fixture.raw(config).await.is_err());
    assert!(fixture.raw(caller(None, &[&TLS13])).await.is_err());
}

#[tokio::test]
async fn older_tls_is_not_spoken() {
    let fixture = Fixture::open().await;
    let old = caller(
        Some((&fixture.identity.certificate, &fixture.identity)),
        &[&TLS12],
    );
    assert!(fixture.raw(old).await.is_err());
}

#[tokio::test]
async fn a_server_with_another_members_certificate_is_not_asked() {
    let fixture = Fixture::open().await;
    // The server that is dialled as h3 has h2's certificate, which is a member's too.
    let other = Identity::fresh();
    fixture.put_record("h3", fixture.addr, &other);
    fixture.update(false);
    let answer = fixture.client().reasons(&"h3".parse().unwrap()).await;
    assert!(answer.unwrap_err().starts_with("TLS: "));
    fixture.ask().await.unwrap();
}

#[tokio::test]
async fn nobody_gets_in_before_the_first_view() {
    let fixture = Fixture::open().await;
    let empty = Arc::new(PeerTable::default());
    assert!(!empty.contains(fixture.identity.fingerprint()));
    empty.update(&fixture.asking.view().unwrap().snapshot, true);
    assert!(
        empty.contains(fixture.identity.fingerprint()),
        "a saved view counts until there is a newer one"
    );
}

#[tokio::test]
async fn lines_come_through_and_errors_keep_their_meaning() {
    let fixture = Fixture::open().await;
    let client = fixture.client();
    let options = LogOptions::default();
    let Err(error) = client.logs(&h2(), &slot(), &options).await else {
        panic!("there is no container");
    };
    assert_eq!(error, HostError::NotFound);
    fixture.asked.log(&slot(), [record("one"), record("two")]);
    let lines: Vec<_> = client
        .logs(&h2(), &slot(), &options)
        .await
        .unwrap()
        .map(Result::unwrap)
        .collect()
        .await;
    assert_eq!(lines, [record("one"), record("two")]);
    let tail = LogOptions {
        tail: Some(1),
        since: Some(jiff::Timestamp::UNIX_EPOCH),
        ..options
    };
    let lines = client.logs(&h2(), &slot(), &tail).await.unwrap();
    assert_eq!(lines.count().await, 1);
}

#[tokio::test]
async fn events_come_through_and_go_on_behind_the_last_one() {
    let fixture = Fixture::open().await;
    for at in 1..=3 {
        fixture
            .asked
            .happens(at, Happened::of_slot(&slot(), Kind::Exited, "exit code 1"));
    }
    fixture
        .asked
        .happens(4, Happened::here(Kind::EngineBack, ""));
    let wanted = Wanted {
        app: Some("shop".parse().unwrap()),
        container: Some("web".parse().unwrap()),
        after: Some(1),
        follow: false,
    };
    let events = fixture.client().events(&h2(), &wanted).await.unwrap();
    let ids: Vec<i64> = events.map(|event| event.unwrap().id).collect().await;
    assert_eq!(ids, [2, 3]);
    let unknown = fixture
        .client()
        .events(&"h9".parse().unwrap(), &wanted)
        .await;
    assert!(unknown.is_err_and(|why| why.contains("no peer listener")));
}

#[tokio::test]
async fn a_hold_is_told_and_volumes_are_removed_across_hosts() {
    let fixture = Fixture::open().await;
    let client = fixture.client();
    fixture.asked.set_hold(Some("etcd went back in time"));
    let report = client.hold(&h2()).await.unwrap();
    assert_eq!(report.held.as_deref(), Some("etcd went back in time"));
    let volume = slot().volume_name("data_1.x");
    fixture.asked.add_volume(&volume);
    fixture.asked.add_volume("other");
    let names = client.volume_names(&h2()).await.unwrap();
    assert!(names.contains(&volume) && names.len() == 2, "{names:?}");
    client
        .remove_volume(&h2(), &slot(), "data_1.x")
        .await
        .unwrap();
    assert_eq!(fixture.asked.volumes(), ["other"]);
    fixture.remove_record("h2");
    fixture.update(false);
    let error = client.remove_volume(&h2(), &slot(), "data_1.x").await;
    assert!(matches!(error, Err(HostError::Unreachable(_))), "{error:?}");
}

#[tokio::test]
async fn a_connection_ends_with_its_record_but_not_while_etcd_is_away() {
    let fixture = Fixture::open().await;
    fixture.asked.log(&slot(), [record("one")]);
    let options = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let mut lines = fixture
        .client()
        .logs(&h2(), &slot(), &options)
        .await
        .unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), record("one"));

    // The caller's record is gone in a view that is stale: nothing happens.
    fixture.remove_record("h1");
    fixture.update(true);
    fixture.asked.log(&slot(), [record("two")]);
    let next = tokio::time::timeout(LONG, lines.next()).await.unwrap();
    assert_eq!(next.unwrap().unwrap(), record("two"));

    // Only the server learns that it is gone, so that it is the server that ends the connection.
    let snapshot = fixture.asking.view().unwrap().snapshot;
    fixture.server_table.update(&snapshot, false);
    let end = tokio::time::timeout(LONG, lines.next()).await.unwrap();
    assert!(
        matches!(end, Some(Err(HostError::Unreachable(_)))),
        "{end:?}"
    );
    assert!(fixture.ask().await.is_err(), "and it does not get in again");
}

#[tokio::test]
async fn a_caller_leaves_a_host_whose_record_is_gone() {
    let fixture = Fixture::open().await;
    fixture.asked.log(&slot(), [record("one")]);
    let options = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let mut lines = fixture
        .client()
        .logs(&h2(), &slot(), &options)
        .await
        .unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), record("one"));
    fixture.remove_record("h2");
    let snapshot = fixture.asking.view().unwrap().snapshot;
    fixture.asking_table.update(&snapshot, false);
    let end = tokio::time::timeout(LONG, lines.next()).await.unwrap();
    let gone = HostError::Unreachable("its host record was deleted".to_owned());
    assert_eq!(end, Some(Err(gone)));
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn silent_connections_of_strangers_keep_no_member_out() {
    let fixture = Fixture::open().await;
    let mut silent = Vec::new();
    for n in 0..64 {
        let socket = TcpSocket::new_v4().unwrap();
        let from = [127, 0, 0, 2 + n / 16];
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        silent.push(socket.connect(fixture.addr).await.unwrap());
    }
    assert_eq!(fixture.ask().await, Ok(()));
    // Before its time for the handshake is over.
    let first = tokio::time::timeout(Duration::from_secs(3), silent[0].read_u8()).await;
    assert!(first.unwrap().is_err(), "its place was taken");
}

#[tokio::test]
async fn an_image_is_offered_by_name_and_comes_as_it_is() {
    let fixture = Fixture::open().await;
    let client = fixture.client();
    let wanted = WantedImage {
        name: "team/app:1&x".to_owned(),
        content: Some("a=b".to_owned()),
        ..WantedImage::default()
    };
    let offer = client.offered_image(&h2(), &wanted).await.unwrap().unwrap();
    assert_eq!(
        (offer.id.as_str(), offer.content.as_str()),
        ("sha256:one", "a=b")
    );
    let other = WantedImage::default();
    assert_eq!(client.offered_image(&h2(), &other).await, Ok(None));

    let archive = client
        .image_archive(&h2(), &archive_of(&offer.id))
        .await
        .unwrap()
        .unwrap();
    let sum = archive.map(|chunk| chunk.unwrap().len());
    let sum: usize = sum.fold(0, async |sum, len| sum + len).await;
    assert_eq!(sum, CHUNK * CHUNKS);

    assert!(
        client
            .image_archive(&h2(), &archive_of("sha256:two"))
            .await
            .is_err()
    );
    let alone = WantedArchive {
        beside: Some(0),
        ..archive_of(&offer.id)
    };
    let crowded = client.image_archive(&h2(), &alone).await;
    assert!(matches!(crowded, Ok(None)));
    fixture.images.busy.store(true, Ordering::Relaxed);
    let busy = client.image_archive(&h2(), &archive_of(&offer.id)).await;
    assert!(matches!(busy, Ok(None)));
}

#[tokio::test]
async fn an_archive_that_breaks_off_is_an_error_and_not_its_end() {
    let fixture = Fixture::open().await;
    fixture.images.breaks.store(3, Ordering::Relaxed);
    let archive = fixture
        .client()
        .image_archive(&h2(), &archive_of("sha256:one"))
        .await;
    let chunks: Vec<_> = archive.unwrap().unwrap().collect().await;
    assert!(chunks.last().unwrap().is_err());
}

#[tokio::test]
async fn an_archive_waits_for_who_reads_it_and_ends_with_its_record() {
    let fixture = Fixture::open().await;
    let archive = fixture
        .client()
        .image_archive(&h2(), &archive_of("sha256:one"))
        .await;
    let mut archive = archive.unwrap().unwrap();
    assert!(archive.next().await.unwrap().is_ok());
    fixture.remove_record("h2");
    fixture.update(false);
    let rest: Vec<_> = tokio::time::timeout(LONG, archive.collect()).await.unwrap();
    let last: &std::io::Result<bytes::Bytes> = rest.last().unwrap();
    assert!(last.is_err());
    // What fits the sockets' buffers is far less than the whole.
    assert!(fixture.images.given.load(Ordering::Relaxed) < CHUNKS);
}

#[tokio::test]
async fn a_check_says_how_a_host_fails_to_answer() {
    let fixture = Fixture::open().await;
    let port = fixture.client().check_port(&h2()).await.unwrap();
    assert_eq!(port, Some(fixture.asked.check_port().await));
    // h2 tries whom it knows, and nobody listens at h1.
    let h1: HostName = "h1".parse().unwrap();
    let tried = fixture.client().check(&h2(), &[h1, h2()]).await.unwrap();
    let results: Vec<Reach> = tried.iter().map(|one| one.result).collect();
    assert_eq!(results, [Reach::Refused, Reach::Unknown]);

    // Another certificate than its record's.
    fixture.put_record("h2", fixture.addr, &Identity::fresh());
    fixture.update(false);
    let (reach, _) = fixture.client().check_port(&h2()).await.unwrap_err();
    assert_eq!(reach, Reach::Wrong);
    // One that accepts and says nothing, as a frozen agent does.
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = frozen.local_addr().unwrap();
    fixture.put_record("h2", at, &fixture.server_identity);
    fixture.update(false);
    let (reach, _) = fixture.client().check_port(&h2()).await.unwrap_err();
    assert_eq!(reach, Reach::Silent);
    drop(frozen);
    let (reach, _) = fixture.client().check_port(&h2()).await.unwrap_err();
    assert_eq!(reach, Reach::Refused);
}
