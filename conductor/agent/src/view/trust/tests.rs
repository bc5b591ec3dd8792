use super::*;

fn other(key: &str, known: i64, found: i64) -> Trust {
    Trust::Distrust(Reason::OtherHistory {
        key: key.to_owned(),
        known,
        found,
    })
}

#[test]
fn a_history_is_the_same_if_every_key_is() {
    let seen = [("/a", 3), ("/b", 5), ("/d", 4)];
    let cases: [(&[(&str, i64)], Trust); 8] = [
        (&seen, Trust::Trusted),
        (&[("/a", 3), ("/b", 6), ("/d", 4)], other("/b", 5, 6)),
        (&[("/a", 3), ("/d", 4)], other("/b", 5, 0)),
        (&[("/a", 3), ("/b", 5)], other("/d", 4, 0)),
        (&[], other("/a", 3, 0)),
        (
            &[("/a", 3), ("/b", 5), ("/c", 2), ("/d", 4)],
            other("/c", 0, 2),
        ),
        (
            &[("/a", 3), ("/b", 5), ("/d", 4), ("/e", 1)],
            other("/e", 0, 1),
        ),
        (&[("/0", 1), ("/a", 3)], other("/0", 0, 1)),
    ];
    for (history, wanted) in cases {
        let judged = check_history(seen, history.iter().copied());
        assert_eq!(judged, wanted, "{history:?}");
    }
    assert_eq!(check_history([], []), Trust::Trusted);
}

#[test]
fn most_manifests_may_not_go_unseen_but_a_few_may() {
    for (known, left, trusted) in [
        (0, 0, true),
        (4, 0, true),
        (5, 0, false),
        (5, 1, true),
        (10, 5, true),
        (10, 4, false),
        (100, 50, true),
        (100, 49, false),
    ] {
        let judged = check_manifests(known, left);
        assert_eq!(judged.is_trusted(), trusted, "{left} of {known}");
    }
}

#[test]
fn only_missing_manifests_are_one_hosts_own_affair() {
    let id = Uuid::nil();
    let shared = [
        Reason::ClusterMissing(id),
        Reason::OtherCluster {
            known: id,
            found: id,
        },
        Reason::OtherEpoch { known: 2, found: 1 },
        Reason::Rewound { known: 2, found: 1 },
        Reason::OtherHistory {
            key: "/a".to_owned(),
            known: 1,
            found: 0,
        },
        Reason::Held,
    ];
    for reason in shared {
        assert!(reason.is_shared(), "{reason}");
    }
    assert!(!Reason::ManifestsGone { known: 5, left: 0 }.is_shared());
}

#[test]
fn an_acceptance_is_the_same_cluster_at_a_higher_epoch() {
    let known = Cluster {
        id: Uuid::nil(),
        epoch: 2,
    };
    let at = |epoch| Cluster {
        epoch,
        ..known.clone()
    };
    let other = Cluster {
        id: Uuid::max(),
        epoch: 3,
    };
    assert_eq!(accepted(&known, Some(&at(3))), Some(&at(3)));
    for found in [Some(&at(2)), Some(&at(1)), Some(&other), None] {
        assert_eq!(accepted(&known, found), None, "{found:?}");
    }
}

#[test]
fn what_is_said_of_another_history_names_the_key_and_what_to_do() {
    let Trust::Distrust(reason) = other("/apps/a/b/manifest", 7, 0) else {
        unreachable!("made above");
    };
    assert_eq!(
        reason.to_string(),
        "/apps/a/b/manifest was last changed at revision 7, but etcd says that it was not there: it was restored from \
         a backup, or is another one; point --etcd at the right etcd, or, if this one is to count from now on, look \
         with `dokkaa restore --accept` at what would stop"
    );
}
