//! When probes come and what they change.

use manifests::manifest::Protocol;

use super::*;

fn running() -> Running {
    Running {
        pid: 1,
        started_at: 1_000,
        health: None,
    }
}

fn tcp(port: u16) -> ContainerPort {
    ContainerPort {
        port,
        protocol: Protocol::Tcp,
    }
}

fn watch(criterion: Criterion) -> Watch {
    Watch::new(criterion, &running(), Millis(0))
}

fn check() -> Criterion {
    Criterion::Health(Check {
        command: vec!["true".to_owned()],
        timeout: Duration::from_secs(30),
    })
}

fn no() -> Look {
    Look::No("no".to_owned())
}

/// Pauses between looks that all say no, until there are enough of them.
fn pauses(mut watch: Watch, looks: usize) -> Vec<u64> {
    let mut pauses = Vec::new();
    for _ in 0..looks {
        let at = watch.next_look();
        watch.looked(no(), at);
        pauses.push((watch.next_look() - at).as_millis() as u64);
    }
    pauses
}

#[test]
fn until_it_is_ready_the_looks_come_less_and_less_often() {
    let sockets = watch(Criterion::Listening([tcp(80)].into()));
    assert_eq!(sockets.next_look(), Millis(0));
    assert_eq!(
        pauses(sockets, 8),
        [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]
    );
    assert_eq!(
        pauses(watch(check()), 6),
        [1_000, 2_000, 4_000, 8_000, 10_000, 10_000]
    );
}

#[test]
fn the_first_yes_makes_it_ready() {
    let mut watch = watch(check());
    assert!(!watch.looked(no(), Millis(0)));
    assert_eq!(watch.readiness(), &Readiness::Starting);
    assert_eq!(watch.reason(), Some("no"));
    assert!(watch.looked(Look::Yes, Millis(5)));
    assert_eq!(watch.readiness(), &Readiness::Ready);
    assert_eq!(watch.reason(), None);
}

#[test]
fn those_that_are_ready_are_looked_at_together_and_no_later() {
    for at in [0, 3, 4_999, 5_000] {
        let mut watch = watch(Criterion::Listening([tcp(80)].into()));
        watch.looked(Look::Yes, Millis(at));
        let next = if at == 5_000 { 10_000 } else { 5_000 };
        assert_eq!(watch.next_look(), Millis(next), "ready at {at}");
    }
}

#[test]
fn three_noes_in_a_row_one_second_apart_take_readiness_away() {
    let mut watch = watch(Criterion::Listening([tcp(80)].into()));
    watch.looked(Look::Yes, Millis(0));
    for _ in 0..2 {
        let at = watch.next_look();
        assert!(!watch.looked(no(), at));
        assert_eq!(watch.next_look() - at, Duration::from_secs(1));
    }
    assert!(!watch.looked(Look::Yes, Millis(10_000)));
    for expected in [false, false, true] {
        assert_eq!(watch.looked(no(), Millis(20_000)), expected);
    }
    assert_eq!(watch.readiness(), &Readiness::Unready("no".to_owned()));
    assert_eq!(
        watch.next_look() - Millis(20_000),
        Duration::from_millis(100)
    );
    assert!(watch.looked(Look::Yes, Millis(20_100)));
}

#[test]
fn a_look_that_fails_says_nothing() {
    let mut watch = watch(Criterion::Listening([tcp(80)].into()));
    let fail = |watch: &mut Watch| {
        let now = watch.next_look();
        let loud = watch.failed("too many open files".to_owned(), now);
        assert!(watch.next_look() > now);
        loud
    };
    assert_eq!(
        [(); 5].map(|()| fail(&mut watch)),
        [false, false, true, false, false],
        "it is said once"
    );
    assert_eq!(watch.readiness(), &Readiness::Starting);
    let why = watch.reason().expect("it can't be looked at");
    assert!(why.contains("too many open files"), "{why}");

    watch.looked(Look::Yes, Millis(0));
    for _ in 0..20 {
        fail(&mut watch);
    }
    assert_eq!(watch.readiness(), &Readiness::Ready);
    assert_eq!(watch.reason(), None);
    // Nor does it count towards the three looks that take readiness away.
    for expected in [false, false, true] {
        fail(&mut watch);
        assert_eq!(watch.looked(no(), watch.next_look()), expected);
    }
}

#[test]
fn what_is_cut_off_is_ready_when_a_look_says_so_again() {
    let mut watch = watch(Criterion::Settled);
    watch.looked(Look::Yes, Millis(0));
    watch.cut_off("it is paused");
    assert_eq!(
        watch.readiness(),
        &Readiness::Unready("it is paused".to_owned())
    );
    watch.look_now(Millis(5));
    assert!(watch.looked(Look::Yes, Millis(5)));
    assert_eq!(watch.readiness(), &Readiness::Ready);
}

#[test]
fn a_process_started_anew_is_another() {
    let watch = watch(Criterion::Settled);
    assert!(watch.is_of(&running()));
    let anew = Running {
        started_at: 2_000,
        ..running()
    };
    assert!(!watch.is_of(&anew));
}

#[test]
fn ports_that_do_not_listen_are_named() {
    let wanted = [tcp(80), tcp(443)].into();
    assert_eq!(
        ports(&wanted, &[tcp(80), tcp(443), tcp(1)].into()),
        Look::Yes
    );
    let Look::No(why) = ports(&wanted, &[tcp(443)].into()) else {
        panic!("80 does not listen");
    };
    assert!(why.contains("80/tcp") && !why.contains("443"));
}

#[test]
fn a_look_can_be_asked_for_early_and_never_put_off() {
    let mut watch = watch(check());
    watch.looked(no(), Millis(0));
    watch.look_now(Millis(5));
    assert_eq!(watch.next_look(), Millis(5));
    watch.look_now(Millis(50));
    assert_eq!(watch.next_look(), Millis(5));
}
