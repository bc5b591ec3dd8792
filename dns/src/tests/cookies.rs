//! Cookies, as clients see them.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use hickory_server::net::xfer::Protocol;

use super::fixture::{Bench, web};
use super::relaying::{Resolver, response};
use super::strangers::handler;
use crate::handler::Handler;

const OURS: &str = "web.shop.skydns.local.";
const OTHER: &str = "example.com.";
const CLIENTS: &[u8] = b"8 octets";

fn with_cookie(name: &str, cookie: &[u8]) -> Message {
    let mut message = Message::query();
    message.metadata.id = 7;
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(name).expect("name");
    message.add_query(Query::query(name, RecordType::A));
    let mut edns = Edns::new();
    let option = EdnsOption::Unknown(10, cookie.to_vec());
    edns.options_mut().insert(option);
    message.edns = Some(edns);
    message
}

fn packet(name: &str, cookie: &[u8]) -> Vec<u8> {
    with_cookie(name, cookie).to_vec().expect("packet")
}

/// What the answer has in the option.
fn cookie(answer: &Message) -> Option<Vec<u8>> {
    let edns = answer.edns.as_ref()?;
    match edns.option(EdnsCode::Cookie)? {
        EdnsOption::Unknown(_, data) => Some(data.clone()),
        _ => None,
    }
}

async fn ask(handler: &Handler, packet: Vec<u8>, from: &str) -> Result<Option<Message>> {
    let client = SocketAddr::new(from.parse()?, 1024);
    let answer = handler.answer(packet, client, Protocol::Udp).await;
    Ok(answer
        .map(|answer| Message::from_vec(&answer))
        .transpose()?)
}

#[tokio::test]
async fn dig_gets_a_cookie_and_finds_it_good() -> Result<()> {
    let resolver = Resolver::coded(ResponseCode::NXDomain).await?;
    let bench = Bench::start(web(1), &[resolver.addr]).await?;
    for (name, by) in [(OURS, ""), (OURS, "+tcp "), (OTHER, "")] {
        let text = bench.dig(&format!("+cookie {by}{name} A")).await?;
        // dig compares the first half with its own.
        let line = text.lines().find_map(|line| line.split_once("COOKIE: "));
        let (_, said) = line.with_context(|| text.clone())?;
        let (both, verdict) = said.split_once(' ').context("a verdict")?;
        assert_eq!((both.len(), verdict), (48, "(good)"), "{text}");
        // It goes on being ours.
        let text = bench.dig(&format!("+cookie={both} {by}{name} A")).await?;
        ensure!(text.contains(&format!("COOKIE: {both} (good)")), "{text}");
    }
    let text = bench.dig(&format!("+nocookie {OURS} A")).await?;
    ensure!(!text.contains("COOKIE"), "{text}");
    Ok(())
}

#[tokio::test]
async fn every_answer_has_the_cookie_and_a_malformed_one_is_an_error() -> Result<()> {
    let resolver = Resolver::coded(ResponseCode::NXDomain).await?;
    let bench = Bench::start(web(1), &[resolver.addr]).await?;
    let of_others = b"8 octets and 16 of another";
    for name in [OURS, "none.skydns.local.", OTHER] {
        for shown in [CLIENTS, &of_others[..], &[7; 40]] {
            let packet = packet(name, shown);
            for answer in [bench.udp(&packet).await?, bench.tcp(&packet).await?] {
                let answer = Message::from_vec(&answer)?;
                let both = cookie(&answer).context("a cookie")?;
                assert_eq!((both.len(), &both[..8]), (24, &shown[..8]));
                let code = answer.metadata.response_code;
                ensure!(matches!(
                    code,
                    ResponseCode::NoError | ResponseCode::NXDomain
                ));
            }
        }
        for wrong in [0, 7, 9, 15, 41] {
            let answer = bench.udp(&packet(name, &vec![7; wrong])).await?;
            let answer = Message::from_vec(&answer)?;
            assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
            assert_eq!(cookie(&answer), None);
        }
    }
    Ok(())
}

/// RFC 7873, 5.4.
#[tokio::test]
async fn a_cookie_can_be_asked_for_without_a_question() -> Result<()> {
    let bench = Bench::start(web(1), &[]).await?;
    let ask = async |shown: &[u8]| -> Result<(ResponseCode, Vec<u8>)> {
        let mut message = with_cookie(OURS, shown);
        message.queries.clear();
        let answer = Message::from_vec(&bench.udp(&message.to_vec()?).await?)?;
        ensure!(answer.queries.is_empty() && answer.answers.is_empty());
        let both = cookie(&answer).context("a cookie")?;
        Ok((answer.metadata.response_code, both))
    };
    let (code, both) = ask(CLIENTS).await?;
    assert_eq!(code, ResponseCode::NoError);
    assert_eq!(ask(&both).await?, (ResponseCode::NoError, both.clone()));
    let mut wrong = both;
    wrong[23] ^= 1;
    let (code, both) = ask(&wrong).await?;
    assert_eq!((code, &both[..8]), (ResponseCode::BADCOOKIE, CLIENTS));
    Ok(())
}

#[tokio::test]
async fn who_shows_a_cookie_of_ours_is_spared_by_the_rate_limit() -> Result<()> {
    let resolver = Resolver::coded(ResponseCode::NXDomain).await?;
    let handler = handler(resolver.addr)?;
    let client = "192.0.2.1";
    let first = ask(&handler, packet(OURS, CLIENTS), client).await?;
    let both = cookie(&first.context("an answer")?).context("a cookie")?;
    // Above the limit those with a client's cookie alone are told to come again with ours, or dropped, in turn.
    let (mut told, mut dropped) = (0, 0);
    for _ in 0..1_000 {
        match ask(&handler, packet(OURS, CLIENTS), client).await? {
            Some(answer) if answer.metadata.response_code == ResponseCode::BADCOOKIE => {
                ensure!(!answer.metadata.truncation);
                assert_eq!(answer.queries[0].name().to_ascii(), OURS);
                let again = cookie(&answer).context("a cookie")?;
                assert_eq!((again.len(), &again[..8]), (24, CLIENTS));
                told += 1;
            }
            Some(_) => {}
            None => dropped += 1,
        }
    }
    ensure!(told > 100 && dropped > 100, "{told}, {dropped}");
    for _ in 0..1_000 {
        let answer = ask(&handler, packet(OURS, &both), client).await?;
        let code = answer.context("an answer")?.metadata.response_code;
        assert_eq!(code, ResponseCode::NXDomain);
    }
    Ok(())
}

#[tokio::test]
async fn no_cookie_is_passed_on() -> Result<()> {
    // With the query's EDNS as it came, as some do.
    let resolver = Resolver::start(|query| vec![response(query, ResponseCode::NXDomain)]).await?;
    let bench = Bench::start(web(1), &[resolver.addr]).await?;
    let mut message = with_cookie(OTHER, CLIENTS);
    let edns = message.edns.as_mut().context("edns")?;
    edns.options_mut()
        .insert(EdnsOption::Unknown(65_001, b"kept".to_vec()));
    let answer = Message::from_vec(&bench.udp(&message.to_vec()?).await?)?;
    let edns = answer.edns.as_ref().context("edns")?;
    let options = &edns.options().as_ref();
    assert_eq!(options.len(), 2, "{options:?}");
    let both = cookie(&answer).context("a cookie")?;
    assert_eq!((both.len(), &both[..8]), (24, CLIENTS));
    let asked = Message::from_vec(&resolver.last())?;
    let edns = asked.edns.context("edns")?;
    assert_eq!(edns.options().as_ref().len(), 1, "the other one alone");
    Ok(())
}
