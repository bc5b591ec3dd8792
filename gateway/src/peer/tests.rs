//! The peer door on loopback: who gets in, who does not, and for how long.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use manifests::{ContainerId, HostName, SlotId};
use model::events::{Happened, Kind, Wanted};
use model::records::Peer;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use store::memory::MemKv;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Client, Identity, Table, router, serve};
use crate::v1::memory::MemAgent;
use crate::v1::types::{LogOptions, LogSource};
use crate::v1::{Facilities, LogRecord, LogsError, Peers, VolumeError};

const LONG: Duration = Duration::from_secs(20);

/// `h1` asks, `h2` has a door; both know each other by their records.
struct House {
    asking: MemAgent,
    asked: MemAgent,
    identity: Arc<Identity>,
    door_identity: Arc<Identity>,
    /// What the asking side knows, and what the door knows.
    asking_table: Arc<Table>,
    door_table: Arc<Table>,
    addr: SocketAddr,
    _door: DropGuard,
}

impl House {
    async fn open() -> Self {
        let kv = MemKv::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let asked = MemAgent::new("h2", kv.clone());
        let door_identity = Arc::new(Identity::fresh());
        let door_table = Arc::new(Table::default());
        let door = serve(
            vec![listener],
            door_identity.clone(),
            door_table.clone(),
            router(Arc::new(asked.clone())),
            listen::Limits {
                all: 64,
                per_source: 32,
            },
            stop.clone(),
        );
        tokio::spawn(async move { door.await.unwrap() });
        let house = Self {
            asking: MemAgent::new("h1", kv),
            asked,
            identity: Arc::new(Identity::fresh()),
            door_identity,
            asking_table: Arc::new(Table::default()),
            door_table,
            addr,
            _door: stop.drop_guard(),
        };
        // Nobody calls h1.
        house.put_record("h1", "127.0.0.1:1".parse().unwrap(), &house.identity);
        house.put_record("h2", addr, &house.door_identity);
        house.update(false);
        house
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
        let snapshot = self.asking.snapshot().unwrap().snapshot;
        self.asking_table.update(&snapshot, stale);
        self.door_table.update(&snapshot, stale);
    }

    fn client(&self) -> Client {
        Client::new(self.identity.clone(), self.asking_table.clone())
    }

    async fn ask(&self) -> Result<(), String> {
        self.client().reasons(&h2()).await.map(drop)
    }

    /// What the door answers to a caller who does as he likes.
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

fn h2() -> HostName {
    "h2".parse().unwrap()
}

fn slot() -> SlotId {
    "shop/web".parse::<ContainerId>().unwrap().slot(0)
}

fn record(line: &str) -> LogRecord {
    LogRecord {
        time: jiff::Timestamp::from_second(1_700_000_000).unwrap(),
        source: LogSource::Stderr,
        line: line.to_owned(),
    }
}

/// A caller who takes any door; with a certificate and a key that need not belong together.
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
        .with_custom_certificate_verifier(Arc::new(AnyDoor));
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
struct AnyDoor;

impl rustls::client::danger::ServerCertVerifier for AnyDoor {
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
    let house = House::open().await;
    house.ask().await.unwrap();
    let own = caller(
        Some((&house.identity.certificate, &house.identity)),
        &[&TLS13],
    );
    assert!(house.raw(own).await.unwrap().starts_with("HTTP/1.1 200"));
    let unknown = house.client().reasons(&"h9".parse().unwrap()).await;
    assert!(unknown.unwrap_err().contains("no peer door"));
}

#[tokio::test]
async fn a_certificate_without_its_key_does_not_get_in() {
    let house = House::open().await;
    let thief = Identity::fresh();
    let replayed = caller(Some((&house.identity.certificate, &thief)), &[&TLS13]);
    assert!(house.raw(replayed).await.is_err());
}

#[tokio::test]
async fn a_stranger_and_somebody_without_a_certificate_do_not_get_in() {
    let house = House::open().await;
    let stranger = Identity::fresh();
    let config = caller(Some((&stranger.certificate, &stranger)), &[&TLS13]);
    assert!(house.raw(config).await.is_err());
    assert!(house.raw(caller(None, &[&TLS13])).await.is_err());
}

#[tokio::test]
async fn older_tls_is_not_spoken() {
    let house = House::open().await;
    let old = caller(
        Some((&house.identity.certificate, &house.identity)),
        &[&TLS12],
    );
    assert!(house.raw(old).await.is_err());
}

#[tokio::test]
async fn a_door_with_another_members_certificate_is_not_asked() {
    let house = House::open().await;
    // The door that is dialled as h3 has h2's certificate, which is a member's too.
    let other = Identity::fresh();
    house.put_record("h3", house.addr, &other);
    house.update(false);
    let answer = house.client().reasons(&"h3".parse().unwrap()).await;
    assert!(answer.unwrap_err().starts_with("TLS: "));
    house.ask().await.unwrap();
}

#[tokio::test]
async fn nobody_gets_in_before_the_first_view() {
    let house = House::open().await;
    let empty = Arc::new(Table::default());
    assert!(!empty.knows(house.identity.fingerprint()));
    empty.update(&house.asking.snapshot().unwrap().snapshot, true);
    assert!(
        empty.knows(house.identity.fingerprint()),
        "a saved view counts until there is a newer one"
    );
}

#[tokio::test]
async fn lines_come_through_and_errors_keep_their_meaning() {
    let house = House::open().await;
    let client = house.client();
    let options = LogOptions::default();
    let Err(error) = client.logs(&h2(), &slot(), &options).await else {
        panic!("there is no container");
    };
    assert_eq!(error, LogsError::NotFound);
    house.asked.log(&slot(), [record("one"), record("two")]);
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
    let house = House::open().await;
    for at in 1..=3 {
        house
            .asked
            .happens(at, Happened::of_slot(&slot(), Kind::Exited, "exit code 1"));
    }
    house.asked.happens(4, Happened::here(Kind::EngineBack, ""));
    let wanted = Wanted {
        app: Some("shop".parse().unwrap()),
        container: Some("web".parse().unwrap()),
        after: Some(1),
        follow: false,
    };
    let events = house.client().events(&h2(), &wanted).await.unwrap();
    let ids: Vec<i64> = events.map(|event| event.unwrap().id).collect().await;
    assert_eq!(ids, [2, 3]);
    let unknown = house.client().events(&"h9".parse().unwrap(), &wanted).await;
    assert!(unknown.is_err_and(|why| why.contains("no peer door")));
}

#[tokio::test]
async fn a_hold_is_told_and_volumes_are_removed_across_hosts() {
    let house = House::open().await;
    let client = house.client();
    house.asked.set_hold(Some("etcd went back in time"));
    let report = client.hold(&h2()).await.unwrap();
    assert_eq!(report.held.as_deref(), Some("etcd went back in time"));
    let volume = slot().volume_name("data_1.x");
    house.asked.add_volume(&volume);
    house.asked.add_volume("other");
    let names = client.volume_names(&h2()).await.unwrap();
    assert!(names.contains(&volume) && names.len() == 2, "{names:?}");
    client
        .remove_volume(&h2(), &slot(), "data_1.x")
        .await
        .unwrap();
    assert_eq!(house.asked.volumes(), ["other"]);
    house.remove_record("h2");
    house.update(false);
    let error = client.remove_volume(&h2(), &slot(), "data_1.x").await;
    assert!(
        matches!(error, Err(VolumeError::Unreachable(_))),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_connection_ends_with_its_record_but_not_while_etcd_is_away() {
    let house = House::open().await;
    house.asked.log(&slot(), [record("one")]);
    let options = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let mut lines = house.client().logs(&h2(), &slot(), &options).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), record("one"));

    // The caller's record is gone in a view that is stale: nothing happens.
    house.remove_record("h1");
    house.update(true);
    house.asked.log(&slot(), [record("two")]);
    let next = tokio::time::timeout(LONG, lines.next()).await.unwrap();
    assert_eq!(next.unwrap().unwrap(), record("two"));

    // Only the door learns that it is gone, so that it is the door that ends the connection.
    let snapshot = house.asking.snapshot().unwrap().snapshot;
    house.door_table.update(&snapshot, false);
    let end = tokio::time::timeout(LONG, lines.next()).await.unwrap();
    assert!(
        matches!(end, Some(Err(LogsError::Unreachable(_)))),
        "{end:?}"
    );
    assert!(house.ask().await.is_err(), "and it does not get in again");
}

#[tokio::test]
async fn a_caller_leaves_a_host_whose_record_is_gone() {
    let house = House::open().await;
    house.asked.log(&slot(), [record("one")]);
    let options = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let mut lines = house.client().logs(&h2(), &slot(), &options).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), record("one"));
    house.remove_record("h2");
    let snapshot = house.asking.snapshot().unwrap().snapshot;
    house.asking_table.update(&snapshot, false);
    let end = tokio::time::timeout(LONG, lines.next()).await.unwrap();
    let gone = LogsError::Unreachable("its record has gone".to_owned());
    assert_eq!(end, Some(Err(gone)));
    assert!(lines.next().await.is_none());
}
