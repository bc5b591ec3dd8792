//! The short way gives what the long way gives.

use std::cell::Cell;
use std::sync::Arc;

use anyhow::Result;
use arc_swap::ArcSwap;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_server::net::xfer::Protocol;
use model::directory::Directory;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use tokio::sync::watch;

use super::fixture::{Cluster, packet};
use crate::clients::Clients;
use crate::handler::Handler;
use crate::upstreams::{Forwarding, Upstreams};
use crate::zone::Zone;

const LABELS: [&str; 18] = [
    "web", "WEB", "six", "front", "shop", "Shop", "blog", "all", "any", "*", "0", "1", "7", "a-0",
    "ns", "hosts", "none", "h1",
];

const SERVICES: [&str; 6] = ["web", "Web", "six", "front", "idle", "*"];
const APPS: [&str; 4] = ["shop", "SHOP", "blog", "any"];

fn directory() -> Directory {
    let mut cluster = Cluster::default();
    cluster.host("h1");
    cluster.state("shop/a/0", "h1", "10.0.0.1:1", "ready", "web");
    cluster.state("shop/a/1", "h1", "10.0.0.2:2", "ready", "web");
    cluster.state("shop/b/0", "h1", "10.0.0.1:3", "ready", "web");
    cluster.state("shop/b/1", "h1", "10.0.0.3:4", "unready", "web");
    cluster.state("shop/c/0", "gone", "10.0.0.9:5", "ready", "web");
    cluster.state("shop/d/0", "h1", "[fd00::1]:6", "ready", "six");
    cluster.state("shop/h/0", "h1", "10.0.0.4:9", "unready", "idle");
    cluster.state("blog/e/0", "gone", "10.0.0.8:7", "ready", "web");
    cluster.state("blog/f/0", "h1", "[fd00::2]:8", "ready", "web");
    for slot in 0..40 {
        let addr = format!("10.0.1.{slot}:9");
        cluster.state(&format!("blog/g/{slot}"), "h1", &addr, "ready", "front");
    }
    cluster.directory()
}

fn handler(directory: &Arc<ArcSwap<Directory>>) -> Handler {
    let addresses = watch::Sender::new(Vec::new());
    Handler::new(
        Zone::new("skydns.local", []).expect("domain"),
        Arc::clone(directory),
        Arc::default(),
        Upstreams::new(Forwarding::default(), &addresses.subscribe()),
        Arc::new(Clients::new(vec![], vec![], addresses.subscribe())),
    )
}

fn read(answer: &[u8]) -> Message {
    Message::from_vec(answer).expect("a message")
}

/// Mostly questions that are usual.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let edns = (
        select(vec![0_u16, 511, 512, 1232, 1233, u16::MAX]),
        select(vec![0_u8, 0, 0, 1]),
        select(vec![0_u8, 0x80, 0x80, 0x40]),
    );
    let domain = select(vec!["SkyDNS", "skydns"]);
    (
        prop_oneof![9 => Just(1_u8), 1 => select(vec![0, 0x81, 0x02, 0x08])],
        prop_oneof![9 => select(vec![0_u8, 0x20, 0x10, 0x30]), 1 => select(vec![0x40, 0x80])],
        (
            prop_oneof![
                3 => (select(&SERVICES[..]), select(&APPS[..])).prop_map(|(one, app)| vec![one, app]),
                1 => vec(select(&LABELS[..]), 0..6),
            ],
            domain,
        ),
        prop_oneof![9 => select(vec![1_u8, 28]), 1 => select(vec![33, 255])],
        prop_oneof![9 => Just(1_u8), 1 => select(vec![3, 255])],
        proptest::option::of(edns),
        prop_oneof![3 => Just(None), 1 => any::<(usize, u8)>().prop_map(Some)],
    )
        .prop_map(|(high, low, (labels, domain), kind, class, edns, mutation)| {
            let additional = u8::from(edns.is_some());
            let mut message = vec![3, 4, high, low, 0, 1, 0, 0, 0, 0, 0, additional];
            for label in labels.into_iter().chain([domain, "local"]) {
                message.push(label.len() as u8);
                message.extend(label.as_bytes());
            }
            message.extend([0, 0, kind, 0, class]);
            if let Some((payload, version, flags)) = edns {
                message.extend([0, 0, 41]);
                message.extend(payload.to_be_bytes());
                message.extend([0, version, flags, 0, 0, 0]);
            }
            if let Some((at, octet)) = mutation {
                let at = at % message.len();
                message[at] = octet;
            }
            message
        })
}

#[test]
fn both_ways_give_the_same_answers() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _entered = runtime.enter();
    let directory = Arc::new(ArcSwap::from_pointee(directory()));
    let client = "127.0.0.1:7".parse()?;
    let (with_addresses, without) = (Cell::new(0), Cell::new(0));
    let count = |counter: &Cell<u32>| counter.set(counter.get() + 1);
    TestRunner::new(ProptestConfig::with_cases(1024)).run(&message(), |message| {
        let (short, long) = (handler(&directory), handler(&directory));
        // The records turn with each answer.
        for _ in 0..3 {
            let mut answer = Vec::new();
            if !short.short(&message, client, &mut answer) {
                break;
            }
            let wanted = runtime.block_on(long.answer(message.clone(), client, Protocol::Udp));
            let wanted = wanted.expect("an answer");
            let (short, long) = (read(&answer), read(&wanted));
            count(if short.answers.is_empty() {
                &without
            } else {
                &with_addresses
            });
            // The library writes names out that are in the question.
            prop_assert!(answer.len() <= wanted.len());
            prop_assert_eq!(short, long);
        }
        Ok(())
    })?;
    for (what, counter) in [("addresses", with_addresses), ("no address", without)] {
        assert!(counter.get() > 100, "{what}: {}", counter.get());
    }
    Ok(())
}

#[test]
fn this_host_alone_takes_the_short_way() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _entered = runtime.enter();
    let handler = handler(&Arc::new(ArcSwap::from_pointee(directory())));
    let message = packet(1, "web.shop.skydns.local.", RecordType::A);
    let mut answer = Vec::new();
    assert!(handler.short(&message, "127.0.0.1:7".parse()?, &mut answer));
    assert!(!handler.short(&message, "10.0.0.7:7".parse()?, &mut answer));
    Ok(())
}
