//! Clients that are not of this host.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use hickory_server::net::xfer::Protocol;
use model::directory::Directory;
use model::skydns::Records;
use tokio::sync::watch;

use super::fixture::packet;
use super::relaying::{Resolver, code};
use crate::clients::Clients;
use crate::handler::Handler;
use crate::upstreams::Upstreams;
use crate::{Forwarding, Zone};

const OURS: &str = "skydns.local.";
const ALIAS: &str = "alias.skydns.local.";
const OTHER: &str = "example.com.";

pub(super) fn handler(resolver: SocketAddr) -> Result<Handler> {
    let own = watch::Sender::new(Vec::new());
    let forwarding = Forwarding {
        upstreams: vec![resolver],
        ..Forwarding::default()
    };
    let clients = Clients::new(
        vec!["172.17.0.0/16".parse()?],
        vec!["10.0.0.0/8".parse()?],
        own.subscribe(),
    );
    let mut records = Records::default();
    records.put("/skydns/local/skydns/alias", br#"{"host":"example.com"}"#)?;
    Ok(Handler::new(
        Zone::new("skydns.local", [])?,
        Arc::new(ArcSwap::from_pointee(Directory::default())),
        Arc::new(ArcSwap::from_pointee(records)),
        Upstreams::new(forwarding, &own.subscribe()),
        Arc::new(clients),
    ))
}

async fn ask(handler: &Handler, name: &str, from: &str, by: Protocol) -> Result<Option<Vec<u8>>> {
    let client = SocketAddr::new(from.parse()?, 1024);
    Ok(handler
        .answer(packet(7, name, RecordType::A), client, by)
        .await)
}

#[tokio::test]
async fn other_names_are_for_this_host_and_who_is_allowed() -> Result<()> {
    let resolver = Resolver::coded(ResponseCode::NXDomain).await?;
    let handler = handler(resolver.addr)?;
    for by in [Protocol::Udp, Protocol::Tcp] {
        let code_of = async |name, from| -> Result<ResponseCode> {
            let answer = ask(&handler, name, from, by).await?;
            Ok(code(&answer.context("an answer")?))
        };
        for from in ["127.0.0.1", "172.17.0.2", "10.1.2.3"] {
            assert_eq!(code_of(OTHER, from).await?, ResponseCode::NXDomain);
        }
        let before = resolver.asked();
        assert_eq!(code_of(OTHER, "192.0.2.1").await?, ResponseCode::Refused);
        assert_eq!(resolver.asked(), before);
        assert_eq!(code_of(OURS, "192.0.2.1").await?, ResponseCode::NoError);
        // Nor does an alias of ours lead anywhere.
        assert_eq!(code_of(ALIAS, "192.0.2.1").await?, ResponseCode::NoError);
        assert_eq!(resolver.asked(), before);
        assert_eq!(code_of(ALIAS, "10.1.2.3").await?, ResponseCode::NXDomain);
    }
    Ok(())
}

#[tokio::test]
async fn a_flood_from_elsewhere_is_told_to_come_by_tcp() -> Result<()> {
    let resolver = Resolver::coded(ResponseCode::NXDomain).await?;
    let handler = handler(resolver.addr)?;
    let (mut whole, mut truncated, mut dropped) = (0, 0, 0);
    for _ in 0..2_000 {
        match ask(&handler, OURS, "192.0.2.1", Protocol::Udp).await? {
            Some(answer) if answer[2] & 0x02 == 0 => whole += 1,
            Some(answer) => {
                assert_eq!(answer.len(), packet(7, OURS, RecordType::A).len());
                truncated += 1;
            }
            None => dropped += 1,
        }
    }
    assert!(whole >= 200 && truncated > 100 && dropped > 100);
    let limited = handler.counters().limited.load(Ordering::Relaxed);
    assert_eq!(limited, truncated + dropped);
    assert!(
        ask(&handler, OURS, "192.0.2.1", Protocol::Tcp)
            .await?
            .is_some()
    );
    for near in ["127.0.0.1", "172.17.0.2"] {
        for _ in 0..1_000 {
            let answer = ask(&handler, OURS, near, Protocol::Udp).await?;
            assert_eq!(answer.context("an answer")?[2] & 0x02, 0);
        }
    }
    Ok(())
}
