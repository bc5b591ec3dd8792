//! What a `Kv` promises.

use std::time::Duration;

use store::kv::{
    Compare, Event, KeyRange, KvError, Op, OpReply, Range, Relation, Target, Txn, TxnReply, Watch,
    WatchReply,
};

use crate::harness::{Backend, both, delete, get, put, txn, wait_for};

both!(
    a_transaction_writes_all_at_one_revision,
    a_failed_guard_runs_the_other_branch,
    a_transaction_that_changes_nothing_has_no_revision,
    guards_compare_version_creation_change_and_value,
    a_range_guard_holds_if_it_holds_for_every_key,
    nested_guards_see_the_store_as_before_the_whole,
    a_nested_loser_fails_alone,
    a_key_twice_in_one_transaction_is_refused,
    a_key_in_both_branches_of_one_nested_transaction_is_allowed,
    a_put_under_a_deleted_range_is_refused,
    the_128th_operation_is_taken_and_the_129th_is_refused,
    nesting_takes_from_the_limit,
    a_read_in_a_transaction_sees_what_it_has_written,
    ranges_have_limits_counts_filters_and_old_revisions,
    a_key_made_again_begins_anew,
    a_lease_that_is_not_renewed_takes_its_keys,
    a_lease_that_is_renewed_keeps_its_keys,
    a_put_without_the_lease_takes_the_key_off_it,
    a_lease_that_is_gone_can_be_neither_used_nor_renewed,
    revoking_a_lease_deletes_its_keys_at_one_revision,
    a_watch_resumes_where_it_is_told_to,
    a_watch_begins_with_what_comes_if_it_is_told_nothing,
    a_watch_says_what_was_before_if_asked,
    a_watch_sees_its_range_only,
    a_response_never_splits_a_revision,
    a_large_revision_comes_whole,
    a_watch_from_a_compacted_revision_ends,
    a_read_at_a_compacted_revision_fails,
    a_watch_answers_a_progress_request,
    status_knows_a_leader,
);

async fn revision(b: &Backend) -> i64 {
    b.kv.range(Range::key("/nothing"))
        .await
        .expect("reads")
        .revision
}

/// The next reply that is not about progress.
async fn next(watch: &mut Watch) -> WatchReply {
    loop {
        let reply = tokio::time::timeout(Duration::from_secs(30), watch.replies.recv());
        match reply.await.expect("in time").expect("open") {
            WatchReply::Progress(_) => {}
            reply => return reply,
        }
    }
}

/// Events of the coming replies, until there are so many.
async fn events(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut found = Vec::new();
    while found.len() < count {
        match next(watch).await {
            WatchReply::Events(events, _) => found.extend(events),
            other => panic!("{other:?}"),
        }
    }
    found
}

/// As text: `key=value@revision` and `-key@revision`.
fn told(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .map(|event| match event {
            Event::Put { now, .. } => {
                let value = String::from_utf8_lossy(&now.value);
                format!("{}={value}@{}", now.key, now.modified)
            }
            Event::Delete { key, modified, .. } => format!("-{key}@{modified}"),
        })
        .collect()
}

fn refused(result: Result<TxnReply, KvError>, text: &str) {
    match result {
        Err(KvError::Refused(why)) => assert!(why.contains(text), "{why}"),
        other => panic!("{other:?}"),
    }
}

async fn a_transaction_writes_all_at_one_revision(b: Backend) {
    let before = revision(&b).await;
    let reply = txn(&*b.kv, vec![Op::put("/a", "1"), Op::put("/b", "2")])
        .await
        .expect("writes");
    assert!(reply.succeeded);
    assert_eq!(reply.revision, before + 1);
    assert_eq!(reply.replies, [OpReply::Put, OpReply::Put]);
    let kvs =
        b.kv.range(Range::new(KeyRange::range("/a", "/c")))
            .await
            .expect("reads")
            .kvs;
    let revisions: Vec<_> = kvs
        .iter()
        .map(|kv| (kv.created, kv.modified, kv.version, kv.lease))
        .collect();
    assert_eq!(revisions, [(before + 1, before + 1, 1, 0); 2]);
}

async fn a_failed_guard_runs_the_other_branch(b: Backend) {
    let at = put(&*b.kv, "/a", "1").await;
    let reply =
        b.kv.txn(Txn {
            guards: vec![Compare::modified("/a", model::ModRev(at + 5))],
            then: vec![Op::put("/a", "2")],
            otherwise: vec![Op::Get(KeyRange::key("/a"))],
        })
        .await
        .expect("runs");
    assert!(!reply.succeeded);
    let [OpReply::Get(kvs)] = reply.replies.as_slice() else {
        panic!("{reply:?}");
    };
    assert_eq!(kvs[0].value, b"1");
    assert_eq!(reply.revision, at);
}

async fn a_transaction_that_changes_nothing_has_no_revision(b: Backend) {
    let before = revision(&b).await;
    let reply = txn(&*b.kv, vec![Op::delete("/nothing")])
        .await
        .expect("runs");
    assert_eq!(reply.replies, [OpReply::Delete(0)]);
    assert_eq!(reply.revision, before);
}

async fn guards_compare_version_creation_change_and_value(b: Backend) {
    let first = put(&*b.kv, "/a", "m").await;
    let second = put(&*b.kv, "/a", "m").await;
    let key = || KeyRange::key("/a");
    let cases = [
        (Relation::Equal, Target::Version(2), true),
        (Relation::Less, Target::Version(2), false),
        (Relation::Equal, Target::Created(first), true),
        (Relation::Greater, Target::Created(first), false),
        (Relation::Equal, Target::Modified(second), true),
        (Relation::NotEqual, Target::Modified(second), false),
        (Relation::Greater, Target::Modified(first), true),
        (Relation::Equal, Target::Value(b"m".to_vec()), true),
        (Relation::Greater, Target::Value(b"l".to_vec()), true),
        (Relation::Less, Target::Value(b"l".to_vec()), false),
    ];
    for (relation, target, holds) in cases {
        let guard = Compare::new(key(), relation, target);
        let reply = b.kv.txn(Txn::new(vec![guard.clone()], Vec::new())).await;
        assert_eq!(reply.expect("runs").succeeded, holds, "{guard:?}");
    }
    // A key that is absent has zeros, and no value at all.
    let absent = || KeyRange::key("/none");
    let cases = [
        (Relation::Equal, Target::Version(0), true),
        (Relation::Equal, Target::Modified(0), true),
        (Relation::Greater, Target::Created(0), false),
        (Relation::Equal, Target::Value(Vec::new()), false),
        (Relation::NotEqual, Target::Value(b"x".to_vec()), false),
    ];
    for (relation, target, holds) in cases {
        let guard = Compare::new(absent(), relation, target);
        let reply = b.kv.txn(Txn::new(vec![guard.clone()], Vec::new())).await;
        assert_eq!(reply.expect("runs").succeeded, holds, "{guard:?}");
    }
}

async fn a_range_guard_holds_if_it_holds_for_every_key(b: Backend) {
    let none = || Txn::new(vec![Compare::none_in(KeyRange::prefix("/p/"))], Vec::new());
    assert!(b.kv.txn(none()).await.expect("runs").succeeded);
    let first = put(&*b.kv, "/p/a", "1").await;
    assert!(!b.kv.txn(none()).await.expect("runs").succeeded);
    let second = put(&*b.kv, "/p/b", "1").await;
    for (than, holds) in [(first, false), (second + 1, true)] {
        let guard = Compare::new(
            KeyRange::prefix("/p/"),
            Relation::Less,
            Target::Modified(than + i64::from(than == first)),
        );
        let reply = b.kv.txn(Txn::new(vec![guard], Vec::new())).await;
        assert_eq!(reply.expect("runs").succeeded, holds);
    }
}

async fn nested_guards_see_the_store_as_before_the_whole(b: Backend) {
    let inner = Txn::new(vec![Compare::absent("/a")], vec![Op::put("/b", "1")]);
    let reply = txn(&*b.kv, vec![Op::put("/a", "1"), Op::Txn(inner)])
        .await
        .expect("runs");
    let OpReply::Txn(inner) = &reply.replies[1] else {
        panic!("{reply:?}");
    };
    assert!(
        inner.succeeded,
        "the guard did not see /a, which the same transaction makes"
    );
    assert_eq!(get(&*b.kv, "/b").await.as_deref(), Some("1"));
}

async fn a_nested_loser_fails_alone(b: Backend) {
    put(&*b.kv, "/taken", "1").await;
    let claim = |key: &str| {
        Op::Txn(Txn::new(
            vec![Compare::absent(key)],
            vec![Op::put(key, "2")],
        ))
    };
    let reply = txn(&*b.kv, vec![claim("/x"), claim("/taken"), claim("/y")])
        .await
        .expect("runs");
    let won: Vec<bool> = reply
        .replies
        .iter()
        .map(|reply| matches!(reply, OpReply::Txn(inner) if inner.succeeded))
        .collect();
    assert_eq!(won, [true, false, true]);
    assert_eq!(get(&*b.kv, "/taken").await.as_deref(), Some("1"));
    assert_eq!(get(&*b.kv, "/y").await.as_deref(), Some("2"));
}

async fn a_key_twice_in_one_transaction_is_refused(b: Backend) {
    let text = "duplicate key given in txn request";
    let twice = vec![Op::put("/a", "1"), Op::put("/a", "2")];
    refused(txn(&*b.kv, twice.clone()).await, text);
    // Also in a branch that does not run, and across nested ones.
    let not_run = Txn {
        guards: vec![Compare::absent("/a")],
        then: Vec::new(),
        otherwise: twice,
    };
    refused(b.kv.txn(not_run).await, text);
    let nested = |value: &str| {
        Op::Txn(Txn::new(
            vec![Compare::modified("/a", model::ModRev(99))],
            vec![Op::put("/a", value)],
        ))
    };
    refused(txn(&*b.kv, vec![nested("1"), nested("2")]).await, text);
    refused(
        txn(&*b.kv, vec![nested("1"), Op::put("/a", "2")]).await,
        text,
    );
    assert_eq!(get(&*b.kv, "/a").await, None);
}

async fn a_key_in_both_branches_of_one_nested_transaction_is_allowed(b: Backend) {
    let inner = Txn {
        guards: vec![Compare::absent("/a")],
        then: vec![Op::put("/a", "then")],
        otherwise: vec![Op::put("/a", "otherwise")],
    };
    txn(&*b.kv, vec![Op::Txn(inner)]).await.expect("runs");
    assert_eq!(get(&*b.kv, "/a").await.as_deref(), Some("then"));
}

async fn a_put_under_a_deleted_range_is_refused(b: Backend) {
    let text = "duplicate key given in txn request";
    let delete = || Op::Delete(KeyRange::prefix("/p/"));
    let ops = vec![delete(), Op::put("/p/a", "1")];
    refused(txn(&*b.kv, ops).await, text);
    let inner = |op: Op| Op::Txn(Txn::new(Vec::new(), vec![op]));
    let ops = vec![inner(delete()), inner(Op::put("/p/a", "1"))];
    refused(txn(&*b.kv, ops).await, text);
    // Two deletions of one key are no duplicate.
    let ops = vec![delete(), Op::delete("/p/a")];
    txn(&*b.kv, ops).await.expect("runs");
}

async fn the_128th_operation_is_taken_and_the_129th_is_refused(b: Backend) {
    let puts =
        |count: usize| -> Vec<Op> { (0..count).map(|i| Op::put(format!("/n/{i}"), "")).collect() };
    txn(&*b.kv, puts(128)).await.expect("runs");
    refused(txn(&*b.kv, puts(129)).await, "too many operations");
    let guards = vec![Compare::absent("/none"); 129];
    refused(
        b.kv.txn(Txn::new(guards, Vec::new())).await,
        "too many operations",
    );
}

async fn nesting_takes_from_the_limit(b: Backend) {
    let nested = |outer: usize, inner: usize| -> Vec<Op> {
        (0..outer)
            .map(|o| {
                let puts = (0..inner).map(|i| Op::put(format!("/n/{o}/{i}"), ""));
                Op::Txn(Txn::new(Vec::new(), puts.collect()))
            })
            .collect()
    };
    txn(&*b.kv, nested(100, 28)).await.expect("runs");
    refused(txn(&*b.kv, nested(100, 29)).await, "too many operations");
}

async fn a_read_in_a_transaction_sees_what_it_has_written(b: Backend) {
    let ops = vec![
        Op::Get(KeyRange::key("/a")),
        Op::put("/a", "1"),
        Op::Get(KeyRange::key("/a")),
    ];
    let reply = txn(&*b.kv, ops).await.expect("runs");
    assert_eq!(reply.replies[0], OpReply::Get(Vec::new()));
    let OpReply::Get(kvs) = &reply.replies[2] else {
        panic!("{reply:?}");
    };
    assert_eq!((kvs.len(), kvs[0].modified), (1, reply.revision));
}

async fn ranges_have_limits_counts_filters_and_old_revisions(b: Backend) {
    let mut at = Vec::new();
    for key in ["/r/a", "/r/b", "/r/c"] {
        at.push(put(&*b.kv, key, "1").await);
    }
    put(&*b.kv, "/other", "1").await;
    let now = put(&*b.kv, "/r/a", "2").await;
    let all = Range::new(KeyRange::prefix("/r/"));
    let read = |range: Range| async { b.kv.range(range).await.expect("reads") };
    let keys = |reply: &store::kv::RangeReply| -> Vec<String> {
        reply.kvs.iter().map(|kv| kv.key.clone()).collect()
    };

    let reply = read(all.clone()).await;
    assert_eq!(keys(&reply), ["/r/a", "/r/b", "/r/c"]);
    assert_eq!((reply.revision, reply.more, reply.count), (now, false, 3));

    let limited = read(Range {
        limit: 2,
        ..all.clone()
    })
    .await;
    assert_eq!(keys(&limited), ["/r/a", "/r/b"]);
    assert_eq!((limited.more, limited.count), (true, 3));

    let old = read(Range {
        revision: at[1],
        ..all.clone()
    })
    .await;
    assert_eq!(keys(&old), ["/r/a", "/r/b"]);
    assert_eq!((old.kvs[0].value.as_slice(), old.count), (&b"1"[..], 2));
    assert_eq!(old.revision, now, "the header says where the store is");

    let changed = read(Range {
        min_modified: at[2],
        keys_only: true,
        ..all.clone()
    })
    .await;
    assert_eq!(keys(&changed), ["/r/a", "/r/c"]);
    assert!(changed.kvs.iter().all(|kv| kv.value.is_empty()));
    assert_eq!(changed.count, 3, "a filter does not change the count");

    let count = read(Range {
        count_only: true,
        ..all.clone()
    })
    .await;
    assert_eq!((count.kvs.len(), count.count), (0, 3));

    let serializable = Range {
        serializable: true,
        ..all.clone()
    };
    assert_eq!(read(serializable).await.count, 3);
    let everything = Range::new(KeyRange::range("/r/b", vec![0]));
    assert_eq!(keys(&read(everything).await), ["/r/b", "/r/c"]);
    let future = Range {
        revision: now + 10,
        ..all
    };
    let refused = b.kv.range(future).await;
    assert!(matches!(refused, Err(KvError::Refused(_))), "{refused:?}");
}

async fn a_key_made_again_begins_anew(b: Backend) {
    put(&*b.kv, "/a", "1").await;
    put(&*b.kv, "/a", "2").await;
    delete(&*b.kv, "/a").await;
    let again = put(&*b.kv, "/a", "3").await;
    let kv = b.kv.range(Range::key("/a")).await.expect("reads").kvs;
    assert_eq!(
        (kv[0].created, kv[0].modified, kv[0].version),
        (again, again, 1)
    );
}

fn on_lease(key: &str, lease: i64) -> Op {
    Op::Put {
        key: key.into(),
        value: b"1".to_vec(),
        lease,
    }
}

async fn a_lease_that_is_not_renewed_takes_its_keys(b: Backend) {
    let (lease, ttl) =
        b.kv.lease_grant(Duration::from_secs(2))
            .await
            .expect("grants");
    assert_eq!(ttl, Duration::from_secs(2));
    let at = txn(
        &*b.kv,
        vec![on_lease("/l/a", lease), on_lease("/l/b", lease)],
    )
    .await
    .expect("puts")
    .revision;
    let mut watch =
        b.kv.watch(KeyRange::prefix("/l/"), at + 1, false)
            .await
            .expect("watches");
    let ended = events(&mut watch, 2).await;
    assert_eq!(
        told(&ended),
        [format!("-/l/a@{}", at + 1), format!("-/l/b@{}", at + 1)]
    );
}

async fn a_lease_that_is_renewed_keeps_its_keys(b: Backend) {
    let (lease, ttl) =
        b.kv.lease_grant(Duration::from_secs(2))
            .await
            .expect("grants");
    txn(&*b.kv, vec![on_lease("/l/a", lease)])
        .await
        .expect("puts");
    let (short, _) =
        b.kv.lease_grant(Duration::from_secs(2))
            .await
            .expect("grants");
    txn(&*b.kv, vec![on_lease("/l/b", short)])
        .await
        .expect("puts");
    // The one that is not renewed shows that the time has passed, twice.
    let mut rounds = 0;
    while rounds < 2 {
        let (left, revision) = b.kv.lease_keep_alive(lease).await.expect("renews");
        assert_eq!(left, ttl);
        assert!(revision > 0);
        if get(&*b.kv, "/l/b").await.is_none() {
            rounds += 1;
            let (short, _) =
                b.kv.lease_grant(Duration::from_secs(2))
                    .await
                    .expect("grants");
            txn(&*b.kv, vec![on_lease("/l/b", short)])
                .await
                .expect("puts");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(get(&*b.kv, "/l/a").await.as_deref(), Some("1"));
}

async fn a_put_without_the_lease_takes_the_key_off_it(b: Backend) {
    let (lease, _) =
        b.kv.lease_grant(Duration::from_secs(5))
            .await
            .expect("grants");
    txn(
        &*b.kv,
        vec![on_lease("/l/a", lease), on_lease("/l/b", lease)],
    )
    .await
    .expect("puts");
    put(&*b.kv, "/l/a", "2").await;
    b.kv.lease_revoke(lease).await.expect("revokes");
    assert_eq!(get(&*b.kv, "/l/a").await.as_deref(), Some("2"));
    assert_eq!(get(&*b.kv, "/l/b").await, None);
}

async fn a_lease_that_is_gone_can_be_neither_used_nor_renewed(b: Backend) {
    let (lease, _) =
        b.kv.lease_grant(Duration::from_secs(5))
            .await
            .expect("grants");
    b.kv.lease_keep_alive(lease).await.expect("renews");
    b.kv.lease_revoke(lease).await.expect("revokes");
    for result in [
        b.kv.lease_keep_alive(lease).await.map(|_| ()),
        b.kv.lease_keep_alive(lease).await.map(|_| ()),
        b.kv.lease_revoke(lease).await,
        txn(&*b.kv, vec![on_lease("/a", lease)]).await.map(|_| ()),
    ] {
        assert!(matches!(result, Err(KvError::LeaseNotFound)), "{result:?}");
    }
    // Only the branch that runs needs its lease.
    let other = Txn {
        guards: vec![Compare::absent("/a")],
        then: vec![Op::put("/a", "1")],
        otherwise: vec![on_lease("/a", lease)],
    };
    assert!(b.kv.txn(other).await.expect("runs").succeeded);
}

async fn revoking_a_lease_deletes_its_keys_at_one_revision(b: Backend) {
    let (lease, _) =
        b.kv.lease_grant(Duration::from_secs(5))
            .await
            .expect("grants");
    let at = txn(
        &*b.kv,
        vec![on_lease("/l/b", lease), on_lease("/l/a", lease)],
    )
    .await
    .expect("puts")
    .revision;
    b.kv.lease_revoke(lease).await.expect("revokes");
    let mut watch =
        b.kv.watch(KeyRange::prefix("/l/"), at + 1, false)
            .await
            .expect("watches");
    let WatchReply::Events(gone, header) = next(&mut watch).await else {
        panic!("no events");
    };
    assert_eq!(
        told(&gone),
        [format!("-/l/a@{}", at + 1), format!("-/l/b@{}", at + 1)]
    );
    assert_eq!(header, at + 1);
}

async fn a_watch_resumes_where_it_is_told_to(b: Backend) {
    let first = put(&*b.kv, "/w/a", "1").await;
    put(&*b.kv, "/w/b", "1").await;
    delete(&*b.kv, "/w/a").await;
    let mut watch =
        b.kv.watch(KeyRange::prefix("/w/"), first + 1, false)
            .await
            .expect("watches");
    put(&*b.kv, "/w/c", "1").await;
    assert_eq!(
        told(&events(&mut watch, 3).await),
        [
            format!("/w/b=1@{}", first + 1),
            format!("-/w/a@{}", first + 2),
            format!("/w/c=1@{}", first + 3)
        ]
    );
}

async fn a_watch_begins_with_what_comes_if_it_is_told_nothing(b: Backend) {
    put(&*b.kv, "/w/a", "1").await;
    let mut watch =
        b.kv.watch(KeyRange::prefix("/w/"), 0, false)
            .await
            .expect("watches");
    let at = put(&*b.kv, "/w/a", "2").await;
    assert_eq!(told(&events(&mut watch, 1).await), [format!("/w/a=2@{at}")]);
}

async fn a_watch_says_what_was_before_if_asked(b: Backend) {
    let at = put(&*b.kv, "/w/a", "1").await;
    put(&*b.kv, "/w/a", "2").await;
    delete(&*b.kv, "/w/a").await;
    let before = |event: &Event| match event {
        Event::Put { before, .. } | Event::Delete { before, .. } => before
            .as_ref()
            .map(|kv| String::from_utf8_lossy(&kv.value).into_owned()),
    };
    for (previous, wanted) in [
        (true, vec![None, Some("1".to_owned()), Some("2".to_owned())]),
        (false, vec![None, None, None]),
    ] {
        let mut watch =
            b.kv.watch(KeyRange::key("/w/a"), at, previous)
                .await
                .expect("watches");
        let found: Vec<_> = events(&mut watch, 3).await.iter().map(before).collect();
        assert_eq!(found, wanted);
    }
}

async fn a_watch_sees_its_range_only(b: Backend) {
    let at = put(&*b.kv, "/w/a", "1").await;
    put(&*b.kv, "/v/a", "1").await;
    put(&*b.kv, "/w0", "1").await;
    put(&*b.kv, "/w/z", "1").await;
    let mut watch =
        b.kv.watch(KeyRange::prefix("/w/"), at, false)
            .await
            .expect("watches");
    let found = events(&mut watch, 2).await;
    assert_eq!(
        told(&found),
        [format!("/w/a=1@{at}"), format!("/w/z=1@{}", at + 3)]
    );
}

async fn a_response_never_splits_a_revision(b: Backend) {
    let start = revision(&b).await;
    for round in 0..50 {
        let ops = (0..20).map(|i| Op::put(format!("/w/{i}"), format!("{round}")));
        txn(&*b.kv, ops.collect()).await.expect("writes");
    }
    let mut watch =
        b.kv.watch(KeyRange::prefix("/w/"), start + 1, false)
            .await
            .expect("watches");
    let mut seen = 0;
    while seen < 50 * 20 {
        let WatchReply::Events(events, _) = next(&mut watch).await else {
            panic!("no events");
        };
        assert_eq!(events.len() % 20, 0);
        seen += events.len();
    }
}

async fn a_large_revision_comes_whole(b: Backend) {
    let start = revision(&b).await;
    // With the value before each change one revision is 5 MB, more than fits into one message of etcd's.
    let value = vec![b'x'; 100_000];
    for _ in 0..2 {
        for part in 0..3 {
            let ops = (0..8).map(|i| Op::put(format!("/w/{part}/{i}"), value.clone()));
            txn(&*b.kv, ops.collect()).await.expect("writes");
        }
    }
    let reply = txn(&*b.kv, vec![Op::Delete(KeyRange::prefix("/w/"))])
        .await
        .expect("deletes");
    assert_eq!(reply.replies, [OpReply::Delete(24)]);
    let mut watch =
        b.kv.watch(KeyRange::prefix("/w/"), start + 1, true)
            .await
            .expect("watches");
    let mut deleted = 0;
    while deleted == 0 {
        let WatchReply::Events(events, _) = next(&mut watch).await else {
            panic!("no events");
        };
        deleted = events
            .iter()
            .filter(|event| matches!(event, Event::Delete { before: Some(kv), .. } if kv.value.len() == 100_000))
            .count();
    }
    assert_eq!(deleted, 24);
}

async fn a_watch_from_a_compacted_revision_ends(b: Backend) {
    let first = put(&*b.kv, "/w/a", "1").await;
    put(&*b.kv, "/w/a", "2").await;
    let last = put(&*b.kv, "/w/a", "3").await;
    b.compact(last).await;
    let mut watch =
        b.kv.watch(KeyRange::key("/w/a"), first, false)
            .await
            .expect("watches");
    assert_eq!(next(&mut watch).await, WatchReply::Compacted(last));
    assert_eq!(watch.replies.recv().await, None);
    // What is left can be watched.
    let mut watch =
        b.kv.watch(KeyRange::key("/w/a"), last, false)
            .await
            .expect("watches");
    assert_eq!(
        told(&events(&mut watch, 1).await),
        [format!("/w/a=3@{last}")]
    );
}

async fn a_read_at_a_compacted_revision_fails(b: Backend) {
    let first = put(&*b.kv, "/a", "1").await;
    let last = put(&*b.kv, "/a", "2").await;
    b.compact(last).await;
    let at = |revision| Range {
        revision,
        ..Range::key("/a")
    };
    let result = b.kv.range(at(first)).await;
    assert!(matches!(result, Err(KvError::Compacted)), "{result:?}");
    assert_eq!(b.kv.range(at(last)).await.expect("reads").kvs.len(), 1);
}

async fn a_watch_answers_a_progress_request(b: Backend) {
    let watch =
        b.kv.watch(KeyRange::prefix("/w/"), 0, false)
            .await
            .expect("watches");
    let at = put(&*b.kv, "/outside", "1").await;
    let Watch {
        mut replies,
        progress,
    } = watch;
    progress.send(()).await.expect("open");
    let reply = replies.recv().await;
    assert_eq!(reply, Some(WatchReply::Progress(at)));
}

async fn status_knows_a_leader(b: Backend) {
    let status = wait_for("a leader", || async {
        b.kv.status().await.ok().filter(|status| status.leader != 0)
    })
    .await;
    assert_ne!(status.cluster_id, 0);
    assert!(status.version.starts_with("3."));
}
