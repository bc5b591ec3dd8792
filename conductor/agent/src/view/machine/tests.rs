use uuid::Uuid;

use super::*;
use model::kv::{Event, KeyValue};

const SECOND: u64 = 1_000;

fn cluster() -> Cluster {
    Cluster {
        id: Uuid::nil(),
        epoch: 1,
    }
}

fn at_epoch(epoch: u64) -> Cluster {
    Cluster { epoch, ..cluster() }
}

fn kv(key: &str, modified: i64) -> KeyValue {
    let value = if key == "/dokkaa/cluster" {
        serde_json::to_vec(&cluster()).expect("serializes")
    } else {
        br#"{"image": "nginx"}"#.to_vec()
    };
    kv_of(key, modified, value)
}

/// The cluster's key, written when the cluster was accepted for the last time.
fn cluster_kv(cluster: &Cluster, modified: i64) -> KeyValue {
    let value = serde_json::to_vec(cluster).expect("serializes");
    KeyValue {
        created: 2,
        ..kv_of("/dokkaa/cluster", modified, value)
    }
}

fn kv_of(key: &str, modified: i64, value: Vec<u8>) -> KeyValue {
    KeyValue {
        key: key.into(),
        value,
        created: modified,
        modified,
        version: 1,
        lease: 0,
    }
}

fn manifest(name: &str) -> String {
    format!("/apps/shop/{name}/manifest")
}

fn put(name: &str, modified: i64) -> Event {
    Event::Put {
        now: kv(&manifest(name), modified),
        before: None,
    }
}

fn gone(name: &str, modified: i64) -> Event {
    Event::Delete {
        key: manifest(name),
        modified,
        before: None,
    }
}

fn cluster_put(cluster: &Cluster, modified: i64) -> Event {
    Event::Put {
        now: cluster_kv(cluster, modified),
        before: None,
    }
}

fn cluster_gone(modified: i64) -> Event {
    Event::Delete {
        key: "/dokkaa/cluster".into(),
        modified,
        before: None,
    }
}

fn read(revision: i64) -> Answer {
    read_of(&cluster(), revision)
}

fn read_of(cluster: &Cluster, revision: i64) -> Answer {
    Answer::Read(FirstRead {
        cluster: Some(cluster.clone()),
        revision,
    })
}

/// Keys without values, as they are asked for.
fn bare(keys: &[(&str, i64)]) -> Vec<KeyValue> {
    let bare = |(key, modified): &(&str, i64)| kv_of(key, *modified, Vec::new());
    keys.iter().map(bare).collect()
}

/// What etcd has of a view that has seen nothing since `following`.
fn history() -> Answer {
    let keys = [
        (&*manifest("a"), 3),
        (&*manifest("b"), 4),
        ("/dokkaa/cluster", 2),
    ];
    page(bare(&keys), 20, false)
}

/// What changed since, of so many keys.
fn changed(keys: &[(&str, i64)], count: i64) -> Answer {
    let kvs = keys
        .iter()
        .map(|(name, modified)| kv_of(&manifest(name), *modified, Vec::new()))
        .collect();
    Answer::Page(RangeReply {
        kvs,
        revision: 20,
        more: false,
        count,
    })
}

fn reads(view: &View) -> bool {
    matches!(view.step(), Step::Read { .. })
}

fn cut(view: &mut View, now: Millis) {
    view.answer(Answer::Reply(WatchReply::Closed("cut".into())), now);
    assert!(reads(view));
}

/// The range that is to be read now.
fn range(view: &View) -> Range {
    match view.step() {
        Step::Range(range) => range,
        other => panic!("{other:?}"),
    }
}

fn is_list(view: &View) -> bool {
    let range = range(view);
    !range.keys_only && range.min_modified == 0
}

/// The stream is opened after this revision.
fn opens(view: &mut View, at: i64, now: Millis) {
    assert_eq!(view.step(), Step::Watch { from: at + 1 });
    view.answer(Answer::Opened, now);
}

/// A list, of which the stream's etcd says the same; no view is to be proven before it.
fn lists(view: &mut View, kvs: Vec<KeyValue>, at: i64, now: Millis) {
    assert!(is_list(view));
    view.answer(page(kvs.clone(), at, false), now);
    opens(view, at, now);
    proves(view, kvs, at, now);
}

/// The same after a view: it is proven, or can't be any more.
fn lists_after(view: &mut View, kvs: Vec<KeyValue>, at: i64, proof: Answer, now: Millis) {
    assert!(is_list(view));
    view.answer(page(kvs.clone(), at, false), now);
    opens(view, at, now);
    assert!(is_proof(view, view.position().1));
    view.answer(proof, now);
    proves(view, kvs, at, now);
}

fn proves(view: &mut View, mut kvs: Vec<KeyValue>, at: i64, now: Millis) {
    assert!(is_proof(view, at));
    kvs.sort_by(|a, b| a.key.cmp(&b.key));
    for kv in &mut kvs {
        kv.value.clear();
    }
    view.answer(page(kvs, at, false), now);
}

/// Keys only, at this revision: the proof that it is the same history.
fn is_proof(view: &View, revision: i64) -> bool {
    let range = range(view);
    range.keys_only && range.min_modified == 0 && range.revision == revision
}

fn reason(view: &mut View) -> Option<Reason> {
    match view.take_update()?.trust {
        Trust::Trusted => None,
        Trust::Distrust(reason) => Some(reason),
    }
}

fn other_history(key: &str, known: i64, found: i64) -> Reason {
    Reason::OtherHistory {
        key: key.to_owned(),
        known,
        found,
    }
}

fn page(kvs: Vec<KeyValue>, revision: i64, more: bool) -> Answer {
    Answer::Page(RangeReply {
        count: kvs.len() as i64,
        kvs,
        revision,
        more,
    })
}

fn events(events: Vec<Event>) -> Answer {
    let last = events.last().map_or(0, Event::modified);
    Answer::Reply(WatchReply::Events(events, last))
}

fn names(view: &View) -> Vec<String> {
    let containers = view.snapshot.containers.keys();
    containers.map(|id| id.container.to_string()).collect()
}

/// A view that follows, with the manifests `a` and `b`, at revision 10.
fn following() -> View {
    let mut view = View::new(&ViewOptions::new(cluster(), None, None), Millis(0));
    assert!(reads(&view));
    view.answer(read(10), Millis(0));
    assert!(is_list(&view));
    let kvs = vec![
        kv(&manifest("a"), 3),
        kv(&manifest("b"), 4),
        kv("/dokkaa/cluster", 2),
    ];
    lists(&mut view, kvs, 10, Millis(0));
    assert_eq!(view.step(), Step::Follow);
    let update = view.take_update().expect("an update");
    assert!(update.complete && update.resync && !update.stale);
    view
}

/// The stream breaks; the first read says 20, and that `keys` happened since.
fn resumed(keys: &[(&str, i64)], count: i64) -> View {
    let mut view = following();
    cut(&mut view, Millis(SECOND));
    let update = view.take_update().expect("an update");
    assert!(!update.complete);
    view.answer(read(20), Millis(SECOND));
    opens(&mut view, 10, Millis(SECOND));
    let asked = range(&view);
    assert_eq!((asked.revision, asked.min_modified), (20, 11));
    view.answer(changed(keys, count), Millis(SECOND));
    assert!(is_proof(&view, 10));
    view.answer(history(), Millis(SECOND));
    view
}

fn complete(view: &mut View) -> bool {
    view.take_update().is_some_and(|update| update.complete)
}

#[test]
fn pages_are_read_at_the_revision_of_the_first() {
    let mut view = View::new(&ViewOptions::new(cluster(), None, None), Millis(0));
    view.answer(read(10), Millis(0));
    view.answer(page(vec![kv(&manifest("a"), 3)], 12, true), Millis(0));
    let asked = range(&view);
    assert_eq!(asked.revision, 12);
    assert_eq!(asked.keys.start, format!("{}\0", manifest("a")).as_bytes());
    assert!(view.take_update().is_none(), "half a list is no view");
    let kvs = vec![kv(&manifest("b"), 4), kv("/dokkaa/cluster", 2)];
    view.answer(page(kvs.clone(), 15, false), Millis(0));
    opens(&mut view, 12, Millis(0));
    assert!(view.take_update().is_none(), "a list alone is none either");
    assert_eq!(view.position().1, 0);
    let kvs = [vec![kv(&manifest("a"), 3)], kvs].concat();
    proves(&mut view, kvs, 12, Millis(0));
    assert_eq!((names(&view).len(), view.position()), (2, (1, 12)));
}

#[test]
fn a_resumed_view_is_complete_when_all_that_changed_has_been_seen() {
    let mut view = resumed(&[("c", 12)], 4);
    assert!(!complete(&mut view));
    view.answer(events(vec![put("c", 12)]), Millis(SECOND));
    assert!(complete(&mut view));
}

#[test]
fn a_deletion_that_is_still_to_come_keeps_it_incomplete() {
    let mut view = resumed(&[("c", 12)], 3);
    view.answer(events(vec![put("c", 12)]), Millis(SECOND));
    assert!(
        !complete(&mut view),
        "one key is there that etcd has no more"
    );
    view.answer(events(vec![gone("a", 13)]), Millis(SECOND));
    assert!(complete(&mut view));
    assert_eq!(names(&view), ["b", "c"]);
}

#[test]
fn an_event_above_the_first_read_shows_that_all_before_it_have_come() {
    let mut view = resumed(&[("c", 12)], 4);
    view.answer(events(vec![put("d", 21)]), Millis(SECOND));
    assert!(complete(&mut view));
}

#[test]
fn progress_proves_nothing_about_what_was_to_come() {
    let mut view = resumed(&[("c", 12)], 4);
    view.answer(Answer::Reply(WatchReply::Progress(25)), Millis(SECOND));
    assert!(!complete(&mut view));
    // And the next stream begins where events and lists have come to.
    cut(&mut view, Millis(SECOND));
    view.answer(read(25), Millis(SECOND));
    opens(&mut view, 10, Millis(SECOND));
}

#[test]
fn a_deletion_that_compaction_took_away_is_found_by_a_list() {
    // Only a deletion happened, at the very revision that is compacted: no event comes.
    let mut view = resumed(&[], 2);
    view.tick(Millis(5 * SECOND));
    assert_eq!(view.step(), Step::Follow);
    view.tick(Millis(12 * SECOND));
    assert!(reads(&view));
    view.answer(read(20), Millis(12 * SECOND));
    let kvs = vec![kv(&manifest("b"), 4), kv("/dokkaa/cluster", 2)];
    lists_after(&mut view, kvs, 20, history(), Millis(12 * SECOND));
    assert_eq!(names(&view), ["b"]);
}

#[test]
fn nothing_that_changed_is_complete_at_once() {
    let mut view = following();
    cut(&mut view, Millis(SECOND));
    view.answer(read(10), Millis(SECOND));
    opens(&mut view, 10, Millis(SECOND));
    assert!(!complete(&mut view), "nothing is proven yet");
    view.answer(history(), Millis(SECOND));
    assert!(complete(&mut view));
    assert_eq!(view.step(), Step::Follow);
}

#[test]
fn behind_for_two_seconds_asks_then_changes_the_stream_then_lists() {
    let mut view = following();
    view.seen(30, Millis(0));
    view.tick(Millis(SECOND));
    assert!(!view.take_progress_request());
    view.tick(Millis(2 * SECOND));
    assert!(view.take_progress_request());
    assert!(view.take_update().is_none(), "not stale yet");
    view.tick(Millis(3 * SECOND));
    assert!(view.take_update().is_some_and(|update| update.stale));
    view.tick(Millis(4 * SECOND));
    assert_eq!(view.step(), Step::Read { avoid: true });
    view.answer(read(30), Millis(4 * SECOND));
    opens(&mut view, 10, Millis(4 * SECOND));
    view.answer(changed(&[], 3), Millis(4 * SECOND));
    view.answer(history(), Millis(4 * SECOND));
    assert!(
        view.take_progress_request(),
        "a new stream is asked at once"
    );
    view.tick(Millis(6 * SECOND));
    view.answer(read(30), Millis(6 * SECOND));
    assert!(is_list(&view));
}

#[test]
fn a_progress_answer_makes_the_view_fresh() {
    let mut view = following();
    view.seen(30, Millis(0));
    view.tick(Millis(2 * SECOND));
    assert!(view.take_progress_request());
    // Etcd is at 40 by now, but all that it had when it was asked is here.
    view.seen(40, Millis(2 * SECOND));
    view.answer(
        Answer::Reply(WatchReply::Progress(30)),
        Millis(2 * SECOND + 100),
    );
    view.tick(Millis(4 * SECOND));
    assert_eq!(view.step(), Step::Follow);
    assert!(!view.take_update().is_some_and(|update| update.stale));
}

#[test]
fn pauses_grow_and_are_never_long() {
    let mut view = following();
    let mut longest = Duration::ZERO;
    for _ in 0..100 {
        view.answer(Answer::Failed, Millis(0));
        let pause = view.pause();
        assert!(!pause.is_zero() && pause <= RETRY.longest(), "{pause:?}");
        longest = longest.max(pause);
    }
    assert!(longest > Duration::from_secs(2));
}

#[test]
fn a_view_that_is_not_in_etcds_history_is_not_resumed() {
    let (a, b) = (manifest("a"), manifest("b"));
    let cases: [(&[(&str, i64)], Reason); 3] = [
        (
            &[(&a, 3), (&b, 9), ("/dokkaa/cluster", 2)],
            other_history(&b, 4, 9),
        ),
        (&[(&b, 4), ("/dokkaa/cluster", 2)], other_history(&a, 3, 0)),
        (
            &[
                (&a, 3),
                (&b, 4),
                ("/dokkaa/cluster", 2),
                ("/hosts/h/record", 7),
            ],
            other_history("/hosts/h/record", 0, 7),
        ),
    ];
    // Also where etcd is at the very revision of the view.
    for now_at in [10, 20] {
        for (keys, wanted) in &cases {
            let mut view = following();
            cut(&mut view, Millis(0));
            view.answer(read(now_at), Millis(0));
            opens(&mut view, 10, Millis(0));
            if now_at > 10 {
                view.answer(changed(&[], 3), Millis(0));
            }
            view.answer(page(bare(keys), now_at, false), Millis(0));
            assert_eq!(reason(&mut view).as_ref(), Some(wanted));
            assert!(reads(&view));
            assert!(!view.pause().is_zero());
            assert_eq!((names(&view).len(), view.position()), (2, (1, 10)));
        }
    }
}

#[test]
fn history_is_compared_page_by_page() {
    let (a, b) = (manifest("a"), manifest("b"));
    let first = || page(bare(&[(&a, 3), (&b, 4)]), 10, true);
    let mut view = following();
    cut(&mut view, Millis(0));
    view.answer(read(10), Millis(0));
    opens(&mut view, 10, Millis(0));
    view.answer(first(), Millis(0));
    assert!(is_proof(&view, 10));
    assert_eq!(range(&view).keys.start, format!("{b}\0").as_bytes());
    assert!(!complete(&mut view), "half a proof is none");
    view.answer(page(bare(&[("/dokkaa/cluster", 2)]), 10, false), Millis(0));
    assert_eq!(view.step(), Step::Follow);

    // The second page has not what is on it in the view.
    let mut view = following();
    cut(&mut view, Millis(0));
    view.answer(read(10), Millis(0));
    opens(&mut view, 10, Millis(0));
    view.answer(first(), Millis(0));
    view.answer(page(Vec::new(), 10, false), Millis(0));
    assert_eq!(
        reason(&mut view),
        Some(other_history("/dokkaa/cluster", 2, 0))
    );
}

#[test]
fn keys_that_are_nobodys_prove_nothing() {
    let mut view = following();
    cut(&mut view, Millis(0));
    view.answer(read(10), Millis(0));
    opens(&mut view, 10, Millis(0));
    // Two keys that are not text look the same here.
    let keys = [
        (&*manifest("a"), 3),
        (&*manifest("b"), 4),
        ("/apps/\u{fffd}", 6),
        ("/apps/\u{fffd}", 5),
        ("/dokkaa/cluster", 2),
    ];
    view.answer(page(bare(&keys), 10, false), Millis(0));
    assert_eq!(view.step(), Step::Follow);
}

#[test]
fn distrust_ends_only_when_all_has_been_checked_up_to_the_first_read() {
    let mut view = following();
    cut(&mut view, Millis(0));
    view.answer(read(9), Millis(0));
    let rewound = Reason::Rewound {
        known: 10,
        found: 9,
    };
    assert_eq!(reason(&mut view), Some(rewound.clone()));
    // Another endpoint may be the right one.
    assert_eq!(view.step(), Step::Read { avoid: true });
    // Restored, and further than the view by now.
    view.answer(read(20), Millis(0));
    opens(&mut view, 10, Millis(0));
    view.answer(changed(&[], 1), Millis(0));
    assert!(view.take_update().is_none(), "none of it is a proof");
    view.answer(page(bare(&[("/dokkaa/cluster", 2)]), 20, false), Millis(0));
    assert_eq!(reason(&mut view), Some(other_history(&manifest("a"), 3, 0)));
    // The old one again, where something happened meanwhile.
    view.answer(read(20), Millis(0));
    opens(&mut view, 10, Millis(0));
    view.answer(changed(&[("c", 12)], 4), Millis(0));
    view.answer(history(), Millis(0));
    assert!(view.take_update().is_none(), "not seen yet");
    view.answer(events(vec![put("c", 12)]), Millis(0));
    let update = view.take_update().expect("an update");
    assert!(update.trust.is_trusted() && update.complete && !update.resync);
    assert_eq!(names(&view), ["a", "b", "c"]);
}

#[test]
fn an_etcd_that_fails_in_the_middle_of_the_proof_is_asked_again() {
    let mut view = following();
    cut(&mut view, Millis(0));
    view.answer(read(20), Millis(0));
    opens(&mut view, 10, Millis(0));
    view.answer(changed(&[], 3), Millis(0));
    view.answer(Answer::Failed, Millis(0));
    assert!(reads(&view));
    assert!(reason(&mut view).is_none());
}

#[test]
fn a_stream_that_ends_before_its_proof_is_opened_again_and_one_that_is_compacted_is_listed() {
    for (end, list) in [
        (WatchReply::Closed("cut".into()), false),
        (WatchReply::Compacted(15), true),
    ] {
        let mut view = following();
        cut(&mut view, Millis(0));
        view.answer(read(20), Millis(0));
        opens(&mut view, 10, Millis(0));
        view.answer(Answer::Reply(end), Millis(0));
        assert!(reads(&view));
        view.answer(read(20), Millis(0));
        assert_eq!(matches!(view.step(), Step::Range(_)), list);
        assert!(!complete(&mut view));
    }
}

#[test]
fn what_was_listed_in_another_etcd_than_the_streams_is_not_used() {
    // At the start, and after a view.
    for proof in [None, Some(Answer::Compacted)] {
        let mut view = match proof {
            None => View::new(&ViewOptions::new(cluster(), None, None), Millis(0)),
            Some(_) => compacted(2),
        };
        view.take_update();
        let before = (names(&view), view.position());
        if proof.is_none() {
            view.answer(read(200), Millis(0));
        }
        let kvs = vec![kv(&manifest("x"), 150), kv("/dokkaa/cluster", 2)];
        view.answer(page(kvs, 200, false), Millis(0));
        opens(&mut view, 200, Millis(0));
        if let Some(proof) = proof {
            view.answer(proof, Millis(0));
        }
        assert!(is_proof(&view, 200));
        view.answer(page(bare(&[("/dokkaa/cluster", 2)]), 200, false), Millis(0));
        assert!(reads(&view));
        assert!(!view.pause().is_zero());
        assert_eq!((names(&view), view.position()), before);
        assert!(!complete(&mut view));
    }
}

/// A view of so many manifests at revision 100 whose history is compacted, and that reads a list.
fn compacted(manifests: i64) -> View {
    let mut view = View::new(&ViewOptions::new(cluster(), None, None), Millis(0));
    view.answer(read(100), Millis(0));
    let mut kvs: Vec<_> = (0..manifests)
        .map(|i| kv(&manifest(&format!("c{i}")), 10 + i))
        .collect();
    kvs.push(kv("/dokkaa/cluster", 2));
    lists(&mut view, kvs, 100, Millis(0));
    view.take_update();
    view.answer(Answer::Reply(WatchReply::Progress(100)), Millis(0));
    cut(&mut view, Millis(0));
    view.answer(read(200), Millis(0));
    opens(&mut view, 100, Millis(0));
    view.answer(changed(&[], manifests + 1), Millis(0));
    assert!(is_proof(&view, 100));
    view.answer(Answer::Compacted, Millis(0));
    assert!(reads(&view));
    view.answer(read(200), Millis(0));
    assert!(is_list(&view));
    view
}

/// A list of the first `left` manifests that it knew.
fn left(left: i64) -> Vec<KeyValue> {
    let mut kvs: Vec<_> = (0..left)
        .map(|i| kv(&manifest(&format!("c{i}")), 10 + i))
        .collect();
    kvs.push(kv("/dokkaa/cluster", 2));
    kvs
}

#[test]
fn after_compaction_most_manifests_may_not_be_gone() {
    for (known, still, trusted) in [(4, 0, true), (5, 0, false), (10, 5, true), (10, 4, false)] {
        let mut view = compacted(known);
        lists_after(&mut view, left(still), 200, Answer::Compacted, Millis(0));
        let update = view.take_update().expect("an update");
        assert_eq!(update.trust.is_trusted(), trusted, "{still} of {known}");
        assert_eq!(update.complete, trusted);
        let shown = if trusted { still } else { known };
        assert_eq!(names(&view).len() as i64, shown);
        if !trusted {
            let reason = Reason::ManifestsGone {
                known: known as usize,
                left: still as usize,
            };
            assert_eq!(update.trust, Trust::Distrust(reason));
            // They are put back.
            view.answer(read(300), Millis(0));
            let mut kvs = left(0);
            kvs.extend((0..known).map(|i| kv(&manifest(&format!("c{i}")), 250 + i)));
            lists_after(&mut view, kvs, 300, Answer::Compacted, Millis(0));
            assert!(complete(&mut view));
        }
    }
}

#[test]
fn after_compaction_the_clusters_key_may_not_have_been_made_anew() {
    let mut view = compacted(3);
    let mut kvs = left(3);
    kvs.pop();
    kvs.push(kv("/dokkaa/cluster", 150));
    lists_after(&mut view, kvs, 200, Answer::Compacted, Millis(0));
    assert_eq!(
        reason(&mut view),
        Some(other_history("/dokkaa/cluster", 2, 150))
    );
}

#[test]
fn a_list_out_of_an_unbroken_stream_may_miss_what_it_wants() {
    let options = ViewOptions {
        heal_every: Duration::from_secs(60),
        ..ViewOptions::new(cluster(), None, None)
    };
    let all = || {
        let mut kvs: Vec<_> = (0..8)
            .map(|i| kv(&manifest(&format!("c{i}")), 10 + i))
            .collect();
        kvs.push(kv("/dokkaa/cluster", 2));
        kvs
    };
    let following = || {
        let mut view = View::new(&options, Millis(0));
        view.answer(read(100), Millis(0));
        lists(&mut view, all(), 100, Millis(0));
        view.take_update();
        view.tick(Millis(70 * SECOND));
        assert!(reads(&view));
        assert!(view.pause().is_zero());
        view.answer(read(100), Millis(70 * SECOND));
        assert!(is_list(&view));
        view
    };
    // Deletions that the stream has kept to itself.
    let mut view = following();
    let kvs = vec![kv("/dokkaa/cluster", 2)];
    lists(&mut view, kvs, 100, Millis(70 * SECOND));
    assert!(complete(&mut view));
    assert!(names(&view).is_empty());
    // But not another history.
    let mut view = following();
    let mut kvs = all();
    kvs[0].modified = 99;
    lists(&mut view, kvs, 100, Millis(70 * SECOND));
    assert_eq!(
        reason(&mut view),
        Some(other_history(&manifest("c0"), 10, 99))
    );
    // If the list fails the stream is not whole any more.
    let mut view = following();
    view.answer(Answer::Failed, Millis(70 * SECOND));
    view.answer(read(100), Millis(70 * SECOND));
    let proof = page(left(8), 100, false);
    lists_after(&mut view, all(), 100, proof, Millis(70 * SECOND));
    assert!(complete(&mut view), "and it is healed all the same");
}

#[test]
fn a_list_heals_a_value_too() {
    let mut view = compacted(1);
    let mut kvs = left(1);
    kvs[0].value = br#"{"image": "apache"}"#.to_vec();
    lists_after(&mut view, kvs, 200, Answer::Compacted, Millis(0));
    let update = view.take_update().expect("an update");
    assert_eq!(update.touched.containers.len(), 1);
}

#[test]
fn in_hold_nothing_is_trusted_before_it_is_proven() {
    let saved = following().saved();
    let held = |saved: Option<SavedView>| ViewOptions {
        held: true,
        ..ViewOptions::new(cluster(), saved, None)
    };
    let mut view = View::new(&held(Some(saved)), Millis(0));
    let update = view.take_update().expect("the saved one");
    assert_eq!(update.trust, Trust::Distrust(Reason::Held));
    assert_eq!(update.snapshot.containers.size(), 2);
    view.answer(Answer::Failed, Millis(0));
    view.answer(read(10), Millis(0));
    opens(&mut view, 10, Millis(0));
    assert!(view.take_update().is_none());
    view.answer(history(), Millis(0));
    let update = view.take_update().expect("an update");
    assert!(update.trust.is_trusted() && update.complete);

    // Without a view nothing but the cluster's key can be checked.
    let mut view = View::new(&held(None), Millis(0));
    view.tick(Millis(0));
    assert_eq!(reason(&mut view), Some(Reason::Held));
    view.answer(read(10), Millis(0));
    lists(&mut view, vec![kv("/dokkaa/cluster", 2)], 10, Millis(0));
    assert!(complete(&mut view));
}

#[test]
fn a_higher_epoch_is_an_accepted_restore_whatever_history_it_has() {
    let mut view = following();
    view.seen(10, Millis(0));
    view.floor(10);
    cut(&mut view, Millis(0));
    view.answer(read(5), Millis(0));
    assert!(matches!(reason(&mut view), Some(Reason::Rewound { .. })));
    view.answer(read_of(&at_epoch(2), 6), Millis(0));
    assert!(is_list(&view));
    assert!(
        view.take_update().is_none(),
        "not before it is listed and proven"
    );
    // At a lower revision; `a` has the same one and another value, `b` is gone.
    let mut a = kv(&manifest("a"), 3);
    a.value = br#"{"image": "apache"}"#.to_vec();
    let kvs = vec![a, cluster_kv(&at_epoch(2), 6)];
    lists(&mut view, kvs, 6, Millis(0));
    let update = view.take_update().expect("an update");
    assert_eq!(update.accepted, Some(at_epoch(2)));
    assert!(update.trust.is_trusted() && update.resync);
    assert!(update.touched.cluster && update.touched.containers.len() == 2);
    assert_eq!(update.snapshot.revision, 6);
    assert_eq!((names(&view), view.position()), (vec!["a".into()], (2, 6)));
    assert_eq!(view.saved().cluster, at_epoch(2));
    // Complete again when the own record has been put into it.
    assert!(!update.complete);
    view.floor(7);
    assert_eq!(
        view.step(),
        Step::Follow,
        "what other keep-alives said is not waited for"
    );
    view.tick(Millis(10 * SECOND));
    assert_eq!(view.step(), Step::Follow);
    view.answer(events(vec![put("c", 7)]), Millis(10 * SECOND));
    let update = view.take_update().expect("an update");
    assert!(update.complete && !update.stale);
    assert_eq!(update.accepted, None, "said once");
}

#[test]
fn a_saved_view_of_an_earlier_epoch_is_the_one_before_the_acceptance() {
    let saved = following().saved();
    let options = ViewOptions::new(at_epoch(2), Some(saved.clone()), None);
    let mut view = View::new(&options, Millis(0));
    let update = view.take_update().expect("the saved one");
    assert_eq!(update.snapshot.containers.size(), 2);
    view.answer(read_of(&at_epoch(2), 6), Millis(0));
    lists(&mut view, vec![cluster_kv(&at_epoch(2), 6)], 6, Millis(0));
    let update = view.take_update().expect("an update");
    assert_eq!(update.accepted, Some(at_epoch(2)));

    // Another cluster's is not used.
    let other = Cluster {
        id: Uuid::max(),
        epoch: 1,
    };
    let mut view = View::new(&ViewOptions::new(other, Some(saved), None), Millis(0));
    assert!(view.take_update().is_none());
}

#[test]
fn an_acceptance_within_a_stream_is_listed_before_it_counts() {
    let mut view = following();
    view.answer(
        events(vec![put("c", 11), cluster_put(&at_epoch(2), 12)]),
        Millis(0),
    );
    if let Some(update) = view.take_update() {
        assert_eq!((update.accepted, update.resync), (None, false));
    }
    assert_eq!(names(&view), ["a", "b"], "not before it is listed");
    assert_eq!(view.pause(), Duration::ZERO);

    // Restored to a backup one revision back, and one key written since: every revision is as the view has it.
    view.answer(read_of(&at_epoch(2), 12), Millis(0));
    assert!(is_list(&view));
    let mut a = kv(&manifest("a"), 3);
    a.value = br#"{"image": "apache"}"#.to_vec();
    let c = kv(&manifest("c"), 11);
    let kvs = vec![a, kv(&manifest("b"), 4), c, cluster_kv(&at_epoch(2), 12)];
    lists(&mut view, kvs, 12, Millis(0));
    let update = view.take_update().expect("an update");
    assert_eq!(update.accepted, Some(at_epoch(2)));
    assert!(update.complete && update.resync && update.trust.is_trusted());
    let touched: Vec<_> = update
        .touched
        .containers
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        touched.len(),
        2,
        "what was restored, and what is new: {touched:?}"
    );
    assert_eq!(names(&view), ["a", "b", "c"]);
    assert_eq!(view.step(), Step::Follow);
    // From now on the lower one is another etcd.
    view.answer(events(vec![cluster_put(&cluster(), 13)]), Millis(0));
    assert_eq!(
        reason(&mut view),
        Some(Reason::OtherEpoch { known: 2, found: 1 })
    );
    assert_eq!(view.position(), (2, 12));
}

#[test]
fn events_that_take_the_clusters_key_away_are_not_applied() {
    let other = Cluster {
        id: Uuid::max(),
        epoch: 2,
    };
    let missing = Reason::ClusterMissing(Uuid::nil());
    let replaced = Reason::OtherCluster {
        known: Uuid::nil(),
        found: Uuid::max(),
    };
    let cases = [
        // Before and after the others of its revision, as etcd orders them.
        (
            vec![gone("a", 11), gone("b", 11), cluster_gone(11)],
            missing.clone(),
        ),
        (
            vec![cluster_gone(11), gone("a", 11), gone("b", 11)],
            missing.clone(),
        ),
        (
            vec![gone("a", 11), cluster_put(&other, 11), gone("b", 11)],
            replaced,
        ),
        // Put back, or even accepted, in the same answer: what was deleted with it was not the user's wish.
        (
            vec![
                gone("a", 11),
                cluster_gone(11),
                cluster_put(&cluster(), 12),
                gone("b", 13),
            ],
            missing.clone(),
        ),
        (
            vec![
                gone("a", 11),
                cluster_gone(11),
                cluster_put(&at_epoch(2), 12),
            ],
            missing,
        ),
    ];
    for (answer, wanted) in cases {
        let mut view = following();
        view.answer(events(answer), Millis(0));
        let update = view.take_update().expect("an update");
        assert_eq!(update.trust, Trust::Distrust(wanted));
        assert!(!update.complete && update.accepted.is_none());
        assert_eq!((names(&view).len(), view.position()), (2, (1, 10)));
    }
}

#[test]
fn a_clusters_key_that_was_put_back_is_no_proof() {
    let mut view = following();
    let deleted = || events(vec![gone("a", 11), cluster_gone(11)]);
    view.answer(deleted(), Millis(0));
    assert!(reason(&mut view).is_some());
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        view.answer(read(20), Millis(0));
        opens(&mut view, 10, Millis(0));
        view.answer(changed(&[], 2), Millis(0));
        view.answer(history(), Millis(0));
        view.answer(Answer::Reply(WatchReply::Progress(20)), Millis(0));
        view.answer(deleted(), Millis(0));
        longest = longest.max(view.pause());
    }
    assert!(view.take_update().is_none(), "the hold has never ended");
    assert!(
        longest > Duration::from_secs(1),
        "and etcd is left in peace"
    );
    assert_eq!(names(&view), ["a", "b"]);
}

#[test]
fn a_user_may_delete_every_manifest() {
    let mut view = following();
    view.answer(events(vec![gone("a", 11), gone("b", 11)]), Millis(0));
    let update = view.take_update().expect("an update");
    assert!(update.complete && update.trust.is_trusted());
    assert!(names(&view).is_empty());
}

#[test]
fn without_the_rule_of_catching_up_a_view_is_complete_at_once() {
    let saved = following().saved();
    let complete_at_once = |rules: Rules| {
        let options = ViewOptions {
            rules,
            ..ViewOptions::new(cluster(), Some(saved.clone()), None)
        };
        let mut view = View::new(&options, Millis(0));
        view.floor(15);
        view.answer(read(20), Millis(0));
        opens(&mut view, 10, Millis(0));
        if rules.has(Rule::CatchUp) {
            view.answer(changed(&[("c", 12)], 4), Millis(0));
        }
        view.answer(history(), Millis(0));
        complete(&mut view)
    };
    assert!(!complete_at_once(Rules::default()));
    assert!(complete_at_once(Rules::without(Rule::CatchUp)));
}

#[test]
fn of_a_users_own_keys_only_the_revisions_are_kept_and_they_count_for_the_proof() {
    let mut view = following();
    let blob = |modified| Event::Put {
        now: kv_of("/blob/1", modified, vec![b'x'; 1 << 20]),
        before: None,
    };
    view.answer(events(vec![blob(11)]), Millis(SECOND));
    assert_eq!(view.saved().raw["/blob/1"].value.len(), 0);
    // The same in a list, as after a compaction.
    view.answer(Answer::Reply(WatchReply::Compacted(12)), Millis(SECOND));
    view.answer(read(20), Millis(SECOND));
    let kvs = vec![
        kv(&manifest("a"), 3),
        kv(&manifest("b"), 4),
        kv_of("/blob/1", 11, vec![b'x'; 1 << 20]),
        kv_of("/blob/2", 15, vec![b'x'; 1 << 20]),
        kv("/dokkaa/cluster", 2),
    ];
    lists_after(&mut view, kvs, 20, Answer::Compacted, Millis(SECOND));
    assert!(complete(&mut view));
    let keys: Vec<_> = view.saved().keys().map(|(key, _)| key.to_owned()).collect();
    assert!(keys.contains(&"/blob/2".to_owned()), "{keys:?}");
    assert_eq!(view.saved().raw["/blob/2"].value.len(), 0);
    // A history without it is another one.
    cut(&mut view, Millis(2 * SECOND));
    view.answer(read(20), Millis(2 * SECOND));
    opens(&mut view, 20, Millis(2 * SECOND));
    view.take_update();
    let others = [
        (&*manifest("a"), 3),
        (&*manifest("b"), 4),
        ("/blob/1", 11),
        ("/dokkaa/cluster", 2),
    ];
    view.answer(page(bare(&others), 20, false), Millis(2 * SECOND));
    assert_eq!(reason(&mut view), Some(other_history("/blob/2", 15, 0)));
}

/// A minute after `following`: the stream has said that etcd is at revision 20, and the view is compared.
fn comparing() -> (View, Millis) {
    let mut view = following();
    let now = Millis(60 * SECOND);
    view.answer(Answer::Reply(WatchReply::Progress(20)), now);
    let asked = range(&view);
    assert!(asked.keys_only && asked.revision == 20 && asked.min_modified == 11);
    (view, now)
}

/// And it lacks two events: `a` was written at 12, `b` deleted.
fn suspicious() -> (View, Millis) {
    let (mut view, now) = comparing();
    view.answer(changed(&[("a", 12)], 2), now);
    assert!(is_proof(&view, 20));
    view.answer(page(had(), 20, false), now);
    assert_eq!(view.step(), Step::Follow);
    (view, now)
}

fn had() -> Vec<KeyValue> {
    bare(&[(&*manifest("a"), 12), ("/dokkaa/cluster", 2)])
}

#[test]
fn where_nothing_is_written_nothing_is_compared_and_nothing_is_found_where_all_has_come() {
    let mut view = following();
    for minute in 1..50 {
        view.tick(Millis(minute * 60 * SECOND));
        assert_eq!(view.step(), Step::Follow);
    }
    let (mut view, now) = comparing();
    view.answer(changed(&[], 3), now);
    assert_eq!(view.step(), Step::Follow);
    view.tick(Millis(50 * 60 * SECOND));
    assert_eq!(view.step(), Step::Follow);
}

#[test]
fn what_a_stream_has_lost_is_healed_by_a_list_when_the_stream_is_known_to_live() {
    let (mut view, now) = suspicious();
    let update = view.take_update().expect("an update");
    assert!(update.stale && update.trust.is_trusted(), "{update:?}");
    // On its way since before the answer, perhaps.
    view.answer(Answer::Reply(WatchReply::Progress(21)), now);
    assert_eq!(view.step(), Step::Follow);
    let now = Millis(now.0 + 5 * SECOND);
    view.tick(now);
    assert!(view.take_progress_request());
    view.answer(Answer::Reply(WatchReply::Progress(22)), now);
    assert!(reads(&view));
    view.answer(read(22), now);
    let list = vec![kv(&manifest("a"), 12), kv("/dokkaa/cluster", 2)];
    assert!(is_list(&view));
    view.answer(page(list.clone(), 22, false), now);
    opens(&mut view, 22, now);
    // What etcd was found to have is proven, not what the view has.
    assert!(is_proof(&view, 20));
    view.answer(page(had(), 22, false), now);
    proves(&mut view, list, 22, now);
    assert_eq!(view.step(), Step::Follow);
    let update = view.take_update().expect("an update");
    assert!(update.complete && !update.stale && update.trust.is_trusted());
    assert_eq!(names(&view), ["a"]);
}

#[test]
fn what_another_etcd_has_is_not_taken_for_what_a_stream_has_lost() {
    let (mut view, now) = suspicious();
    cut(&mut view, now);
    view.answer(read(22), now);
    opens(&mut view, 10, now);
    view.answer(changed(&[("a", 12)], 2), now);
    assert!(is_proof(&view, 10));
    view.answer(page(bare(&[("/dokkaa/cluster", 2)]), 22, false), now);
    assert_eq!(reason(&mut view), Some(other_history(&manifest("a"), 3, 0)));
}

#[test]
fn an_event_that_is_known_is_not_news() {
    let mut view = following();
    view.answer(events(vec![put("c", 4), put("a", 9)]), Millis(0));
    assert_eq!((names(&view).len(), view.position().1), (2, 10));
    view.answer(events(vec![put("a", 9), put("c", 11)]), Millis(0));
    assert_eq!(names(&view), ["a", "b", "c"]);
}

#[test]
fn a_healing_list_comes_after_a_comparison() {
    let mut view = following();
    view.answer(events(vec![put("c", 11)]), Millis(0));
    let now = Millis(3 * 3600 * SECOND);
    view.tick(now);
    assert_eq!(range(&view).min_modified, 11);
    view.answer(changed(&[("c", 11)], 4), now);
    assert!(reads(&view));
    view.answer(read(11), now);
    assert!(is_list(&view));
}

#[test]
fn what_is_taken_in_between_two_updates_is_said_at_once() {
    let mut view = following();
    let before = view.saved();
    view.answer(events(vec![put("c", 11)]), Millis(SECOND));
    view.answer(events(vec![gone("a", 12)]), Millis(SECOND));
    // As it is by then, with all that was touched.
    view.answer(events(vec![put("d", 13), gone("c", 14)]), Millis(SECOND));
    let update = view.take_update().expect("an update");
    assert_eq!(update.snapshot.revision, 14);
    let touched = update.touched.manifests.iter();
    let touched: Vec<&str> = touched.map(|id| id.container.as_str()).collect();
    assert_eq!(touched, ["a", "c", "d"]);
    assert_eq!(update.touched.containers, update.touched.manifests);
    assert_eq!(names(&view), ["b", "d"]);
    assert!(!update.resync && update.complete);
    assert!(view.take_update().is_none(), "it is said once");
    assert_eq!((before.len(), view.saved().len()), (3, 3));
    assert!(before.keys().any(|(key, _)| key == manifest("a")));
    // What was said stays as it was.
    view.answer(events(vec![gone("b", 15)]), Millis(SECOND));
    assert_eq!(update.snapshot.containers.size(), 2);
}
