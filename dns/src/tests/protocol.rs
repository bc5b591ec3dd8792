//! What the RFCs ask of a server, beyond names.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use model::skydns::Records;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::fixture::{Bench, web};
use super::relaying::Resolver;

const NAME: &str = "web.shop.skydns.local.";
const OTHER: &str = "example.com.";

fn query(name: &str, wanted: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("name"), wanted));
    message
}

/// A server behind which nobody may be asked.
struct Alone {
    bench: Bench,
    resolver: Resolver,
}

impl Alone {
    async fn start() -> Result<Self> {
        let resolver = Resolver::coded(ResponseCode::NoError).await?;
        let bench = Bench::start(web(1), &[resolver.addr]).await?;
        Ok(Self { bench, resolver })
    }

    /// The answer to a packet, the same by UDP and TCP.
    async fn ask(&self, packet: &[u8]) -> Result<Message> {
        let answer = Message::from_vec(&self.bench.udp(packet).await?)?;
        let by_tcp = Message::from_vec(&self.bench.tcp(packet).await?)?;
        assert_eq!(answer.metadata, by_tcp.metadata);
        assert_eq!(answer.edns, by_tcp.edns);
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        assert_eq!(answer.metadata.id.to_be_bytes(), packet[..2]);
        assert_eq!(self.resolver.asked(), 0, "forwarded");
        Ok(answer)
    }

    async fn code(&self, message: &Message) -> Result<ResponseCode> {
        let answer = self.ask(&message.to_vec()?).await?;
        Ok(answer.metadata.response_code)
    }
}

#[tokio::test]
async fn other_opcodes_are_not_implemented() -> Result<()> {
    let alone = Alone::start().await?;
    for name in [NAME, OTHER] {
        for opcode in 1..16 {
            let mut packet = query(name, RecordType::A).to_vec()?;
            packet[2] |= opcode << 3;
            let answer = alone.ask(&packet).await?;
            let expected = ResponseCode::NotImp;
            assert_eq!(answer.metadata.response_code, expected, "{opcode}");
            assert_eq!(answer.metadata.op_code, OpCode::from_u8(opcode));
        }
    }
    Ok(())
}

#[tokio::test]
async fn transfers_and_other_classes_are_refused_and_not_forwarded() -> Result<()> {
    let alone = Alone::start().await?;
    for name in [NAME, "skydns.local.", OTHER] {
        let transfer = query(name, RecordType::AXFR);
        assert_eq!(alone.code(&transfer).await?, ResponseCode::Refused);
        let mut transfer = query(name, RecordType::IXFR);
        let name = Name::from_ascii(name)?;
        let soa = SOA::new(name.clone(), name.clone(), 1, 2, 3, 4, 5);
        transfer.authorities = vec![Record::from_rdata(name, 0, RData::SOA(soa))];
        assert_eq!(alone.code(&transfer).await?, ResponseCode::Refused);
    }
    for name in ["version.bind.", "id.server.", NAME] {
        for class in [DNSClass::CH, DNSClass::HS, DNSClass::Unknown(65_280)] {
            let mut message = query(name, RecordType::TXT);
            message.queries[0].set_query_class(class);
            assert_eq!(
                alone.code(&message).await?,
                ResponseCode::Refused,
                "{class}"
            );
        }
    }
    let text = alone.bench.dig("version.bind CH TXT").await?;
    ensure!(text.contains("status: REFUSED"), "{text}");
    Ok(())
}

#[tokio::test]
async fn an_unknown_type_is_no_data_and_any_is_little() -> Result<()> {
    let alone = Alone::start().await?;
    for wanted in [RecordType::Unknown(65_280), RecordType::HTTPS] {
        let answer = alone.ask(&query(NAME, wanted).to_vec()?).await?;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert_eq!((answer.answers.len(), answer.authorities.len()), (0, 1));
    }
    let answer = alone.ask(&query(NAME, RecordType::ANY).to_vec()?).await?;
    assert_eq!(answer.answers.len(), 1);
    Ok(())
}

#[tokio::test]
async fn options_of_edns_are_passed_over() -> Result<()> {
    let alone = Alone::start().await?;
    let mut message = query(NAME, RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    // NSID, and an unknown option.
    for (code, data) in [(3, Vec::new()), (65_001, b"anything".to_vec())] {
        let option = EdnsOption::Unknown(code, data);
        edns.options_mut().insert(option);
        message.edns = Some(edns.clone());
        let answer = alone.ask(&message.to_vec()?).await?;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert_eq!(answer.answers.len(), 1);
        let edns = answer.edns.context("edns")?;
        assert!(edns.options().as_ref().is_empty());
    }
    for options in ["+nsid +subnet=10.0.0.0/8 +ednsopt=65001:00", "+dnssec"] {
        let text = alone.bench.dig(&format!("{options} {NAME} A")).await?;
        ensure!(text.contains("status: NOERROR"), "{text}");
    }
    Ok(())
}

/// Another client, with words of its own. It warns of what it does not expect.
#[tokio::test]
async fn kdig_finds_nothing_wrong() -> Result<()> {
    let alone = Alone::start().await?;
    for (options, expected) in [
        ("+noedns", "NOERROR"),
        ("+tcp", "NOERROR"),
        ("+edns=0", "NOERROR"),
        ("+edns=1", "BADVERS"),
        ("+cookie", "NOERROR"),
        ("+tcp +cookie", "NOERROR"),
        ("+cookie +padding=64", "NOERROR"),
        ("+padding=128 +bufsize=512", "NOERROR"),
        ("+alignment=128 +tcp", "NOERROR"),
        ("+nsid +dnssec", "NOERROR"),
        ("+subnet=192.0.2.0/24", "NOERROR"),
        ("+ednsopt=65001:00 +cookie", "NOERROR"),
        ("+cdflag +adflag +norec", "NOERROR"),
    ] {
        let text = alone.bench.kdig(&format!("{options} {NAME} A")).await?;
        ensure!(text.contains(&format!("status: {expected};")), "{text}");
        ensure!(
            !text.contains("WARNING") && !text.contains("ERROR:"),
            "{text}"
        );
        let has_address = text.contains("\tA\t10.0.1.0");
        ensure!(has_address == (expected == "NOERROR"), "{text}");
        let has_cookie = text.contains("COOKIE: ");
        ensure!(has_cookie == options.contains("cookie"), "{text}");
    }
    assert_eq!(alone.resolver.asked(), 0, "forwarded");
    Ok(())
}

#[tokio::test]
async fn a_later_version_of_edns_is_refused_for_every_name() -> Result<()> {
    let alone = Alone::start().await?;
    for name in [NAME, OTHER] {
        let mut message = query(name, RecordType::A);
        let mut edns = Edns::new();
        edns.set_version(1);
        message.edns = Some(edns);
        let answer = alone.ask(&message.to_vec()?).await?;
        let code = answer.metadata.response_code;
        assert_eq!((code.high(), code.low()), (1, 0));
        assert_eq!(answer.edns.context("edns")?.version(), 0);
    }
    Ok(())
}

#[tokio::test]
async fn malformed_messages_are_format_errors() -> Result<()> {
    let alone = Alone::start().await?;
    let good = query(NAME, RecordType::A).to_vec()?;
    let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    let mut two_edns = good.clone();
    two_edns[11] = 2;
    two_edns.extend_from_slice(&opt);
    two_edns.extend_from_slice(&opt);
    let mut loops = good[..12].to_vec();
    loops.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
    // Into the header, where the root's name is until the answer's flags are there.
    let mut header = good[..12].to_vec();
    header.extend_from_slice(&[0xc0, 6, 0, 1, 0, 1]);
    let mut ahead = good[..12].to_vec();
    ahead.extend_from_slice(&[0xc0, 0xff, 0, 1, 0, 1]);
    let mut long = good[..12].to_vec();
    for _ in 0..5 {
        long.push(63);
        long.extend_from_slice(&[b'a'; 63]);
    }
    long.extend_from_slice(&[0, 0, 1, 0, 1]);
    let mut label = good.clone();
    label[12] = 0x80;
    let mut announced = good.clone();
    announced[7] = 1;
    for packet in [two_edns, loops, header, ahead, long, label, announced] {
        let answer = alone.ask(&packet).await?;
        let code = answer.metadata.response_code;
        assert_eq!(code, ResponseCode::FormErr, "{packet:02x?}");
        assert!(answer.answers.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn names_come_back_in_the_case_of_the_question() -> Result<()> {
    let alone = Alone::start().await?;
    for name in ["wEB.shOP.skydns.LOCAL.", "*.SHOP.skydns.local."] {
        let answer = alone.ask(&query(name, RecordType::A).to_vec()?).await?;
        assert_eq!(answer.queries[0].name().to_ascii(), name);
        assert_eq!(answer.answers[0].name.to_ascii(), name);
    }
    Ok(())
}

/// What its client does not take is not kept for it.
#[tokio::test]
async fn a_client_that_does_not_read_is_hung_up_on() -> Result<()> {
    let bench = Bench::start(web(200), &[]).await?;
    let packet = query(NAME, RecordType::SRV).to_vec()?;
    let mut framed = u16::try_from(packet.len())?.to_be_bytes().to_vec();
    framed.extend(packet);
    let mut stream = TcpStream::connect(bench.addr).await?;
    // It stops reading, too, when its answers are not taken.
    while stream.write_all(&framed).await.is_ok() {}
    let mut taken = Vec::new();
    let _ = stream.read_to_end(&mut taken).await;
    assert!(bench.tcp(&framed[2..]).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn an_alias_is_answered_with_what_it_leads_to() -> Result<()> {
    let resolver = Resolver::start(|question| {
        let mut answer = Message::from_vec(question).expect("question");
        answer.metadata.message_type = MessageType::Response;
        let name = answer.queries[0].name().clone();
        if name.to_ascii().eq_ignore_ascii_case("gone.example.com.") {
            answer.metadata.response_code = ResponseCode::NXDomain;
        } else {
            let data = RData::A(A::new(192, 0, 2, 7));
            answer.answers = vec![Record::from_rdata(name, 300, data)];
        }
        vec![answer.to_vec().expect("answer")]
    })
    .await?;
    let bench = Bench::start(web(1), &[resolver.addr]).await?;
    let mut records = Records::default();
    for name in ["db", "gone"] {
        let key = format!("/skydns/local/skydns/{name}");
        let value = format!(r#"{{"host":"{name}.example.com"}}"#);
        records.put(&key, value.as_bytes())?;
    }
    bench.records.store(Arc::new(records));
    let text = bench.dig("+short db.skydns.local A").await?;
    assert_eq!(text, "db.example.com.\n192.0.2.7\n");
    let text = bench.dig("gone.skydns.local A").await?;
    ensure!(text.contains("status: NXDOMAIN"), "{text}");
    ensure!(text.contains("CNAME\tgone.example.com."), "{text}");
    assert_eq!(resolver.asked(), 2);
    // Without a resolver half an answer is none.
    let gone = UdpSocket::bind("127.0.0.1:0").await?.local_addr()?;
    let bench = Bench::start(web(1), &[gone]).await?;
    let mut records = Records::default();
    records.put("/skydns/local/skydns/db", br#"{"host":"db.example.com"}"#)?;
    bench.records.store(Arc::new(records));
    let text = bench.dig("db.skydns.local A").await?;
    ensure!(text.contains("status: SERVFAIL"), "{text}");
    ensure!(text.contains("ANSWER: 0"), "{text}");
    Ok(())
}
