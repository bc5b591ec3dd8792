//! An upstream resolver's packet on its way to a client, for fuzzing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_server::server::Request;

use super::answer::{Age, Answer};
use super::asked::Asked;
use super::cache::{Bounds, Cache, Found};
use crate::cookies::Cookie;
use crate::wire;

const ID: u16 = 0x0707;

/// What the client gets if this packet comes with the id of its query: now, later from the cache, and out of date.
pub(crate) fn pass_on(request: &Request, cookie: Option<Cookie>, packet: &[u8]) -> Vec<Vec<u8>> {
    let asked = Asked::new(request, cookie).expect("a question");
    let sent = asked.upstream(ID, asked.question.clone());
    let mut packet = packet.to_vec();
    wire::patch(&mut packet, 0, &ID.to_be_bytes());
    let Ok(Some(answer)) = Answer::read(&packet, sent.id, &sent.question) else {
        return Vec::new();
    };
    let known = |seconds| Age::Known(Duration::from_secs(seconds));
    let replies = [known(0), known(77), Age::Stale].map(|age| answer.reply(&asked, age));
    for reply in &replies {
        assert!(reply.len() <= asked.limit());
    }
    let (key, now) = (asked.key(), Instant::now());
    let lifetime = answer.lifetime();
    let mut cache = Cache::new(Bounds {
        entries: 1,
        octets: 1 << 20,
    });
    cache.put(&key, Arc::new(answer), now);
    let found = cache.get(&key, now);
    assert_eq!(matches!(found, Some(Found::Ready(..))), lifetime.is_some());
    replies.into()
}
