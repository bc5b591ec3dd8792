//! How threads begin and end.

use std::fs::File;
use std::net::Ipv4Addr;

use anyhow::Result;
use hickory_proto::rr::RecordType;
use tokio::time::timeout;

use super::*;
use crate::tests::fixture::packet;
use crate::tests::searching::handler;

const OWN: &str = "web.shop.skydns.local.";
const OTHER: &str = "example.com.";
/// A long time.
const CAP: Duration = Duration::from_secs(30);

/// One that hears a single address.
fn client(of: SocketAddr) -> Result<UdpSocket> {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    client.set_read_timeout(Some(CAP))?;
    client.connect(of)?;
    Ok(client)
}

/// The number of the next answer.
fn answered(client: &UdpSocket) -> Result<u16> {
    let mut answer = [0; 512];
    client.recv(&mut answer)?;
    Ok(u16::from_be_bytes([answer[0], answer[1]]))
}

/// A thread that is not started, and a resolver that is silent.
struct Bench {
    thread: Thread,
    addr: SocketAddr,
    stop: Stop,
    _silent: UdpSocket,
}

impl Bench {
    fn new(is_first: bool) -> Result<Self> {
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let handler = handler(silent.local_addr()?)?;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let stop = Stop(Arc::new(Stopping::new()?));
        Ok(Self {
            addr: socket.local_addr()?,
            thread: Thread::new(socket, is_first, handler, Arc::clone(&stop.0))?,
            stop,
            _silent: silent,
        })
    }
}

#[tokio::test]
async fn what_waits_in_a_socket_that_is_closed_is_answered() -> Result<()> {
    let bench = Bench::new(false)?;
    let client = client(bench.addr)?;
    // The resolver is not waited for.
    for (number, name) in [(1, OWN), (2, OTHER), (3, OWN)] {
        client.send(&packet(number, name, RecordType::SRV))?;
        client.send(&packet(number + 10, name, RecordType::A))?;
    }
    drop(bench.stop);
    bench.thread.run()?;
    for wanted in [1, 11, 3, 13] {
        assert_eq!(answered(&client)?, wanted);
    }
    drop(UdpSocket::bind(bench.addr)?);
    Ok(())
}

#[tokio::test]
async fn what_waits_in_a_socket_that_is_kept_stays_there() -> Result<()> {
    let bench = Bench::new(true)?;
    let kept = bench.thread.socket.try_clone()?;
    let question = packet(1, OWN, RecordType::A);
    client(bench.addr)?.send(&question)?;
    drop(bench.stop);
    bench.thread.run()?;
    let mut packet = [0; 512];
    let length = kept.recv(&mut packet)?;
    assert_eq!(packet[..length], question);
    Ok(())
}

#[tokio::test]
async fn an_answer_that_is_waited_for_does_not_keep_the_socket_open() -> Result<()> {
    let bench = Bench::new(false)?;
    let client = client(bench.addr)?;
    let running = thread::spawn(|| bench.thread.run());
    client.send(&packet(1, OTHER, RecordType::A))?;
    client.send(&packet(2, OWN, RecordType::A))?;
    // The first one is waited for.
    assert_eq!(answered(&client)?, 2);
    drop(bench.stop);
    // Meanwhile the runtime ends no task.
    running.join().expect("no panic")?;
    drop(UdpSocket::bind(bench.addr)?);
    Ok(())
}

/// What can be no thread's.
fn file() -> Result<UdpSocket> {
    Ok(UdpSocket::from(OwnedFd::from(File::open("/dev/null")?)))
}

#[tokio::test]
async fn a_thread_that_can_not_start_is_left_out() -> Result<()> {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = socket.local_addr()?;
    let (handler, shutdown) = (handler(silent.local_addr()?)?, CancellationToken::new());
    let client = client(addr)?;
    client.send(&packet(1, OWN, RecordType::A))?;
    let asking = async {
        let client = tokio::net::UdpSocket::from_std({
            client.set_nonblocking(true)?;
            client
        })?;
        let mut answer = [0; 512];
        timeout(CAP, client.recv(&mut answer)).await??;
        shutdown.cancel();
        anyhow::Ok(())
    };
    let sockets = vec![socket, file()?];
    let (served, asked) = tokio::join!(serve(sockets, handler.clone(), &shutdown), asking);
    asked?;
    served?;
    // Without the first one it would be silent.
    let sockets = vec![file()?, UdpSocket::bind(addr)?];
    let none = CancellationToken::new();
    let served = timeout(CAP, serve(sockets, handler, &none)).await?;
    served.expect_err("no socket");
    Ok(())
}
