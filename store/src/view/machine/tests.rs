use uuid::Uuid;

use super::*;

const SECOND: u64 = 1_000;

fn cluster() -> Cluster {
    Cluster {
        id: Uuid::nil(),
        epoch: 1,
    }
}

fn kv(key: &str, modified: i64) -> KeyValue {
    let value = if key == "/dokkaa/cluster" {
        serde_json::to_vec(&cluster()).expect("serializes")
    } else {
        br#"{"image": "nginx"}"#.to_vec()
    };
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

fn read(revision: i64) -> Answer {
    Answer::Read(FirstRead {
        cluster: Some(cluster()),
        revision,
    })
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
    assert_eq!(view.step(), Step::Read);
    view.answer(read(10), Millis(0));
    assert!(matches!(view.step(), Step::List(_)));
    let kvs = vec![
        kv(&manifest("a"), 3),
        kv(&manifest("b"), 4),
        kv("/dokkaa/cluster", 2),
    ];
    view.answer(page(kvs, 10, false), Millis(0));
    assert_eq!(
        view.step(),
        Step::Watch {
            from: 11,
            avoid: false
        }
    );
    view.answer(Answer::Opened, Millis(0));
    assert_eq!(view.step(), Step::Follow);
    let update = view.take_update().expect("an update");
    assert!(update.complete && update.resync && !update.stale);
    view
}

/// The stream breaks; the first read says 20, and that `changed` happened since.
fn resumed(changed: &[(&str, i64)], count: i64) -> View {
    let mut view = following();
    view.answer(
        Answer::Reply(WatchReply::Closed("cut".into())),
        Millis(SECOND),
    );
    let update = view.take_update().expect("an update");
    assert!(!update.complete);
    assert_eq!(view.step(), Step::Read);
    view.answer(read(20), Millis(SECOND));
    assert_eq!(view.step(), Step::Changed { since: 11, at: 20 });
    let changed = changed
        .iter()
        .map(|(name, modified)| (manifest(name), *modified))
        .collect();
    view.answer(Answer::Changed(changed, count), Millis(SECOND));
    view.answer(Answer::Opened, Millis(SECOND));
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
    let Step::List(range) = view.step() else {
        panic!("{:?}", view.step());
    };
    assert_eq!(range.revision, 12);
    assert_eq!(range.keys.start, format!("{}\0", manifest("a")).as_bytes());
    assert!(view.take_update().is_none(), "half a list is no view");
    let kvs = vec![kv(&manifest("b"), 4), kv("/dokkaa/cluster", 2)];
    view.answer(page(kvs, 15, false), Millis(0));
    assert_eq!((names(&view).len(), view.revision()), (2, 12));
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
    view.answer(
        Answer::Reply(WatchReply::Closed("cut".into())),
        Millis(SECOND),
    );
    view.answer(read(25), Millis(SECOND));
    assert_eq!(view.step(), Step::Changed { since: 11, at: 25 });
}

#[test]
fn a_deletion_that_compaction_took_away_is_found_by_a_list() {
    // Only a deletion happened, at the very revision that is compacted: no event comes.
    let mut view = resumed(&[], 2);
    view.tick(Millis(5 * SECOND));
    assert_eq!(view.step(), Step::Follow);
    view.tick(Millis(12 * SECOND));
    assert_eq!(view.step(), Step::Read);
    view.answer(read(20), Millis(12 * SECOND));
    assert!(matches!(view.step(), Step::List(_)));
    let kvs = vec![kv(&manifest("b"), 4), kv("/dokkaa/cluster", 2)];
    view.answer(page(kvs, 20, false), Millis(12 * SECOND));
    assert_eq!(names(&view), ["b"]);
}

#[test]
fn nothing_that_changed_is_complete_at_once() {
    let mut view = following();
    view.answer(
        Answer::Reply(WatchReply::Closed("cut".into())),
        Millis(SECOND),
    );
    view.answer(read(10), Millis(SECOND));
    assert!(matches!(view.step(), Step::Watch { from: 11, .. }));
    view.answer(Answer::Opened, Millis(SECOND));
    assert!(complete(&mut view));
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
    assert_eq!(view.step(), Step::Read);
    view.answer(read(10), Millis(4 * SECOND));
    assert_eq!(
        view.step(),
        Step::Watch {
            from: 11,
            avoid: true
        }
    );
    view.answer(Answer::Opened, Millis(4 * SECOND));
    assert!(
        view.take_progress_request(),
        "a new stream is asked at once"
    );
    view.tick(Millis(6 * SECOND));
    view.answer(read(10), Millis(6 * SECOND));
    assert!(matches!(view.step(), Step::List(_)));
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
        assert!(!pause.is_zero() && pause <= LONGEST_PAUSE, "{pause:?}");
        longest = longest.max(pause);
    }
    assert!(longest > Duration::from_secs(2));
}

#[test]
fn events_that_take_the_clusters_key_away_are_not_applied() {
    let mut view = following();
    let key = Event::Delete {
        key: "/dokkaa/cluster".into(),
        modified: 11,
        before: None,
    };
    view.answer(events(vec![gone("a", 11), gone("b", 11), key]), Millis(0));
    let update = view.take_update().expect("an update");
    assert_eq!(
        update.trust,
        Trust::Distrust(Reason::ClusterMissing(Uuid::nil()))
    );
    assert!(!update.complete);
    assert_eq!((names(&view).len(), view.revision()), (2, 10));
}

#[test]
fn a_list_with_a_key_of_another_history_is_not_applied() {
    let mut view = following();
    view.answer(Answer::Reply(WatchReply::Compacted(15)), Millis(0));
    view.answer(read(20), Millis(0));
    // Below the view's revision, and not what it saw then.
    let kvs = vec![kv(&manifest("a"), 5), kv("/dokkaa/cluster", 2)];
    view.answer(page(kvs, 20, false), Millis(0));
    let update = view.take_update().expect("an update");
    let reason = Reason::OtherHistory {
        key: manifest("a"),
        modified: 5,
    };
    assert_eq!(update.trust, Trust::Distrust(reason));
    assert_eq!((names(&view).len(), view.revision()), (2, 10));
    assert_eq!(view.step(), Step::Read);
}
