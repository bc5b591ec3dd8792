//! The slot that moves to a host that has fewer containers, when nothing else is under way.
//!
//! Each move makes the difference between two hosts smaller, so that no slot goes back and forth. Containers that dokkaa
//! did not start count as they do in placement, but where they come and go nothing follows them to and fro: the host
//! that a slot leaves must have two slots more than the other, too.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use manifests::update::Rebalance;
use manifests::{ContainerId, HostName, SlotId};
use model::records::{Availability, HostState, Phase};
use model::snapshot::{ContainerView, Owner, SlotView, Snapshot};

use super::load::{Group, Load, containers};
use super::ranking::Ranking;
use super::returns::is_any_returning;
use crate::rollout::{Target, mark};
use crate::turn::Turn;

/// Least difference in containers, and in slots, between the host that a slot leaves and the one that it goes to.
const DIFFERENCE: u32 = 2;

/// Some host has so many containers more than another one that takes new ones that a slot may move.
pub(crate) fn is_uneven(snapshot: &Snapshot) -> bool {
    let (mut least, mut most) = (u32::MAX, 0);
    for (name, host) in &snapshot.hosts {
        let Some(record) = &host.record else { continue };
        let containers = containers(snapshot, name, record);
        most = most.max(containers);
        if host.availability() == Availability::Active && record.state == HostState::Up {
            least = least.min(containers);
        }
    }
    most >= least.saturating_add(DIFFERENCE)
}

/// The next slot that moves, if there is any, and the turn of this host to take it. What this host `could_not` run does not
/// come again; the next host in the order takes it then, and this one something else.
pub(crate) fn rebalance(
    snapshot: &Snapshot,
    me: &HostName,
    could_not: impl Fn(&ContainerId) -> bool,
) -> Option<(SlotId, Option<Turn>)> {
    if snapshot.is_handing_over()
        || !is_uneven(snapshot)
        || !super::handovers(snapshot).is_empty()
        || is_any_returning(snapshot)
    {
        return None;
    }
    let mut load = Load::of(snapshot);
    let least = load.hosts.iter().map(|host| host.containers).min()?;
    let mut full: Vec<usize> = (0..load.hosts.len())
        .filter(|host| load.hosts[*host].containers >= least + DIFFERENCE)
        .collect();
    full.sort_by_key(|host| Reverse(load.hosts[*host].containers));
    let mut groups: BTreeMap<&ContainerId, Option<Group<'_>>> = BTreeMap::new();
    for from in full {
        let mut best: Option<(u32, SlotId, Option<Turn>)> = None;
        let here = snapshot.claimed_by(load.hosts[from].name);
        for (slot, container, view) in snapshot.known(here) {
            let id = &slot.container;
            let group = groups.entry(id).or_insert_with(|| {
                let moves = may_move(snapshot, container) && !could_not(id);
                moves.then(|| Group::of(&mut load, id, container))
            });
            let Some(group) = group.as_ref().filter(|_| view.data.is_none()) else {
                continue;
            };
            let held = |host: usize| snapshot.held_by(load.hosts[host].name) as u32;
            let is_better = |to: &usize| {
                load.hosts[from].containers >= load.hosts[*to].containers + DIFFERENCE
                    && held(from) >= held(*to) + DIFFERENCE
                    && group.may_leave(&load, from, *to)
            };
            let ranking = Ranking::of(&load, group, slot.slot);
            let Some(first) = ranking.first().filter(is_better) else {
                continue;
            };
            let takes = load.position(me).filter(is_better);
            let turn = takes.and_then(|_| ranking.turn(me, false));
            let gain = group.same[from].saturating_sub(group.same[first]);
            if best.as_ref().is_none_or(|(most, ..)| gain > *most) {
                best = Some((gain, slot.clone(), turn));
            }
        }
        if let Some((_, slot, turn)) = best {
            return Some((slot, turn));
        }
    }
    None
}

/// Nothing is under way with this container, and nothing keeps its instances where they are.
fn may_move(snapshot: &Snapshot, container: &ContainerView) -> bool {
    let (Some(target), Some(wanted)) = (Target::of(container), container.wanted()) else {
        return false;
    };
    let is_still = |(number, view): (&u32, &SlotView)| {
        let Owner::Live(claim) = snapshot.owner(view) else {
            return false;
        };
        let state = view.current_state();
        container.is_wanted(*number)
            && state.is_some_and(|state| state.state == Phase::Ready)
            && !target.outdates(container, claim.version)
            // A restore may have lost what it was made from.
            && container.versions.contains_key(&claim.version)
    };
    wanted.rebalance == Rebalance::Auto
        && !container.is_global()
        && wanted.volumes.iter().all(|volume| volume.read_only)
        && mark(container).is_none()
        && container.slots.iter().all(is_still)
}

#[cfg(test)]
mod tests {
    use model::snapshot::Change;

    use super::*;

    /// A cluster of hosts with so many foreign containers, and slots of containers on them.
    fn cluster(hosts: &[u32], manifest: &str, slots: &[usize]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut put = |key: String, value: String| {
            let revision = snapshot.revision + 1;
            let change = Change::Put {
                key,
                value: value.into_bytes(),
                modified: revision,
                created: revision,
            };
            snapshot.apply([change], revision);
        };
        for (host, foreign) in hosts.iter().enumerate() {
            let record = format!(
                r#"{{"id":"00000000-0000-0000-0000-00000000000{host}","session":"00000000-0000-0000-0000-000000000001",
                "epoch":0,"state":"up","addr":"10.0.0.1","foreign":{foreign},"versions":{{"agent":"","placement":[1]}}}}"#
            );
            put(format!("/hosts/h{host}/record"), record);
        }
        let scale = slots.len();
        let manifest = manifest.replacen('{', &format!("{{\"scale\":{scale},"), 1);
        put("/apps/shop/web/manifest".to_owned(), manifest.clone());
        let version = hosts.len() + 1;
        put(
            format!("/claims/shop/web/versions/{version}"),
            format!(r#"{{"manifest":{manifest},"image":"sha256:a"}}"#),
        );
        for (slot, host) in slots.iter().enumerate() {
            let claim = format!(r#"{{"host":"h{host}","instance":"i{slot}","version":{version}}}"#);
            put(format!("/claims/shop/web/slots/{slot}"), claim);
            let state = format!(r#"{{"instance":"i{slot}","state":"ready","addr":"10.0.0.1"}}"#);
            put(format!("/claims/shop/web/slots/{slot}.state"), state);
        }
        snapshot
    }

    /// What moves, and the host whose turn it is at once.
    fn next(snapshot: &Snapshot) -> Option<String> {
        let first = |host: &&HostName| {
            let found = rebalance(snapshot, host, |_| false);
            found.is_some_and(|(_, turn)| turn.is_some_and(Turn::is_first))
        };
        let mut hosts = snapshot.hosts.keys();
        let to = hosts.find(first)?;
        let (slot, _) = rebalance(snapshot, to, |_| false)?;
        Some(format!("{slot} to {to}"))
    }

    fn moves(hosts: &[u32], manifest: &str, slots: &[usize]) -> Option<String> {
        next(&cluster(hosts, manifest, slots))
    }

    const WEB: &str = r#"{"image":"web"}"#;

    #[test]
    fn a_slot_moves_where_the_difference_is_two() {
        assert_eq!(
            moves(&[0, 0], WEB, &[0, 0]).as_deref(),
            Some("shop/web/0 to h1")
        );
        assert_eq!(moves(&[0, 0], WEB, &[0, 1]), None);
        assert_eq!(moves(&[0, 0], WEB, &[0, 0, 1]), None);
        let returned = moves(&[0, 0, 0], WEB, &[0, 1, 0, 1, 0, 1]);
        assert_eq!(returned.as_deref(), Some("shop/web/0 to h2"));
        assert_eq!(moves(&[0, 0, 0], WEB, &[2, 1, 0, 1, 0, 2]), None);
    }

    #[test]
    fn containers_of_others_count_and_draw_nothing_after_them() {
        assert_eq!(moves(&[0, 2], WEB, &[0, 0]), None);
        assert_eq!(
            moves(&[0, 1], WEB, &[0, 0, 0]).as_deref(),
            Some("shop/web/0 to h1")
        );
        assert_eq!(moves(&[3, 0], WEB, &[0, 1]), None);
    }

    #[test]
    fn where_it_has_failed_it_does_not_come_again() {
        let three = cluster(&[0, 0, 0], WEB, &[0, 0]);
        let first = next(&three).expect("it moves");
        let turn = |host: &str, fails: bool| {
            let host = host.parse().expect("a name");
            rebalance(&three, &host, |_| fails).and_then(|(_, turn)| turn)
        };
        let (first, second) = if first.ends_with("h1") {
            ("h1", "h2")
        } else {
            ("h2", "h1")
        };
        assert!(turn(first, true).is_none());
        assert!(turn(second, false).is_some_and(|turn| !turn.is_first()));
        assert!(turn("h0", false).is_none());
    }

    #[test]
    fn what_must_stay_stays() {
        for manifest in [
            r#"{"image":"web","rebalance":"off"}"#,
            r#"{"image":"web","volumes":["data:/data"]}"#,
            r#"{"image":"web","volumes":["/srv:/data"]}"#,
            r#"{"image":"web","placement":{"constraints":["disk==ssd"]}}"#,
        ] {
            assert_eq!(moves(&[0, 0], manifest, &[0, 0]), None, "{manifest}");
        }
    }

    #[test]
    fn nothing_moves_while_anything_is_under_way() {
        let still = cluster(&[0, 0], WEB, &[0, 0]);
        for (key, value) in [
            (
                "/claims/shop/web/slots/1.state",
                r#"{"instance":"i1","state":"unready","addr":"10.0.0.1"}"#,
            ),
            (
                "/claims/shop/web/slots/1.next",
                r#"{"host":"h1","instance":"n","version":3}"#,
            ),
            (
                "/claims/shop/web/rollout",
                r#"{"version":3,"updating":[0]}"#,
            ),
            ("/apps/shop/web/manifest", r#"{"image":"web:2","scale":2}"#),
            ("/hosts/h1/availability", r#""drain""#),
            ("/hosts/h1/availability", r#""pause""#),
        ] {
            let mut snapshot = still.clone();
            let change = Change::Put {
                key: key.to_owned(),
                value: value.into(),
                modified: 99,
                created: 99,
            };
            snapshot.apply([change], 99);
            assert_eq!(next(&snapshot), None, "{key} {value}");
        }
    }
}
