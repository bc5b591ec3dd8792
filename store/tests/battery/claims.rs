//! The transactions by which slots change hands, carried out.

use manifests::keys::Key;
use manifests::{ContainerId, HostName, InstanceId, SlotId};
use model::Rules;
use model::records::{Claim, Data, Phase, Rollout, SlotState, Status, Unfit, Version};
use model::snapshot::VoidNext;
use model::write::{Over, Write};
use model::{ModRev, VersionId};
use store::claims::Batch;
use store::kv::{KeyRange, Kv, Range, Txn, TxnReply};
use store::{Compare, Op};
use uuid::Uuid;

use crate::harness::{Backend, both, delete, put, txn};
use crate::view::{id, manifest};

both!(
    a_free_slot_is_claimed_once,
    a_claim_on_a_manifest_that_changed_fails,
    a_void_next_goes_with_the_claim_and_a_live_one_forbids_it,
    a_claim_takes_away_what_the_former_owner_said,
    a_claim_notes_where_the_data_is,
    only_the_owner_writes_in_the_owners_name,
    a_state_is_written_over_the_one_that_was_seen_only,
    a_release_with_its_mark_is_one_transaction,
    the_claim_of_a_live_host_is_not_garbage,
    a_slot_is_taken_over_only_from_a_host_that_is_not_live,
    a_handover_ends_with_a_promotion_and_its_state,
    an_unready_promotion_needs_a_lost_or_a_stopped_holder,
    a_retake_forbids_what_it_has_not_seen,
    stopped_is_taken_back_with_the_void_next,
    a_version_is_decided_once_and_the_loser_reads_it,
    a_version_becomes_good_and_old_ones_go,
    a_rollout_is_noted_for_the_manifest_that_was_seen,
    remains_go_only_when_nothing_is_left,
    losers_in_a_batch_fail_alone,
    a_hundred_and_fifty_claims_take_two_transactions,
);

fn host(name: &str) -> HostName {
    name.parse().expect("a name")
}

fn instance(name: &str) -> InstanceId {
    name.parse().expect("an instance")
}

fn web() -> ContainerId {
    id("web")
}

fn slot(number: u32) -> SlotId {
    web().slot(number)
}

fn claim(by: &str, number: u32, version: i64) -> Claim {
    Claim {
        host: host(by),
        instance: instance(&format!("{by}-{number}")),
        version: VersionId(version),
    }
}

fn state(of: &Claim, phase: Phase) -> SlotState {
    SlotState {
        instance: of.instance.clone(),
        state: phase,
        addr: "10.0.0.1".parse().expect("an address"),
        ports: std::collections::BTreeMap::new(),
    }
}

fn status(of: &Claim) -> Status {
    let json = serde_json::json!({
        "instance": of.instance, "host": of.host, "progress": "running", "version": of.version,
    });
    serde_json::from_value(json).expect("a status")
}

async fn put_manifest(kv: &dyn Kv) -> i64 {
    put(kv, &manifest("web"), r#"{"image": "nginx"}"#).await
}

fn txn_of(write: &Write) -> Txn {
    store::claims::txn(write, Rules::default())
}

fn batch(txns: Vec<Txn>) -> Vec<Batch> {
    store::claims::batch(txns, Rules::default())
}

fn claims(number: u32, claim: &Claim, manifest: i64) -> Txn {
    claims_over(number, claim, manifest, None)
}

fn claims_over(number: u32, claim: &Claim, manifest: i64, next: Option<VoidNext>) -> Txn {
    txn_of(&Write::claim(
        slot(number),
        claim.clone(),
        ModRev(manifest),
        next,
    ))
}

fn takes_over(from: &str, claim_rev: i64, claim: &Claim, next: Option<VoidNext>) -> Txn {
    let (from, manifest_rev) = (
        (ModRev(claim_rev), host(from)),
        claim.version.manifest_rev(),
    );
    txn_of(&Write::take_over(
        slot(0),
        claim.clone(),
        from,
        manifest_rev,
        next,
    ))
}

fn begins(claim_rev: i64, next: &Claim, void: Option<VoidNext>) -> Txn {
    txn_of(&Write::next(
        slot(0),
        next.clone(),
        ModRev(claim_rev),
        next.version.manifest_rev(),
        void,
    ))
}

fn promotes(claim_rev: i64, next_rev: i64, claim: &Claim, over: Over) -> Txn {
    let manifest_rev = claim.version.manifest_rev();
    txn_of(&Write::promote(
        slot(0),
        claim.clone(),
        ModRev(claim_rev),
        manifest_rev,
        ModRev(next_rev),
        over,
    ))
}

fn retakes(claim: &Claim, claim_rev: i64, state_rev: i64, next_rev: i64) -> Txn {
    let state = state(claim, Phase::Ready);
    txn_of(&Write::retake(
        slot(0),
        claim.clone(),
        state,
        ModRev(claim_rev),
        ModRev(state_rev),
        ModRev(next_rev),
    ))
}

fn says(state: &SlotState, claim_rev: i64, state_rev: i64) -> Txn {
    txn_of(&Write::state(
        slot(0),
        state.clone(),
        ModRev(claim_rev),
        ModRev(state_rev),
    ))
}

fn tells(status: &Status, claim_rev: i64) -> Txn {
    txn_of(&Write::status(slot(0), status.clone(), ModRev(claim_rev)))
}

fn releases(claim_rev: i64) -> Txn {
    txn_of(&Write::release(slot(0), ModRev(claim_rev)))
}

fn decides(id: i64, image: &str) -> Txn {
    txn_of(&Write::version(web(), VersionId(id), version(image)))
}

async fn run(kv: &dyn Kv, txn: Txn) -> TxnReply {
    kv.txn(txn).await.expect("runs")
}

async fn wins(kv: &dyn Kv, txn: Txn) -> i64 {
    let reply = run(kv, txn).await;
    assert!(reply.succeeded, "{reply:?}");
    reply.revision
}

async fn loses(kv: &dyn Kv, txn: Txn) {
    let reply = run(kv, txn).await;
    assert!(!reply.succeeded, "{reply:?}");
}

async fn read<T: serde::de::DeserializeOwned>(kv: &dyn Kv, key: Key) -> Option<T> {
    let reply = kv.range(Range::key(key)).await.expect("reads");
    let kv = reply.kvs.into_iter().next()?;
    Some(serde_json::from_slice(&kv.value).expect("as written"))
}

async fn owner(kv: &dyn Kv, slot: &SlotId) -> Option<HostName> {
    let claim: Option<Claim> = read(kv, Key::Claim(slot.clone())).await;
    claim.map(|claim| claim.host)
}

async fn a_free_slot_is_claimed_once(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let (mine, theirs) = (claim("h1", 0, at), claim("h2", 0, at));
    wins(&*b.kv, claims(0, &mine, at)).await;
    loses(&*b.kv, claims(0, &theirs, at)).await;
    assert_eq!(owner(&*b.kv, &slot(0)).await, Some(host("h1")));
}

async fn a_claim_on_a_manifest_that_changed_fails(b: Backend) {
    let old = put_manifest(&*b.kv).await;
    let new = put_manifest(&*b.kv).await;
    loses(&*b.kv, claims(0, &claim("h1", 0, old), old)).await;
    delete(&*b.kv, &manifest("web")).await;
    loses(&*b.kv, claims(0, &claim("h1", 0, new), new)).await;
    assert_eq!(owner(&*b.kv, &slot(0)).await, None);
}

async fn a_void_next_goes_with_the_claim_and_a_live_one_forbids_it(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let next_key = Key::Next(slot(0));
    let next = txn(&*b.kv, vec![Op::put_json(&next_key, &claim("h2", 0, at))])
        .await
        .expect("puts")
        .revision;
    let mine = claim("h1", 0, at);
    loses(&*b.kv, claims(0, &mine, at)).await;
    let void = || {
        Some(VoidNext {
            rev: ModRev(next),
            host: host("h2"),
        })
    };
    put(&*b.kv, "/hosts/h2/record", "{}").await;
    loses(&*b.kv, claims_over(0, &mine, at, void())).await;
    let drops = Write::delete_void_next(slot(0), void().expect("void"));
    loses(&*b.kv, txn_of(&drops)).await;
    delete(&*b.kv, "/hosts/h2/record").await;
    wins(&*b.kv, claims_over(0, &mine, at, void())).await;
    assert_eq!(read::<Claim>(&*b.kv, next_key).await, None);
}

async fn a_claim_takes_away_what_the_former_owner_said(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let first = claim("h1", 0, at);
    let own = wins(&*b.kv, claims(0, &first, at)).await;
    wins(&*b.kv, says(&state(&first, Phase::Ready), own, 0)).await;
    wins(&*b.kv, tells(&status(&first), own)).await;
    let second = claim("h1", 1, at);
    let change = txn_of(&Write::new_instance(slot(0), second.clone(), ModRev(own)));
    let now = wins(&*b.kv, change.clone()).await;
    loses(&*b.kv, change).await;
    assert_eq!(read::<SlotState>(&*b.kv, Key::State(slot(0))).await, None);
    assert_eq!(read::<Status>(&*b.kv, Key::Status(slot(0))).await, None);
    wins(&*b.kv, tells(&status(&second), now)).await;
    wins(&*b.kv, releases(now)).await;
    assert_eq!(owner(&*b.kv, &slot(0)).await, None);
    assert_eq!(read::<Status>(&*b.kv, Key::Status(slot(0))).await, None);
}

async fn a_claim_notes_where_the_data_is(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let mine = claim("h1", 0, at);
    let data = Data {
        host: host("h1"),
        host_id: Uuid::new_v4(),
        volumes: vec!["db".into()],
        existing: Vec::new(),
        driver: None,
    };
    let with = |data_rev: i64| {
        let claim = Write::claim(slot(0), mine.clone(), ModRev(at), None);
        txn_of(&claim.with_data(Some((data.clone(), ModRev(data_rev)))))
    };
    loses(&*b.kv, with(7)).await;
    wins(&*b.kv, with(0)).await;
    assert_eq!(read(&*b.kv, Key::Data(slot(0))).await, Some(data.clone()));
}

async fn only_the_owner_writes_in_the_owners_name(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let mine = claim("h1", 0, at);
    let old = wins(&*b.kv, claims(0, &mine, at)).await;
    wins(&*b.kv, releases(old)).await;
    let theirs = claim("h2", 0, at);
    let new = wins(&*b.kv, claims(0, &theirs, at)).await;
    loses(&*b.kv, says(&state(&mine, Phase::Ready), old, 0)).await;
    loses(&*b.kv, tells(&status(&mine), old)).await;
    loses(&*b.kv, releases(old)).await;
    wins(&*b.kv, tells(&status(&theirs), new)).await;
}

async fn a_state_is_written_over_the_one_that_was_seen_only(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let mine = claim("h1", 0, at);
    let own = wins(&*b.kv, claims(0, &mine, at)).await;
    let put = |seen: i64, phase: Phase| says(&state(&mine, phase), own, seen);
    let first = wins(&*b.kv, put(0, Phase::Unready)).await;
    loses(&*b.kv, put(0, Phase::Ready)).await;
    wins(&*b.kv, put(first, Phase::Ready)).await;
    let now: Option<SlotState> = read(&*b.kv, Key::State(slot(0))).await;
    assert_eq!(now.map(|s| s.state), Some(Phase::Ready));
}

async fn a_release_with_its_mark_is_one_transaction(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let own = wins(&*b.kv, claims(0, &claim("h1", 0, at), at)).await;
    let unfit = Unfit {
        manifest_rev: ModRev(at),
        reason: "port 80 is taken".into(),
    };
    let gives_up = |claim_rev: i64| {
        let (host, unfit) = (host("h1"), unfit.clone());
        txn_of(&Write::release_unfit(
            slot(0),
            ModRev(claim_rev),
            host,
            unfit,
        ))
    };
    loses(&*b.kv, gives_up(own + 1)).await;
    let key = || Key::Unfit(host("h1"), web());
    assert_eq!(read::<Unfit>(&*b.kv, key()).await, None);
    let marked = wins(&*b.kv, gives_up(own)).await;
    assert_eq!(read(&*b.kv, key()).await, Some(unfit));
    let fit = |unfit_rev: i64| txn_of(&Write::fit(web(), host("h1"), ModRev(unfit_rev)));
    loses(&*b.kv, fit(marked - 1)).await;
    wins(&*b.kv, fit(marked)).await;
    assert_eq!(read::<Unfit>(&*b.kv, key()).await, None);
}

async fn the_claim_of_a_live_host_is_not_garbage(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let theirs = claim("h2", 0, at);
    let own = wins(&*b.kv, claims(0, &theirs, at)).await;
    put(&*b.kv, "/hosts/h2/record", "{}").await;
    delete(&*b.kv, &manifest("web")).await;
    let garbage = || {
        txn_of(&Write::delete_unwanted(
            slot(0),
            ModRev(own),
            ModRev::ABSENT,
            host("h2"),
        ))
    };
    loses(&*b.kv, garbage()).await;
    delete(&*b.kv, "/hosts/h2/record").await;
    wins(&*b.kv, garbage()).await;
    assert_eq!(owner(&*b.kv, &slot(0)).await, None);
}

async fn a_slot_is_taken_over_only_from_a_host_that_is_not_live(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let theirs = claim("h2", 0, at);
    let held = wins(&*b.kv, claims(0, &theirs, at)).await;
    wins(&*b.kv, says(&state(&theirs, Phase::Ready), held, 0)).await;
    put(&*b.kv, "/hosts/h2/record", "{}").await;
    let mine = claim("h1", 0, at);
    loses(&*b.kv, takes_over("h2", held, &mine, None)).await;
    delete(&*b.kv, "/hosts/h2/record").await;
    loses(&*b.kv, takes_over("h2", held - 1, &mine, None)).await;
    wins(&*b.kv, takes_over("h2", held, &mine, None)).await;
    assert_eq!(owner(&*b.kv, &slot(0)).await, Some(host("h1")));
    assert_eq!(read::<SlotState>(&*b.kv, Key::State(slot(0))).await, None);
    loses(&*b.kv, takes_over("h2", held, &claim("h3", 0, at), None)).await;
}

async fn a_handover_ends_with_a_promotion_and_its_state(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let held = wins(&*b.kv, claims(0, &claim("h1", 0, at), at)).await;
    let next = claim("h2", 0, at);
    let begun = wins(&*b.kv, begins(held, &next, None)).await;
    loses(&*b.kv, begins(held, &claim("h3", 0, at), None)).await;
    let ready = || Over::Ready(state(&next, Phase::Ready));
    loses(&*b.kv, promotes(held, begun - 1, &next, ready())).await;
    wins(&*b.kv, promotes(held, begun, &next, ready())).await;
    assert_eq!(owner(&*b.kv, &slot(0)).await, Some(host("h2")));
    assert_eq!(read::<Claim>(&*b.kv, Key::Next(slot(0))).await, None);
    let now: Option<SlotState> = read(&*b.kv, Key::State(slot(0))).await;
    assert_eq!(now, Some(state(&next, Phase::Ready)));
}

async fn an_unready_promotion_needs_a_lost_or_a_stopped_holder(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let mine = claim("h1", 0, at);
    put(&*b.kv, "/hosts/h1/record", "{}").await;
    let held = wins(&*b.kv, claims(0, &mine, at)).await;
    let ready = wins(&*b.kv, says(&state(&mine, Phase::Ready), held, 0)).await;
    let next = claim("h2", 0, at);
    let begun = wins(&*b.kv, begins(held, &next, None)).await;
    let lost = || promotes(held, begun, &next, Over::Lost(host("h1")));
    loses(&*b.kv, lost()).await;
    let stopped = wins(&*b.kv, says(&state(&mine, Phase::Stopped), held, ready)).await;
    let over = |seen: i64| promotes(held, begun, &next, Over::Stopped(ModRev(seen), host("h1")));
    loses(&*b.kv, over(ready)).await;
    wins(&*b.kv, over(stopped)).await;
    assert_eq!(read::<SlotState>(&*b.kv, Key::State(slot(0))).await, None);
    loses(&*b.kv, lost()).await;
}

async fn a_retake_forbids_what_it_has_not_seen(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let theirs = claim("h2", 0, at);
    let held = wins(&*b.kv, claims(0, &theirs, at)).await;
    let unready = wins(&*b.kv, says(&state(&theirs, Phase::Unready), held, 0)).await;
    let begun = wins(&*b.kv, begins(held, &claim("h3", 0, at), None)).await;
    let mine = claim("h1", 0, at);
    loses(&*b.kv, retakes(&mine, held, unready, 0)).await;
    loses(&*b.kv, retakes(&mine, held, 0, begun)).await;
    wins(&*b.kv, retakes(&mine, held, unready, begun)).await;
    let now: Option<SlotState> = read(&*b.kv, Key::State(slot(0))).await;
    assert_eq!(now, Some(state(&mine, Phase::Ready)));
    assert_eq!(read::<Claim>(&*b.kv, Key::Next(slot(0))).await, None);
}

async fn stopped_is_taken_back_with_the_void_next(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let mine = claim("h1", 0, at);
    let held = wins(&*b.kv, claims(0, &mine, at)).await;
    let stopped = wins(&*b.kv, says(&state(&mine, Phase::Stopped), held, 0)).await;
    let begun = wins(&*b.kv, begins(held, &claim("h2", 0, at), None)).await;
    let takes_back = |next: Option<VoidNext>| {
        let unready = state(&mine, Phase::Unready);
        txn_of(&Write::take_back(
            slot(0),
            unready,
            ModRev(held),
            ModRev(stopped),
            next,
        ))
    };
    let void = VoidNext {
        rev: ModRev(begun),
        host: host("h2"),
    };
    put(&*b.kv, "/hosts/h2/record", "{}").await;
    loses(&*b.kv, takes_back(None)).await;
    loses(&*b.kv, takes_back(Some(void.clone()))).await;
    delete(&*b.kv, "/hosts/h2/record").await;
    wins(&*b.kv, takes_back(Some(void))).await;
    assert_eq!(read::<Claim>(&*b.kv, Key::Next(slot(0))).await, None);
}

fn version(image: &str) -> Version {
    Version {
        manifest: serde_json::json!({"image": "nginx"}).into(),
        image: image.into(),
        content: None,
        good: false,
        prepared: false,
        volumes: Vec::new(),
        found: None,
    }
}

async fn a_version_is_decided_once_and_the_loser_reads_it(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    wins(&*b.kv, decides(at, "sha256:a")).await;
    loses(&*b.kv, decides(at, "sha256:b")).await;
    let there: Option<Version> = read(&*b.kv, Key::Version(web(), at)).await;
    assert_eq!(there.map(|v| v.image).as_deref(), Some("sha256:a"));
    // Only for the manifest as it is.
    let new = put_manifest(&*b.kv).await;
    delete(&*b.kv, &manifest("web")).await;
    loses(&*b.kv, decides(new, "sha256:c")).await;
}

async fn a_version_becomes_good_and_old_ones_go(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let written = wins(&*b.kv, decides(at, "sha256:a")).await;
    let becomes_good = txn_of(&Write::good(
        web(),
        VersionId(at),
        version("sha256:a"),
        ModRev(written),
    ));
    let prune = |version_rev: i64| {
        txn_of(&Write::prune(
            &web(),
            &[(VersionId(at), ModRev(version_rev))],
        ))
    };
    let good = wins(&*b.kv, becomes_good.clone()).await;
    loses(&*b.kv, becomes_good).await;
    let now: Option<Version> = read(&*b.kv, Key::Version(web(), at)).await;
    assert!(now.is_some_and(|v| v.good && v.image == "sha256:a"));
    loses(&*b.kv, prune(written)).await;
    wins(&*b.kv, prune(good)).await;
    assert_eq!(read::<Version>(&*b.kv, Key::Version(web(), at)).await, None);
}

async fn a_rollout_is_noted_for_the_manifest_that_was_seen(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let rollout = Rollout {
        failed: true,
        reason: "exit code 1".into(),
        ..Rollout::to(VersionId(at))
    };
    let note = |manifest_rev: i64| {
        txn_of(&Write::rollout(
            web(),
            rollout.clone(),
            ModRev(manifest_rev),
            ModRev::ABSENT,
        ))
    };
    loses(&*b.kv, note(at - 1)).await;
    wins(&*b.kv, note(at)).await;
    loses(&*b.kv, note(at)).await;
    assert_eq!(read(&*b.kv, Key::Rollout(web())).await, Some(rollout));
}

async fn remains_go_only_when_nothing_is_left(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let own = wins(&*b.kv, claims(0, &claim("h1", 0, at), at)).await;
    wins(&*b.kv, decides(at, "sha256:a")).await;
    put(&*b.kv, "/claims/shop/web/data/0", "{}").await;
    // A container whose name only begins the same.
    put(&*b.kv, "/claims/shop/web2/versions/5", "{}").await;
    loses(&*b.kv, txn_of(&Write::sweep(web()))).await;
    delete(&*b.kv, &manifest("web")).await;
    loses(&*b.kv, txn_of(&Write::sweep(web()))).await;
    wins(&*b.kv, releases(own)).await;
    wins(&*b.kv, txn_of(&Write::sweep(web()))).await;
    let left = b.kv.range(Range::new(KeyRange::prefix("/claims/"))).await;
    let left: Vec<String> = left
        .expect("reads")
        .kvs
        .into_iter()
        .map(|kv| kv.key)
        .collect();
    assert_eq!(
        left,
        ["/claims/shop/web/data/0", "/claims/shop/web2/versions/5"]
    );
}

async fn losers_in_a_batch_fail_alone(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let taken = claim("h2", 2, at);
    wins(&*b.kv, claims(2, &taken, at)).await;
    let claims: Vec<Txn> = (0..5).map(|i| claims(i, &claim("h1", i, at), at)).collect();
    let batches = batch(claims);
    assert_eq!(batches.len(), 1);
    let reply = run(&*b.kv, batches[0].txn.clone()).await;
    let won: Vec<(usize, bool)> = batches[0]
        .results(reply)
        .into_iter()
        .map(|(i, reply)| (i, reply.succeeded))
        .collect();
    assert_eq!(
        won,
        [(0, true), (1, true), (2, false), (3, true), (4, true)]
    );
    assert_eq!(owner(&*b.kv, &slot(2)).await, Some(host("h2")));
    assert_eq!(owner(&*b.kv, &slot(4)).await, Some(host("h1")));
}

async fn a_hundred_and_fifty_claims_take_two_transactions(b: Backend) {
    let at = put_manifest(&*b.kv).await;
    let claims: Vec<Txn> = (0..150)
        .map(|i| claims(i, &claim("h1", i, at), at))
        .collect();
    let batches = batch(claims);
    assert_eq!(batches.len(), 2);
    let mut seen = vec![false; 150];
    for batch in batches {
        let reply = run(&*b.kv, batch.txn.clone()).await;
        for (position, reply) in batch.results(reply) {
            assert!(reply.succeeded);
            seen[position] = true;
        }
    }
    assert!(seen.into_iter().all(|seen| seen));
    let range = Range {
        count_only: true,
        ..Range::new(KeyRange::prefix("/claims/shop/web/slots/"))
    };
    assert_eq!(b.kv.range(range).await.expect("reads").count, 150);
}

#[test]
fn what_writes_the_same_key_goes_into_batches_in_order() {
    let put = |key: &str, value: &str| Txn::new(Vec::new(), vec![Op::put(key, value)]);
    let clear = Txn::new(Vec::new(), vec![Op::Delete(KeyRange::prefix("/p/"))]);
    let batches = batch(vec![
        put("/a", "1"),
        put("/a", "2"),
        put("/b", "1"),
        put("/p/x", "1"),
        clear,
        put("/a", "3"),
    ]);
    let carried: Vec<&[usize]> = batches.iter().map(|b| b.carries.as_slice()).collect();
    assert_eq!(carried, [&[0, 2, 3][..], &[1, 4], &[5]]);
}

#[test]
fn what_is_too_big_to_be_nested_goes_alone() {
    let small = |key: &str| Txn::new(vec![Compare::absent(key)], vec![Op::put(key, "1")]);
    let big = Txn::new(vec![Compare::absent("/x"); 29], vec![Op::put("/x", "1")]);
    let batches = batch(vec![small("/a"), small("/b"), big.clone(), small("/c")]);
    let carried: Vec<&[usize]> = batches.iter().map(|b| b.carries.as_slice()).collect();
    assert_eq!(carried, [&[0, 1][..], &[2], &[3]]);
    assert_eq!(batches[1].txn, big);
}

#[test]
fn a_batch_stays_below_what_etcd_takes_in_one_request() {
    let large = |i: usize| {
        let value = vec![b'x'; 400_000];
        Txn::new(Vec::new(), vec![Op::put(format!("/n/{i}"), value)])
    };
    let batches = batch((0..6).map(large).collect());
    assert_eq!(batches.len(), 3);
}
