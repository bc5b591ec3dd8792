//! The threads that answer over UDP share an address, and leave it together.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::net::UdpSocket;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::fixture::{Bench, packet, wait, web};
use super::relaying::code;

const OWN: &str = "web.shop.skydns.local.";

#[tokio::test]
async fn whichever_thread_answers_the_answer_comes_from_the_address_that_was_asked() -> Result<()> {
    let bench = Bench::start(web(1), &[]).await?;
    for number in 0..64 {
        // A connected socket hears no other address.
        let client = UdpSocket::bind("127.0.0.1:0").await?;
        client.connect(bench.addr).await?;
        for (name, kind) in [(OWN, RecordType::A), (OWN, RecordType::SRV)] {
            client.send(&packet(number, name, kind)).await?;
            let mut answer = [0; 512];
            timeout(Duration::from_secs(30), client.recv(&mut answer)).await??;
            assert_eq!(answer[..2], number.to_be_bytes());
            assert_eq!(code(&answer), ResponseCode::NoError);
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_address_that_is_not_wanted_any_more_is_free_at_once_for_others() -> Result<()> {
    for is_busy in [false, true] {
        let mut bench = Bench::start(web(1), &[]).await?;
        let client = UdpSocket::bind("127.0.0.1:0").await?;
        if is_busy {
            for number in 0..64 {
                let question = packet(number, OWN, RecordType::A);
                client.send_to(&question, bench.addr).await?;
            }
        }
        bench.handle.listen_at(Vec::new());
        wait(&mut bench.handle.addresses, Vec::is_empty).await?;
        drop(UdpSocket::bind(bench.addr).await?);
        bench.handle.listen_at(vec![bench.addr]);
        wait(&mut bench.handle.addresses, |at| !at.is_empty()).await?;
        bench.udp(&packet(1, OWN, RecordType::A)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_wanted_again_at_once_is_served() -> Result<()> {
    let mut bench = Bench::start(web(1), &[]).await?;
    for pause in (0..5).cycle().take(500) {
        for wanted in [Vec::new(), vec![bench.addr]] {
            bench.handle.listen_at(wanted);
            for _ in 0..pause {
                // As long as a socket takes.
                spawn_blocking(|| {}).await?;
            }
        }
    }
    // So that the last wish is told from the ones before.
    let other = (Ipv4Addr::new(127, 0, 0, 2), bench.addr.port()).into();
    bench.handle.listen_at(vec![bench.addr, other]);
    let all = [bench.addr, other];
    let is_there = |at: &Vec<SocketAddr>| at.len() == 2 && all.iter().all(|addr| at.contains(addr));
    wait(&mut bench.handle.addresses, is_there).await?;
    wait(&mut bench.handle.problems, Vec::is_empty).await?;
    bench.udp(&packet(1, OWN, RecordType::A)).await?;
    wait(&mut bench.handle.addresses, is_there).await?;
    Ok(())
}
