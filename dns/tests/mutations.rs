//! A process of its own, whose memory is looked at: what a client sends is forgotten.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use arc_swap::ArcSwap;
use dns::{Config, Dns, Files, Forwarding, Zone};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use model::directory::Directory;
use tokio::net::UdpSocket;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PACKETS: u32 = 100_000;
/// So many packets have room in a socket.
const AT_ONCE: u32 = 20;
/// Until then buffers and tables grow to what they need.
const WARM: u32 = 5_000;
/// Growth that is no leak, in KiB; 25 octets a packet would be more.
const NOISE: u64 = 2 * 1024;
/// Time for an answer: what is lost on the way fails the test.
const CAP: Duration = Duration::from_secs(30);

/// A pseudo-random sequence (xorshift), the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

fn questions() -> Result<Vec<Vec<u8>>> {
    let mut questions = Vec::new();
    for name in [
        "web.shop.skydns.local.",
        "*.skydns.local.",
        "1.0.0.10.in-addr.arpa.",
        "example.com.",
    ] {
        for wanted in [RecordType::A, RecordType::SRV, RecordType::PTR] {
            let mut message = Message::query();
            message.add_query(Query::query(Name::from_ascii(name)?, wanted));
            message.edns = Some(Edns::new());
            questions.push(message.to_vec()?);
        }
    }
    Ok(questions)
}

fn mutated(questions: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut packet = questions[random.below(questions.len())].clone();
    for _ in 0..random.below(5) {
        let at = random.below(packet.len());
        packet[at] = random.below(256) as u8;
    }
    match random.below(8) {
        0 => packet.truncate(random.below(packet.len())),
        1 => packet.extend_from_within(random.below(packet.len())..),
        _ => {}
    }
    packet
}

/// Resident memory of this process, in KiB.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("VmRSS")?.parse()?)
}

#[tokio::test]
async fn mutated_packets_neither_stop_the_server_nor_cost_memory() -> Result<()> {
    let resolv_conf = tempfile::NamedTempFile::new()?;
    // Nobody is there: what would be forwarded fails at once.
    std::fs::write(&resolv_conf, "nameserver [127.0.0.1]:1\n")?;
    let config = Config {
        listen: vec!["127.0.0.1:0".parse()?],
        zone: Zone::new("skydns.local", [])?,
        forwarding: Forwarding {
            files: Files {
                resolv_conf: resolv_conf.path().into(),
                behind_stub: "/nonexistent".into(),
            },
            ..Forwarding::default()
        },
        bridges: Vec::new(),
        allowed: Vec::new(),
        binder: listen::Binder::default(),
        records: Arc::default(),
        begin: CancellationToken::new(),
    };
    config.begin.cancel();
    let directory = Arc::new(ArcSwap::from_pointee(Directory::default()));
    let mut handle = Dns::start(config, directory, CancellationToken::new());
    let bound = handle.addresses.wait_for(|bound| !bound.is_empty()).await?;
    let addr = bound[0];
    drop(bound);
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(addr).await?;
    let (questions, mut random) = (questions()?, Random(88_172_645_463_325_252));
    let mut answer = vec![0; 65_535];
    let mut good = Message::query();
    good.metadata.id = 4711;
    let name = Name::from_ascii("skydns.local.")?;
    good.add_query(Query::query(name, RecordType::SOA));
    let good = good.to_vec()?;
    let (mut answered, mut before) = (0, 0);
    for count in 0..PACKETS {
        if count == WARM {
            before = resident()?;
        }
        socket.send(&mutated(&questions, &mut random)).await?;
        if (count + 1) % AT_ONCE > 0 {
            continue;
        }
        // What was sent before it has been received.
        socket.send(&good).await?;
        let code = loop {
            let length = timeout(CAP, socket.recv(&mut answer)).await??;
            let message = Message::from_vec(&answer[..length])?;
            if message.metadata.id == 4711 && !message.answers.is_empty() {
                break message.metadata.response_code;
            }
            answered += 1;
        };
        assert_eq!(code, ResponseCode::NoError);
    }
    ensure!(answered > PACKETS / 2, "{answered} answers");
    let after = resident()?;
    ensure!(after < before + NOISE, "{before} KiB, then {after} KiB");
    Ok(())
}
