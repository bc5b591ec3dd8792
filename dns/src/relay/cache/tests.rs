//! The cache in virtual time.

use hickory_proto::op::ResponseCode;

use super::super::answer::tests::{coded, message, read};
use super::*;

const MANY: Bounds = Bounds {
    entries: 100,
    octets: 1 << 20,
};

fn key(number: u32) -> Arc<[u8]> {
    number.to_be_bytes().into()
}

fn answer(ttl: u32) -> Arc<Answer> {
    Arc::new(read(&message(&[ttl])))
}

fn after(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn an_answer_is_given_until_its_time_is_over_and_spare_for_a_day() {
    let (mut cache, start) = (Cache::new(MANY), Instant::now());
    let kept = answer(60);
    cache.put(&key(1), Arc::clone(&kept), start);
    assert_eq!(cache.get(&key(2), start), None);
    for seconds in [0, 59] {
        let found = cache.get(&key(1), start + after(seconds));
        let age = Age::Known(after(seconds));
        assert_eq!(found, Some(Found::Ready(Arc::clone(&kept), age)));
    }
    for seconds in [60, 60 + 86_400] {
        let found = cache.get(&key(1), start + after(seconds));
        assert_eq!(found, Some(Found::Spare(Arc::clone(&kept))));
    }
    assert_eq!(cache.get(&key(1), start + after(60 + 86_401)), None);
    assert_eq!((cache.len(), cache.octets()), (0, 0));
}

#[test]
fn while_no_resolver_answers_none_is_asked_for_30_seconds() {
    let (mut cache, start) = (Cache::new(MANY), Instant::now());
    let kept = answer(60);
    cache.put(&key(1), Arc::clone(&kept), start);
    assert!(!cache.hold(&key(1), start), "it is not out of date");
    assert!(!cache.hold(&key(2), start));
    let over = start + after(100);
    assert!(cache.hold(&key(1), over));
    let found = cache.get(&key(1), over + after(29));
    assert_eq!(found, Some(Found::Ready(Arc::clone(&kept), Age::Stale)));
    let found = cache.get(&key(1), over + after(30));
    assert_eq!(found, Some(Found::Spare(kept)));
    let new = answer(10);
    cache.put(&key(1), Arc::clone(&new), over);
    let found = cache.get(&key(1), over);
    assert_eq!(found, Some(Found::Ready(new, Age::Known(Duration::ZERO))));
}

#[test]
fn a_failure_is_kept_for_seconds_and_never_spare() {
    let (mut cache, start) = (Cache::new(MANY), Instant::now());
    cache.put(&key(1), Arc::new(coded(ResponseCode::ServFail)), start);
    assert!(cache.get(&key(1), start + after(4)).is_some());
    assert_eq!(cache.get(&key(1), start + after(5)), None);
    cache.put(&key(1), Arc::new(coded(ResponseCode::Refused)), start);
    assert_eq!(cache.get(&key(1), start), None);
}

#[test]
fn what_was_used_longest_ago_goes_first() {
    let now = Instant::now();
    let mut cache = Cache::new(Bounds { entries: 3, ..MANY });
    for number in 0..3 {
        cache.put(&key(number), answer(60), now);
    }
    assert!(cache.get(&key(0), now).is_some());
    cache.put(&key(3), answer(60), now);
    let kept: Vec<u32> = (0..4)
        .filter(|n| cache.get(&key(*n), now).is_some())
        .collect();
    assert_eq!(kept, [0, 2, 3]);
}

#[test]
fn many_names_stay_within_number_and_octets() {
    let now = Instant::now();
    let bounds = Bounds {
        entries: 1_000,
        octets: 100_000,
    };
    let mut cache = Cache::new(bounds);
    for number in 0..20_000 {
        // Of all sizes, and the same names again.
        let records = vec![60; number as usize % 40 + 1];
        cache.put(
            &key(number % 15_000),
            Arc::new(read(&message(&records))),
            now,
        );
        assert!(cache.len() <= bounds.entries && cache.octets() <= bounds.octets);
        assert_eq!(cache.uses.len(), cache.len());
    }
    let counted: usize = cache.entries.values().map(|entry| entry.octets).sum();
    assert_eq!(counted, cache.octets());
    assert!(cache.octets() > bounds.octets / 2);
    // One that is larger than all is not kept, and nothing goes for it.
    let before = cache.len();
    cache.put(
        &key(30_000),
        Arc::new(read(&message(&vec![60; 2_000]))),
        now,
    );
    let large = cache.get(&key(30_000), now).is_some();
    assert!(large || cache.len() == before);
    cache.clear();
    assert_eq!((cache.len(), cache.octets()), (0, 0));
}
