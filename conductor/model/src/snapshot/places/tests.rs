use super::*;
use crate::snapshot::Change;

/// A cluster whose keys are put one after the other.
#[derive(Default)]
struct Cluster(Snapshot);

impl Cluster {
    fn put(&mut self, key: &str, value: &str) -> &mut Self {
        let revision = self.0.revision + 1;
        let change = Change::Put {
            key: key.to_owned(),
            value: value.into(),
            modified: revision,
            created: revision,
        };
        self.0.apply([change], revision);
        self
    }

    fn delete(&mut self, key: &str) -> &mut Self {
        let revision = self.0.revision + 1;
        let change = Change::Delete {
            key: key.to_owned(),
            modified: revision,
        };
        self.0.apply([change], revision);
        self
    }

    /// `manifest` of `shop/web`, and these hosts, live and members.
    fn of(manifest: &str, hosts: &[&str]) -> Self {
        let mut cluster = Self::default();
        cluster.put("/apps/shop/web/manifest", manifest);
        for host in hosts {
            cluster.comes(host);
        }
        cluster
    }

    fn comes(&mut self, host: &str) -> &mut Self {
        let id = id(host);
        let record = format!(
            r#"{{"id":"{id}","session":"{id}","epoch":0,"state":"up","addr":"10.0.0.1",
            "versions":{{"agent":"","placement":[1]}}}}"#
        );
        let member = format!(r#"{{"id":"{id}"}}"#);
        self.put(&format!("/hosts/{host}/record"), &record)
            .put(&format!("/dokkaa/members/{host}"), &member)
    }

    fn claims(&mut self, host: &str, slot: u32) -> &mut Self {
        let claim = format!(r#"{{"host":"{host}","instance":"i","version":1}}"#);
        self.put(&format!("/claims/shop/web/slots/{slot}"), &claim)
    }

    fn pins(&mut self, host: &str, machine: &str, slot: u32) -> &mut Self {
        let id = id(machine);
        let data = format!(r#"{{"host":"{host}","host_id":"{id}","volumes":["data"]}}"#);
        self.put(&format!("/claims/shop/web/data/{slot}"), &data)
    }

    fn web(&self) -> &ContainerView {
        let mut containers = self.0.containers.values();
        containers.next().expect("the container")
    }

    /// What is kept, and who is to take which: `0 2, 1 h3`.
    fn places(&self) -> String {
        let web = self.web();
        let kept = web.numbers().into_iter().filter(|number| {
            let view = web.slots.get(number);
            view.is_some_and(|view| view.claim.is_some())
        });
        let kept: Vec<String> = kept.map(|number| number.to_string()).collect();
        let vacant = web.vacant();
        let vacant = vacant.map(|(number, host)| format!(", {number} {host}"));
        kept.join(" ") + &vacant.collect::<String>()
    }

    fn may_have(&self, number: u32, host: &str) -> bool {
        let host = host.parse().expect("a host");
        self.web().may_have(number, &host)
    }
}

fn id(host: &str) -> String {
    let number = host.trim_start_matches('h');
    format!("00000000-0000-0000-0000-00000000000{number}")
}

const GLOBAL: &str = r#"{"image":"a","scale":"global"}"#;
const ON_SSD: &str = r#"{"image":"a","scale":"global","placement":{"constraints":["disk==ssd"]}}"#;

#[test]
fn hosts_that_lack_one_take_the_free_numbers_in_order_whoever_comes_first() {
    let mut three = Cluster::of(GLOBAL, &["h1", "h2", "h3"]);
    assert_eq!(three.places(), ", 0 h1, 1 h2, 2 h3");
    assert_eq!(three.claims("h2", 1).places(), "1, 0 h1, 2 h3");
    assert_eq!(three.claims("h3", 2).claims("h1", 0).places(), "0 1 2");
    assert_eq!(three.comes("h4").places(), "0 1 2, 3 h4");
}

#[test]
fn a_host_keeps_its_slot_while_it_is_paused_or_missing_and_not_when_it_is_drained_or_gone() {
    let mut two = Cluster::of(GLOBAL, &["h1", "h2"]);
    two.claims("h1", 0).claims("h2", 1);
    let availability = "/hosts/h1/availability";
    assert_eq!(two.put(availability, r#""pause""#).places(), "0 1");
    assert_eq!(two.put(availability, r#""drain""#).places(), "1");
    assert_eq!(two.put(availability, r#""leave""#).places(), "1");
    assert_eq!(two.put(availability, r#""active""#).places(), "0 1");
    assert_eq!(two.delete("/hosts/h1/record").places(), "0 1");
    assert_eq!(two.delete("/dokkaa/members/h1").places(), "1");
    // A host that is paused takes none.
    let mut paused = Cluster::of(GLOBAL, &["h1"]);
    assert_eq!(paused.put(availability, r#""pause""#).places(), "");
}

#[test]
fn labels_decide_while_they_are_known() {
    let mut two = Cluster::of(ON_SSD, &["h1", "h2"]);
    assert_eq!(two.places(), "");
    let labels = "/hosts/h1/labels";
    assert_eq!(two.put(labels, r#"{"disk":"ssd"}"#).places(), ", 0 h1");
    assert_eq!(two.claims("h1", 0).places(), "0");
    assert_eq!(two.put(labels, r#"{"disk":"hdd"}"#).places(), "");
    assert_eq!(two.delete("/hosts/h1/record").places(), "0");
}

#[test]
fn of_two_claims_of_one_host_the_oldest_counts() {
    let mut two = Cluster::of(r#"{"image":"a","scale":4}"#, &["h1", "h2"]);
    two.claims("h1", 3).claims("h1", 1).claims("h2", 2);
    assert_eq!(two.put("/apps/shop/web/manifest", GLOBAL).places(), "2 3");
    assert!(two.may_have(3, "h1") && !two.may_have(1, "h1") && !two.may_have(3, "h2"));
}

#[test]
fn numbers_that_somebody_still_has_are_not_free() {
    let mut two = Cluster::of(GLOBAL, &["h1", "h2"]);
    two.claims("h1", 0);
    two.put("/hosts/h1/availability", r#""drain""#);
    assert_eq!(two.places(), ", 1 h2");
    let next = r#"{"host":"h2","instance":"n","version":1}"#;
    two.put("/claims/shop/web/slots/1.next", next);
    assert_eq!(two.places(), ", 2 h2");
    assert!(!two.may_have(0, "h2") && !two.may_have(1, "h2"));
    assert!(two.may_have(2, "h2") && two.may_have(7, "h2") && !two.may_have(7, "h1"));
}

#[test]
fn a_host_takes_the_number_of_its_volumes() {
    let mut three = Cluster::of(GLOBAL, &["h1", "h2", "h3"]);
    three.pins("h3", "h3", 0).pins("h1", "h1", 5);
    assert_eq!(three.places(), ", 0 h3, 1 h2, 5 h1");
    assert!(three.may_have(0, "h3") && !three.may_have(0, "h2"));
    // Its machine under a new name goes on with its data; another machine of its name waits for that.
    three.pins("h2", "h9", 0).comes("h9");
    assert_eq!(three.places(), ", 0 h9, 1 h2, 2 h3, 5 h1");
    three.delete("/hosts/h9/record");
    assert_eq!(three.places(), ", 0 h2, 1 h3, 5 h1");
}

#[test]
fn while_the_manifest_cannot_be_read_hosts_keep_what_they_have() {
    let mut two = Cluster::of(GLOBAL, &["h1", "h2"]);
    two.claims("h1", 3);
    let version = r#"{"manifest":{"image":"a","scale":"global"},"image":"sha256:a"}"#;
    two.put("/claims/shop/web/versions/1", version);
    // As one PUT after the other would have it.
    let change = Change::Put {
        key: "/apps/shop/web/manifest".to_owned(),
        value: "{".into(),
        modified: two.0.revision + 1,
        created: 1,
    };
    let revision = two.0.revision + 1;
    two.0.apply([change], revision);
    assert_eq!(two.places(), "3");
}

#[test]
fn a_stopped_one_has_no_places() {
    let mut two = Cluster::of(GLOBAL, &["h1", "h2"]);
    let stopped = r#"{"image":"a","scale":"global","stopped":true}"#;
    two.claims("h1", 0).put("/apps/shop/web/manifest", stopped);
    assert_eq!(two.places(), "");
}
