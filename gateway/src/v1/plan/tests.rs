#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use model::records::Phase;
use serde_json::json;
use store::memory::MemKv;

use super::*;
use crate::v1::AgentHandle;
use crate::v1::memory::MemAgent;

const WEB: &str = r#"{"image": "nginx:1.26", "scale": 2, "services": {"web": 80}}"#;

fn agent() -> MemAgent {
    let agent = MemAgent::new("h1", MemKv::new());
    for host in ["h1", "h2"] {
        agent.put_host(host, None);
    }
    agent
}

fn id(text: &str) -> ContainerId {
    text.parse().unwrap()
}

/// A manifest of which every slot is ready on one of the two hosts.
fn runs(agent: &MemAgent, container: &str, manifest: &str, scale: u32) -> i64 {
    let id = id(container);
    let revision = agent.put_manifest(&id, manifest);
    for number in 0..scale {
        let host = ["h1", "h2"][number as usize % 2];
        let slot = id.slot(number);
        agent.claim(&slot, host, revision);
        agent.put_state(&slot, host, Phase::Ready, &[]);
    }
    revision
}

fn asked(agent: &MemAgent, manifests: &[(&str, &str)], prune: bool) -> Result<Plan, Vec<String>> {
    let manifests = manifests.iter();
    let request = PlanRequest {
        manifests: manifests
            .map(|(container, text)| ((*container).to_owned(), json!(text)))
            .collect(),
        prune,
    };
    plan(&agent.view().unwrap(), &request)
}

/// One line a container, one line a slot.
fn said(agent: &MemAgent, manifests: &[(&str, &str)], prune: bool) -> Vec<String> {
    let plan = asked(agent, manifests, prune).unwrap();
    let mut lines = Vec::new();
    for container in &plan.containers {
        let is_changed = container.action == PlanAction::Changed;
        let fields = container.changes.iter().filter(|_| is_changed);
        let fields = fields.map(ToString::to_string);
        let fields: Vec<String> = fields.collect();
        let of = container.id();
        lines.push(
            format!("{of} {} {}", container.action, fields.join("; "))
                .trim()
                .to_owned(),
        );
        for slot in &container.slots {
            let name = |host: &Option<manifests::HostName>| {
                host.as_ref().map_or("-".to_owned(), ToString::to_string)
            };
            let from = slot.from.as_ref().map(|host| format!("{host}>"));
            let reason = slot.reason.as_ref().map(|why| format!(": {why}"));
            lines.push(format!(
                "  {} {} {}{}{}",
                slot.slot,
                slot.action,
                from.unwrap_or_default(),
                name(&slot.host),
                reason.unwrap_or_default()
            ));
        }
        if let Some(update) = &container.update {
            let why = update.why.as_ref().map(|why| format!(": {why}"));
            lines.push(format!(
                "  {}, {} at a time, {:?}{}",
                update.order,
                update.parallelism,
                update.slots,
                why.unwrap_or_default()
            ));
        }
    }
    lines
}

#[tokio::test]
async fn a_new_container_goes_where_the_planner_puts_it() {
    let agent = agent();
    agent.put_host("h3", None);
    runs(&agent, "shop/db", r#"{"image": "db"}"#, 1);
    let lines = said(&agent, &[("shop/web", WEB)], false);
    assert_eq!(
        lines,
        ["shop/web created", "  0 created h3", "  1 created h2"]
    );
}

#[tokio::test]
async fn what_is_there_already_is_no_change() {
    let agent = agent();
    runs(&agent, "shop/web", WEB, 2);
    let same = r#"{"scale": 2, "image": "nginx:1.26", "services": {"web": {"port": 80}}}"#;
    let plan = asked(&agent, &[("shop/web", same)], false).unwrap();
    assert!(!plan.changes, "{plan:?}");
    assert_eq!(
        said(&agent, &[("shop/web", same)], false),
        ["shop/web unchanged", "  0 kept h1", "  1 kept h2"]
    );
}

#[tokio::test]
async fn a_replacement_names_its_fields_and_its_order() {
    let agent = agent();
    runs(&agent, "shop/web", WEB, 2);
    let new = r#"{"image": "nginx:1.27", "scale": 3, "services": {"web": 80}, "env": {"A": "1"},
        "update": {"parallelism": 2}, "stop_timeout": "1m"}"#;
    assert_eq!(
        said(&agent, &[("shop/web", new)], false),
        [
            "shop/web changed env.A: none -> 1; image: nginx:1.26 -> nginx:1.27; scale: 2 -> 3; \
             stop_timeout: 10s -> 1m; update.parallelism: 1 -> 2",
            "  0 replaced h1: env.A: none -> 1; image: nginx:1.26 -> nginx:1.27",
            "  1 replaced h2: env.A: none -> 1; image: nginx:1.26 -> nginx:1.27",
            "  2 created h2",
            "  start-first, 2 at a time, [0, 1]",
        ]
    );
}

#[tokio::test]
async fn stop_first_says_why_and_one_that_is_down_comes_first() {
    let agent = agent();
    runs(
        &agent,
        "shop/db",
        r#"{"image": "db:1", "scale": 2, "volumes": ["data:/data"]}"#,
        2,
    );
    agent.put_state(&id("shop/db").slot(1), "h2", Phase::Unready, &[]);
    let new = r#"{"image": "db:2", "scale": 2, "volumes": ["data:/data"]}"#;
    assert_eq!(
        said(&agent, &[("shop/db", new)], false)[3],
        "  stop-first, 1 at a time, [1, 0]: both would write to volume `data`"
    );
}

#[tokio::test]
async fn what_does_not_affect_a_container_replaces_none() {
    let agent = agent();
    runs(&agent, "shop/web", WEB, 2);
    let new =
        r#"{"image": "nginx:1.26", "scale": 1, "stop_timeout": "1m", "services": {"web": 80}}"#;
    assert_eq!(
        said(&agent, &[("shop/web", new)], false),
        [
            "shop/web changed scale: 2 -> 1; stop_timeout: 10s -> 1m",
            "  0 kept h1",
            "  1 removed h2",
        ]
    );
}

#[tokio::test]
async fn a_slot_that_nobody_can_run_waits_for_each_hosts_reason() {
    let agent = agent();
    let new = r#"{"image": "db", "placement": {"constraints": ["disk==ssd"]}}"#;
    assert_eq!(
        said(&agent, &[("shop/db", new)], false),
        [
            "shop/db created",
            "  0 waiting -: no host can run it: h1, h2: disk==ssd is asked for, and disk is not set",
        ]
    );
    runs(&agent, "shop/db", r#"{"image": "db"}"#, 1);
    assert_eq!(
        said(&agent, &[("shop/db", new)], false)[1],
        "  0 kept h1: disk==ssd does not hold there; begun anew, it goes where it does"
    );
}

#[tokio::test]
async fn slots_of_a_lost_host_and_of_one_that_is_drained_move() {
    let agent = agent();
    runs(&agent, "shop/web", WEB, 2);
    agent.delete(&Key::HostRecord("h2".parse().unwrap()));
    let lines = said(&agent, &[("shop/web", WEB)], false);
    assert_eq!(lines[2], "  1 moved h2>h1: its host is missing");
    agent.put_host("h2", None);
    agent.put(&Key::Availability("h1".parse().unwrap()), br#""drain""#);
    let lines = said(&agent, &[("shop/web", WEB)], false);
    assert_eq!(lines[1], "  0 moved h1>h2: its host gives away what it has");
}

#[tokio::test]
async fn a_prune_removes_what_the_named_apps_have_besides() {
    let agent = agent();
    runs(&agent, "shop/web", WEB, 2);
    runs(&agent, "shop/old", r#"{"image": "old"}"#, 1);
    runs(&agent, "blog/web", WEB, 2);
    let kept = &[("shop/web", WEB)];
    assert_eq!(
        said(&agent, kept, true),
        [
            "shop/old removed",
            "  0 removed h1",
            "shop/web unchanged",
            "  0 kept h1",
            "  1 kept h2",
        ]
    );
    assert!(asked(&agent, kept, true).unwrap().changes);
    assert!(!asked(&agent, kept, false).unwrap().changes);
}

#[tokio::test]
async fn a_port_that_a_removed_container_has_is_waited_for() {
    let agent = agent();
    let ported =
        r#"{"image": "a", "scale": 2, "services": {"web": {"port": 80, "host_port": 8080}}}"#;
    runs(&agent, "shop/old", ported, 2);
    let lines = said(&agent, &[("shop/new", ported)], true);
    assert!(
        lines[1].starts_with("  0 created h1: once what is removed is gone; until then no host"),
        "{lines:?}"
    );
    let lines = said(&agent, &[("shop/new", ported)], false);
    assert!(
        lines[1].starts_with("  0 waiting -: no host can run it"),
        "{lines:?}"
    );
}

#[tokio::test]
async fn every_error_of_every_manifest_is_named() {
    let agent = agent();
    let bad = &[("shop/a", r#"{"scale": 1}"#), ("shop/b", "{")];
    let problems = asked(&agent, bad, false).unwrap_err();
    assert!(problems[0].starts_with("shop/a:1:1 "), "{problems:?}");
    assert!(problems[1].starts_with("shop/b:1:2 "), "{problems:?}");
    let problems = asked(&agent, &[("shop", WEB)], false).unwrap_err();
    assert!(
        problems[0].starts_with("`shop` is no app/container"),
        "{problems:?}"
    );
    let udp = &[
        (
            "shop/dns",
            r#"{"image": "a", "services": {"dns": {"port": 53, "protocol": "udp"}}}"#,
        ),
        ("shop/app", r#"{"image": "a", "links": ["dns"]}"#),
    ];
    let problems = asked(&agent, udp, false).unwrap_err();
    assert!(
        problems[0].starts_with("shop/app:1:1 links:"),
        "{problems:?}"
    );
}

#[tokio::test]
async fn a_link_to_a_service_of_the_same_plan_is_offered() {
    let agent = agent();
    let both = &[
        ("shop/web", WEB),
        ("shop/app", r#"{"image": "a", "links": ["web", "none"]}"#),
    ];
    let plan = asked(&agent, both, false).unwrap();
    let warnings = &plan.containers[0].warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[tokio::test]
async fn a_thousand_containers_are_one_request_and_one_small_answer() {
    let agent = agent();
    for host in 3..=20 {
        agent.put_host(&format!("h{host}"), None);
    }
    let text = |number: usize, image: &str| {
        format!(
            r#"{{"image": "{image}", "scale": 3, "services": {{"web": {{"port": 80, "host_port": {}}}}}, "memory": "64m",
                "env": {{"A": "{number}"}}, "links": ["web"]}}"#,
            10_000 + number
        )
    };
    let mut request = PlanRequest::default();
    for number in 0..1_000 {
        let name = format!("shop/web-{number}");
        // A third runs, a third is to be replaced, the rest is new.
        if number % 3 != 2 {
            runs(&agent, &name, &text(number, "a:1"), 3);
        }
        let image = ["a:1", "a:2", "a:1"][number % 3];
        let value = serde_json::from_str(&text(number, image)).unwrap();
        request.manifests.insert(name, value);
    }
    let body = serde_json::to_vec(&request).unwrap().len();
    assert!(body < crate::v1::manifest::MAX_BODY, "{body}");
    let planned = plan(&agent.view().unwrap(), &request).unwrap();
    let mut actions: BTreeMap<PlanSlotAction, usize> = BTreeMap::new();
    for slot in planned.containers.iter().flat_map(|one| &one.slots) {
        *actions.entry(slot.action).or_default() += 1;
    }
    let counted: Vec<(PlanSlotAction, usize)> = actions.into_iter().collect();
    let (created, replaced, kept) = (
        PlanSlotAction::Created,
        PlanSlotAction::Replaced,
        PlanSlotAction::Kept,
    );
    assert_eq!(counted, [(created, 999), (replaced, 999), (kept, 1_002)]);
    let answer = serde_json::to_vec(&planned).unwrap().len();
    assert!(answer < 1 << 20, "{answer}");
}
