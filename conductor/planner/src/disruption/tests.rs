use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use model::snapshot::Change;

const SECOND: u64 = 1_000;

fn at(seconds: u64) -> Millis {
    Millis(seconds * SECOND)
}

/// What a live host says of itself.
#[derive(Clone, Copy)]
enum Says {
    Up,
    Restarting,
    Hold { shared: bool },
}

/// So many members, of which these are live.
fn hosts(members: usize, live: &[(usize, Says)]) -> Snapshot {
    let put = |key: String, value: &str| Change::Put {
        key,
        value: value.into(),
        modified: 1,
        created: 1,
    };
    let id = r#""id":"00000000-0000-4000-8000-000000000001""#;
    let mut changes = Vec::new();
    for member in 0..members {
        changes.push(put(
            format!("/dokkaa/members/h{member}"),
            &format!("{{{id}}}"),
        ));
    }
    for (host, says) in live {
        let (state, hold) = match says {
            Says::Up => ("up", String::new()),
            Says::Restarting => ("restarting", String::new()),
            Says::Hold { shared } => (
                "hold",
                format!(r#","hold":{{"reason":"a reason","shared":{shared}}}"#),
            ),
        };
        let record = format!(
            r#"{{{id},"session":"00000000-0000-4000-8000-000000000002","epoch":1,"state":"{state}",
            "addr":"10.0.0.1","versions":{{"agent":"1","placement":[1]}}{hold}}}"#
        );
        changes.push(put(format!("/hosts/h{host}/record"), &record));
    }
    let mut snapshot = Snapshot::default();
    snapshot.apply(changes, 1);
    assert_eq!(
        snapshot.live().count(),
        live.len(),
        "the records can be read"
    );
    snapshot
}

fn up(hosts: impl IntoIterator<Item = usize>) -> Vec<(usize, Says)> {
    hosts.into_iter().map(|host| (host, Says::Up)).collect()
}

/// A slot of a host that has been lost for a while may be taken over now.
fn taken_over(guard: &DisruptionGuard, now: Millis) -> Result<(), Pause> {
    let lost = "long-lost".parse().expect("a name");
    guard.may_take_over(&lost, now)
}

/// A reader that has seen all of so many hosts for a long time.
fn healthy(members: usize) -> DisruptionGuard {
    let mut guard = DisruptionGuard::default();
    guard.observe(&hosts(members, &up(0..members)), at(0));
    guard
}

#[test]
fn one_lost_host_never_pauses_takeovers_however_few_there_are() {
    for members in 1..10 {
        let mut guard = healthy(members);
        guard.observe(&hosts(members, &up(1..members)), at(1_000));
        assert_eq!(taken_over(&guard, at(1_000)), Ok(()), "of {members}");
        let lost = "h0".parse().expect("a name");
        let over = at(1_000) + BRIEFLY;
        assert_eq!(guard.may_take_over(&lost, over), Ok(()), "of {members}");
        assert_eq!(guard.next_change(at(1_000) + BRIEFLY), None);
    }
}

#[test]
fn a_host_that_went_missing_just_now_may_be_back_at_once() {
    let h0: HostName = "h0".parse().expect("a name");
    let mut guard = healthy(3);
    guard.observe(&hosts(3, &up(1..3)), at(1_000));
    let just = Err(Pause::JustMissing(h0.clone()));
    let over = at(1_000) + BRIEFLY;
    assert_eq!(guard.may_take_over(&h0, Millis(over.0 - 1)), just);
    assert_eq!(guard.next_change(at(1_000)), Some(over));
    // However often it is looked at.
    guard.observe(&hosts(3, &up(1..3)), Millis(over.0 - 1));
    assert_eq!(guard.may_take_over(&h0, over), Ok(()));
    // Others are lost one by one, as one etcd member ends one lease after the other: by then they are too many.
    let mut guard = healthy(3);
    guard.observe(&hosts(3, &up(1..3)), at(1_000));
    guard.observe(&hosts(3, &up(2..3)), Millis(over.0 - 1));
    let why = guard.may_take_over(&h0, over).expect_err("paused");
    assert!(why.to_string().starts_with("2 of 3 hosts"), "{why}");
    // Of a host that has left nothing is waited for.
    let mut guard = healthy(3);
    guard.observe(&hosts(2, &up(1..2)), at(1_000));
    let left = "h2".parse().expect("a name");
    assert_eq!(guard.may_take_over(&left, at(1_000)), Ok(()));
}

#[test]
fn more_than_a_quarter_missing_pauses_takeovers_and_no_fewer() {
    for (members, lost, paused) in [
        (2, 2, true),
        (3, 2, true),
        (4, 2, true),
        (7, 2, true),
        (8, 2, false),
        (8, 3, true),
        (12, 3, false),
        (12, 4, true),
    ] {
        let mut guard = healthy(members);
        guard.observe(&hosts(members, &up(lost..members)), at(1_000));
        let answer = taken_over(&guard, at(1_000));
        assert_eq!(answer.is_err(), paused, "{lost} of {members}");
        assert_eq!(guard.may_place(at(1_000)), Ok(()), "new slots are placed");
    }
}

#[test]
fn a_pause_ends_when_the_live_hosts_have_been_the_same_for_thirty_seconds() {
    let mut guard = healthy(8);
    guard.observe(&hosts(8, &up([0])), at(1_000));
    let why = taken_over(&guard, at(1_029)).expect_err("paused");
    assert!(
        why.to_string().starts_with("7 of 8 hosts are missing:"),
        "{why}"
    );
    assert_eq!(guard.next_change(at(1_000)), Some(at(1_030)));
    // They come back one by one.
    guard.observe(&hosts(8, &up(0..2)), at(1_029));
    assert!(taken_over(&guard, at(1_058)).is_err());
    assert_eq!(guard.next_change(at(1_058)), Some(at(1_059)));
    assert_eq!(taken_over(&guard, at(1_059)), Ok(()));
    // It is over, and those who come back now change nothing.
    guard.observe(&hosts(8, &up(0..3)), at(1_060));
    assert_eq!(taken_over(&guard, at(1_060)), Ok(()));
    assert_eq!(guard.next_change(at(1_060)), None);
    // Another one that is lost does.
    guard.observe(&hosts(8, &up(0..2)), at(1_070));
    assert!(taken_over(&guard, at(1_099)).is_err());
    assert_eq!(taken_over(&guard, at(1_100)), Ok(()));
}

#[test]
fn no_pause_is_longer_than_five_minutes() {
    let mut guard = healthy(8);
    for second in 1_000..1_300 {
        // One of them comes and goes all the time.
        let live = 1 + (second as usize / 10) % 2;
        guard.observe(&hosts(8, &up(0..live)), at(second));
        assert!(taken_over(&guard, at(second)).is_err(), "{second}");
        assert!(guard.next_change(at(second)) <= Some(at(1_300)));
    }
    assert_eq!(taken_over(&guard, at(1_300)), Ok(()));
}

#[test]
fn a_pause_ends_when_all_are_back() {
    let mut guard = healthy(8);
    guard.observe(&hosts(8, &up(3..8)), at(1_000));
    assert!(taken_over(&guard, at(1_001)).is_err());
    // The last one is waited for too.
    guard.observe(&hosts(8, &up(1..8)), at(1_001));
    assert!(taken_over(&guard, at(1_001)).is_err());
    guard.observe(&hosts(8, &up(0..8)), at(1_002));
    assert_eq!(taken_over(&guard, at(1_002)), Ok(()));
    // Who is lost after that is lost alone.
    guard.observe(&hosts(8, &up(1..8)), at(1_003));
    assert_eq!(taken_over(&guard, at(1_003)), Ok(()));
}

#[test]
fn an_agent_that_starts_pauses_for_any_member_it_finds_missing() {
    let mut guard = DisruptionGuard::default();
    guard.observe(&hosts(8, &up([0])), at(5));
    assert!(taken_over(&guard, at(34)).is_err());
    assert_eq!(taken_over(&guard, at(35)), Ok(()));
    // It may be the one that comes back before the last.
    let mut guard = DisruptionGuard::default();
    guard.observe(&hosts(3, &up(0..2)), at(5));
    assert!(taken_over(&guard, at(34)).is_err());
    assert_eq!(taken_over(&guard, at(35)), Ok(()));
    // Also where nobody at all is live.
    let mut guard = DisruptionGuard::default();
    guard.observe(&hosts(8, &[]), at(500));
    assert!(taken_over(&guard, at(529)).is_err());
    assert_eq!(taken_over(&guard, at(530)), Ok(()));
}

#[test]
fn who_was_missing_for_an_hour_counts_no_more() {
    let mut guard = healthy(8);
    guard.observe(&hosts(8, &up(0..5)), at(0));
    // Three are forgotten; one of the five that are left is lost.
    guard.observe(&hosts(8, &up(1..5)), at(3_600));
    assert_eq!(taken_over(&guard, at(3_600)), Ok(()));
    // Two of five are too many.
    guard.observe(&hosts(8, &up(2..5)), at(3_601));
    let why = taken_over(&guard, at(3_601)).expect_err("paused");
    assert!(why.to_string().starts_with("2 of 5 hosts"), "{why}");
    // Nobody waits for those who are forgotten.
    let mut guard = healthy(8);
    guard.observe(&hosts(8, &up(2..8)), at(0));
    guard.observe(&hosts(8, &up(3..8)), at(3_590));
    assert!(taken_over(&guard, at(3_599)).is_err());
    guard.observe(&hosts(8, &up(2..8)), at(3_600));
    assert_eq!(taken_over(&guard, at(3_600)), Ok(()));
}

#[test]
fn a_host_that_restarts_is_live_and_one_that_is_no_member_is_not_missing() {
    let mut guard = healthy(4);
    let mut live = up(0..2);
    live.extend([(2, Says::Restarting), (3, Says::Restarting)]);
    guard.observe(&hosts(4, &live), at(1_000));
    assert_eq!(taken_over(&guard, at(1_000)), Ok(()));
    // Two leave for good.
    guard.observe(&hosts(2, &up(0..2)), at(1_001));
    assert_eq!(taken_over(&guard, at(1_001)), Ok(()));
}

#[test]
fn after_an_accepted_restore_nothing_is_placed_until_the_hosts_are_back() {
    let mut guard = healthy(3);
    guard.restore_accepted(at(1_000));
    assert!(guard.may_place(at(1_029)).is_err());
    assert!(taken_over(&guard, at(1_029)).is_err(), "nor taken over");
    assert_eq!(guard.next_change(at(1_000)), Some(at(1_030)));
    guard.observe(&hosts(3, &up(0..2)), at(1_010));
    assert!(guard.may_place(at(1_039)).is_err());
    assert_eq!(guard.may_place(at(1_040)), Ok(()));
    // At most five minutes.
    guard.restore_accepted(at(2_000));
    for second in 2_000..2_300 {
        let live = 2 + second as usize / 7 % 2;
        guard.observe(&hosts(3, &up(0..live)), at(second));
        assert!(guard.may_place(at(second)).is_err(), "{second}");
    }
    assert_eq!(guard.may_place(at(2_300)), Ok(()));
}

#[test]
fn a_hold_that_may_concern_all_stops_all() {
    let mut guard = healthy(3);
    let with = |says| {
        let mut live = up(0..2);
        live.push((2, says));
        hosts(3, &live)
    };
    guard.observe(&with(Says::Hold { shared: true }), at(1));
    for answer in [guard.may_place(at(9_999)), taken_over(&guard, at(9_999))] {
        let why = answer.expect_err("a host is in hold");
        assert!(why.to_string().starts_with("h2 is in hold"), "{why}");
    }
    guard.observe(&with(Says::Hold { shared: false }), at(2));
    assert_eq!(guard.may_place(at(2)), Ok(()));
    assert_eq!(taken_over(&guard, at(2)), Ok(()));
}

/// The same rules, told second by second.
#[derive(Default)]
struct ByTheSecond {
    live: BTreeSet<usize>,
    /// For how long each has been missing.
    missing: BTreeMap<usize, u64>,
    /// For how long it lasts, and for how long the live hosts have been the same in it.
    mass_failure: Option<(u64, u64)>,
    accepted: Option<(u64, u64)>,
}

const MEMBERS: usize = 9;

impl ByTheSecond {
    fn second(&mut self) {
        for pause in [&mut self.mass_failure, &mut self.accepted] {
            *pause = pause
                .map(|(lasts, same)| (lasts + 1, same + 1))
                .filter(|(lasts, same)| *lasts < 300 && *same < 30);
        }
        for missing in self.missing.values_mut() {
            *missing += 1;
        }
    }

    fn live(&mut self, live: &BTreeSet<usize>) {
        if self.live != *live {
            self.live.clone_from(live);
            for (_, same) in [&mut self.mass_failure, &mut self.accepted]
                .into_iter()
                .flatten()
            {
                *same = 0;
            }
        }
        let before = self.missing.clone();
        self.missing = (0..MEMBERS)
            .filter(|member| !live.contains(member))
            .map(|member| (member, before.get(&member).copied().unwrap_or_default()))
            .collect();
        let another = self.missing.keys().any(|m| !before.contains_key(m));
        if self.counted().0 == 0 {
            self.mass_failure = None;
        }
        if another && self.too_many() && self.mass_failure.is_none() {
            self.mass_failure = Some((0, 0));
        }
    }

    fn counted(&self) -> (usize, usize) {
        let forgotten = self.missing.values().filter(|m| **m >= 3_600).count();
        (self.missing.len() - forgotten, MEMBERS - forgotten)
    }

    fn too_many(&self) -> bool {
        let (missing, members) = self.counted();
        missing > 1 && 4 * missing > members
    }

    fn may_place(&self) -> bool {
        self.accepted.is_none()
    }

    fn may_take_over(&self) -> bool {
        self.may_place() && !(self.mass_failure.is_some() && self.counted().0 > 0)
    }
}

/// What happens after so many seconds: these are live from then on, and a restore may be accepted.
fn happening() -> impl Strategy<Value = (u64, BTreeSet<usize>, bool)> {
    let gap = prop_oneof![10 => 0..40u64, 3 => 40..400u64, 1 => 3_000..4_000u64];
    let live = proptest::sample::subsequence((0..MEMBERS).collect::<Vec<_>>(), 0..=MEMBERS)
        .prop_map(|live| live.into_iter().collect());
    (gap, live, proptest::bool::weighted(0.1))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Told in another way the rules say the same, however often a reader looks; and a change by time alone is foretold.
    #[test]
    fn the_rules_told_second_by_second_say_the_same(
        happenings in vec(happening(), 1..12),
        looks in 1..50u64,
    ) {
        let (mut guard, mut rules) = (DisruptionGuard::default(), ByTheSecond::default());
        let mut now = 100;
        let mut snapshot = hosts(MEMBERS, &up(0..MEMBERS));
        guard.observe(&snapshot, at(now));
        rules.live(&(0..MEMBERS).collect());
        for (gap, live, accepted) in happenings {
            for _ in 0..gap {
                let before = (guard.may_place(at(now)).is_ok(), taken_over(&guard, at(now)).is_ok());
                prop_assert_eq!(before, (rules.may_place(), rules.may_take_over()), "{}", now);
                let foretold = guard.next_change(at(now));
                prop_assert!(foretold.is_none_or(|change| change > at(now)));
                now += 1;
                rules.second();
                let after = (guard.may_place(at(now)).is_ok(), taken_over(&guard, at(now)).is_ok());
                prop_assert!(before == after || foretold == Some(at(now)), "{}", now);
                if now.is_multiple_of(looks) {
                    guard.observe_slots(&snapshot, at(now));
                }
            }
            if accepted {
                guard.restore_accepted(at(now));
                rules.accepted = Some((0, 0));
            }
            let up: Vec<_> = live.iter().map(|host| (*host, Says::Up)).collect();
            snapshot = hosts(MEMBERS, &up);
            guard.observe(&snapshot, at(now));
            rules.live(&live);
        }
    }

    /// Whatever happens: with at most one member missing at a time nothing is paused.
    #[test]
    fn one_at_a_time_is_never_paused(lost in vec((0..100u64, 0..MEMBERS), 1..50)) {
        let mut guard = healthy(MEMBERS);
        let mut now = 0;
        for (gap, lost) in lost {
            now += gap;
            guard.observe(&hosts(MEMBERS, &up((0..MEMBERS).filter(|host| *host != lost))), at(now));
            prop_assert_eq!(taken_over(&guard, at(now)), Ok(()));
            let lost = format!("h{lost}").parse().expect("a name");
            prop_assert_eq!(guard.may_take_over(&lost, at(now) + BRIEFLY), Ok(()));
        }
    }
}

#[test]
fn while_etcd_refuses_writes_nothing_moves_and_who_was_lost_meanwhile_is_waited_for() {
    let mut guard = healthy(3);
    guard.refuses_writes(Some("etcd is out of space".to_owned()), at(1_000));
    let why = guard.may_place(at(1_000)).expect_err("refused");
    assert!(
        why.to_string()
            .starts_with("etcd is out of space: nothing is placed"),
        "{why}"
    );
    // One was restarted, and can't put its record.
    guard.observe(&hosts(3, &up(1..3)), at(1_010));
    assert!(taken_over(&guard, at(1_600)).is_err());
    guard.refuses_writes(None, at(1_600));
    assert_eq!(guard.may_place(at(1_600)), Ok(()));
    let why = taken_over(&guard, at(1_600)).expect_err("waited for");
    assert!(why.to_string().contains("1 of 3 hosts"), "{why}");
    assert_eq!(guard.next_change(at(1_600)), Some(at(1_630)));
    // It is back; or it is not, and is lost like any other.
    let mut back = guard.clone();
    back.observe(&hosts(3, &up(0..3)), at(1_602));
    assert_eq!(taken_over(&back, at(1_602)), Ok(()));
    assert!(taken_over(&guard, at(1_629)).is_err());
    assert_eq!(taken_over(&guard, at(1_630)), Ok(()));
    // Its record ended only just before, and that is seen afterwards.
    let mut guard = healthy(3);
    guard.refuses_writes(Some("etcd is out of space".to_owned()), at(1_000));
    guard.refuses_writes(None, at(1_005));
    guard.observe(&hosts(3, &up(1..3)), at(1_006));
    assert!(taken_over(&guard, at(1_035)).is_err());
    assert_eq!(taken_over(&guard, at(1_036)), Ok(()));
}
