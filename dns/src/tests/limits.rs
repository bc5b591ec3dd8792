//! What one client can't do to the others, nor to the host.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsOption;
use model::directory::Directory;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tracing::subscriber;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;

use super::fixture::{Bench, Cluster, packet};
use super::relaying::{Resolver, code, response};
use crate::LOG_FILTER;
use crate::message::{read_message, write_message};
use crate::relay::OUTSTANDING;
use crate::tcp::CONNECTIONS;

const NAME: &str = "web.shop.skydns.local.";

fn web() -> Directory {
    let mut cluster = Cluster::default();
    cluster.host("h1");
    cluster.state("shop/web/0", "h1", "10.0.1.0:20000", "ready", "web");
    cluster.directory()
}

/// A client with an address of its own.
async fn connect(client: u8, to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, client], 0).into())?;
    Ok(socket.connect(to).await?)
}

async fn is_answered(stream: &mut TcpStream) -> Result<()> {
    write_message(stream, &packet(1, NAME, RecordType::A)).await?;
    let answer = Message::from_vec(&read_message(stream, usize::MAX).await?)?;
    assert_eq!(answer.answers.len(), 1);
    Ok(())
}

#[tokio::test]
async fn connections_of_one_client_are_limited_and_the_oldest_idle_one_is_evicted() -> Result<()> {
    let bench = Bench::start(web(), &[]).await?;
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS.per_source + 3 {
        streams.push(connect(2, bench.addr).await?);
    }
    for old in &mut streams[..3] {
        assert_eq!(old.read(&mut [0]).await.unwrap_or(0), 0, "closed");
    }
    // They were not closed for being silent.
    is_answered(&mut streams[3]).await?;
    for of_another in [2, 3] {
        is_answered(&mut connect(of_another, bench.addr).await?).await?;
    }
    Ok(())
}

#[tokio::test]
async fn idle_connections_are_evicted_for_the_next() -> Result<()> {
    let bench = Bench::start(web(), &[]).await?;
    let mut streams = Vec::new();
    for number in 0..CONNECTIONS.all + 3 {
        let client = 2 + number / CONNECTIONS.per_source;
        streams.push(connect(client.try_into()?, bench.addr).await?);
    }
    for old in &mut streams[..3] {
        assert_eq!(old.read(&mut [0]).await.unwrap_or(0), 0, "closed");
    }
    is_answered(&mut streams[3]).await?;
    is_answered(&mut connect(200, bench.addr).await?).await?;
    Ok(())
}

#[tokio::test]
async fn pipelined_queries_are_answered_in_order() -> Result<()> {
    let resolver = Resolver::coded(ResponseCode::NXDomain).await?;
    let bench = Bench::start(web(), &[resolver.addr]).await?;
    let mut response = packet(9, NAME, RecordType::A);
    response[2] |= 0x80;
    let mut countless = packet(2, NAME, RecordType::A);
    countless[4..6].fill(0xff);
    let messages = [
        Vec::new(),
        packet(1, "example.com.", RecordType::A),
        vec![1, 2, 3],
        response,
        countless,
        packet(3, NAME, RecordType::A),
    ];
    let mut all = Vec::new();
    for message in messages {
        all.extend_from_slice(&u16::try_from(message.len())?.to_be_bytes());
        all.extend_from_slice(&message);
    }
    let mut stream = TcpStream::connect(bench.addr).await?;
    stream.write_all(&all).await?;
    for (number, expected) in [
        (1, ResponseCode::NXDomain),
        (2, ResponseCode::FormErr),
        (3, ResponseCode::NoError),
    ] {
        let answer = Message::from_vec(&read_message(&mut stream, usize::MAX).await?)?;
        let metadata = answer.metadata;
        assert_eq!((metadata.id, metadata.response_code), (number, expected));
    }
    // No question is as long as that.
    stream.write_all(&[0xff, 0xff, 0]).await?;
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "closed");
    Ok(())
}

#[tokio::test]
async fn a_packet_that_announces_too_many_questions_is_an_error() -> Result<()> {
    let bench = Bench::start(web(), &[]).await?;
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let mut answer = [0; 512];
    for announced in [255_u16, 256, u16::MAX] {
        let mut question = packet(announced, NAME, RecordType::A);
        question[4..6].copy_from_slice(&announced.to_be_bytes());
        socket.send_to(&question, bench.addr).await?;
        socket.recv(&mut answer).await?;
        assert_eq!(answer[..2], announced.to_be_bytes());
        assert_eq!(code(&answer), ResponseCode::FormErr);
    }
    Ok(())
}

/// A client by UDP with an address of its own.
async fn client(number: u8, to: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, number], 0))).await?;
    socket.connect(to).await?;
    Ok(socket)
}

#[tokio::test]
async fn unanswered_queries_leave_room_for_others() -> Result<()> {
    // Silent for one domain.
    let resolver = Resolver::start(|question| {
        let is_slow = question
            .windows(4)
            .any(|part| part.eq_ignore_ascii_case(b"slow"));
        let answer = (!is_slow).then(|| response(question, ResponseCode::NXDomain));
        answer.into_iter().collect()
    })
    .await?;
    let bench = Bench::start(web(), &[resolver.addr]).await?;
    let greedy = client(2, bench.addr).await?;
    let too_many = 20;
    for number in 0..OUTSTANDING.per_source + too_many {
        let name = format!("n{number}.slow.example.");
        let question = packet(number.try_into()?, &name, RecordType::A);
        greedy.send(&question).await?;
        // Its own zone is not in question, and shows that the one before was taken up.
        greedy.send(&packet(9999, NAME, RecordType::A)).await?;
        let mut refused = 0;
        let mut answer = [0; 512];
        while greedy.recv(&mut answer).await? > 0 && answer[..2] != 9999_u16.to_be_bytes() {
            assert_eq!(code(&answer), ResponseCode::ServFail);
            refused += 1;
        }
        ensure!(refused == 0 || number + too_many >= OUTSTANDING.per_source);
    }
    let other = client(3, bench.addr).await?;
    other
        .send(&packet(1, "fast.example.", RecordType::A))
        .await?;
    let mut answer = [0; 512];
    other.recv(&mut answer).await?;
    assert_eq!(code(&answer), ResponseCode::NXDomain);
    let failed = bench.handle.counters.failed.load(Ordering::Relaxed);
    assert_eq!(failed, u64::try_from(too_many)?);
    Ok(())
}

#[tokio::test]
async fn equal_queries_at_once_share_one_exchange() -> Result<()> {
    let resolver = UdpSocket::bind("127.0.0.1:0").await?;
    let bench = Bench::start(web(), &[resolver.local_addr()?]).await?;
    let mut clients = Vec::new();
    let mut question = vec![0; 512];
    let mut from = None;
    for number in 2..12 {
        let client = client(number, bench.addr).await?;
        client
            .send(&packet(number.into(), "example.com.", RecordType::A))
            .await?;
        // Answered after what was sent before it was taken up.
        client.send(&packet(9999, NAME, RecordType::A)).await?;
        client.recv(&mut [0; 512]).await?;
        clients.push((u16::from(number), client));
        if from.is_none() {
            let (length, at) = resolver.recv_from(&mut question).await?;
            question.truncate(length);
            from = Some(at);
        }
    }
    let answer = response(&question, ResponseCode::NXDomain);
    resolver.send_to(&answer, from.expect("asked")).await?;
    for (number, client) in clients {
        let mut answer = [0; 512];
        client.recv(&mut answer).await?;
        assert_eq!(answer[..2], number.to_be_bytes());
        assert_eq!(code(&answer), ResponseCode::NXDomain);
    }
    let again = resolver.try_recv(&mut [0; 512]);
    ensure!(again.is_err(), "it was asked once");
    Ok(())
}

/// A log that is read.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Each of them made the library write a line, or makes it still.
fn packets_that_the_library_logs() -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for name in [NAME, "example.com."] {
        let good = packet(1, name, RecordType::A);
        let mut message = Message::from_vec(&good)?;
        let mut edns = Edns::new();
        edns.set_version(1);
        message.set_edns(edns);
        all.push(message.to_vec()?);
        let mut edns = Edns::new();
        let option = EdnsOption::Unknown(65_001, b"as it is".to_vec());
        edns.options_mut().insert(option);
        message.set_edns(edns);
        // The option says that it is longer than it is.
        let mut cut = message.to_vec()?;
        let at = cut.len() - b"as it is".len() - 1;
        cut[at] += 1;
        all.push(cut);
        // A question that can't be read, one of another kind, one of no kind.
        all.push(good[..good.len() - 3].to_vec());
        let mut update = good.clone();
        update[2] |= 5 << 3;
        all.push(update);
        all.push(good[..11].to_vec());
    }
    Ok(all)
}

#[tokio::test]
async fn no_packet_fills_the_log() -> Result<()> {
    let log = Log::default();
    let writer = log.clone();
    let filter: Targets = format!("{LOG_FILTER},info").parse()?;
    let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    let _here = subscriber::set_default(subscriber);
    // With a single one, a line that another test's thread comes to first is off for all.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let gone = UdpSocket::bind("127.0.0.1:0").await?.local_addr()?;
    let bench = Bench::start(web(), &[gone]).await?;
    let packets = packets_that_the_library_logs()?;
    let mut stream = TcpStream::connect(bench.addr).await?;
    for packet in &packets {
        for _ in 0..10 {
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            socket.send_to(packet, bench.addr).await?;
            write_message(&mut stream, packet).await?;
        }
    }
    is_answered(&mut connect(2, bench.addr).await?).await?;
    bench.udp(&packet(1, "example.com.", RecordType::A)).await?;
    let text = String::from_utf8(log.0.lock().expect("not poisoned").clone())?;
    let lines: Vec<&str> = text.lines().collect();
    for expected in ["DNS listener started", "no upstream resolver answered"] {
        ensure!(lines.iter().any(|line| line.contains(expected)), "{text}");
    }
    // Those two, and the upstream resolvers, which may be read again.
    ensure!(lines.len() < packets.len(), "{text}");
    ensure!(!text.contains("hickory"), "{text}");
    Ok(())
}
