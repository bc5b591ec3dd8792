//! The arrows between the crates, read from cargo's own view of them.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// Which of our crates a crate may use.
const ARROWS: [(&str, &[&str]); 16] = [
    ("manifests", &[]),
    ("model", &["manifests"]),
    ("planner", &["manifests", "model"]),
    ("agent", &["manifests", "model", "planner"]),
    ("engine", &["manifests", "model", "listen"]),
    ("store", &["manifests", "model", "agent"]),
    (
        "conductor",
        &["manifests", "model", "planner", "agent", "engine", "store"],
    ),
    (
        "gateway",
        &["manifests", "model", "planner", "store", "listen"],
    ),
    ("dns", &["manifests", "model", "listen"]),
    ("dns-fuzz", &["dns"]),
    ("ambassador", &["manifests", "model", "listen"]),
    ("cloud-config", &[]),
    ("listen", &["manifests"]),
    (
        "dokkaa",
        &[
            "manifests",
            "model",
            "planner",
            "engine",
            "store",
            "conductor",
            "gateway",
            "dns",
            "ambassador",
            "cloud-config",
            "listen",
        ],
    ),
    (
        "sim",
        &[
            "manifests",
            "model",
            "planner",
            "agent",
            "engine",
            "store",
            "conductor",
        ],
    ),
    // The harness looks at dokkaa from outside only; its bench drives agents in its own process.
    (
        "dokkaa-tests",
        &[
            "manifests",
            "model",
            "planner",
            "engine",
            "store",
            "conductor",
            "gateway",
            "dns",
            "listen",
        ],
    ),
];

/// What decides nothing of its own: no clocks, sockets, engines, dice.
const PURE: [&str; 4] = ["manifests", "model", "planner", "agent"];
const IMPURE: [&str; 6] = [
    "tokio",
    "bollard",
    "hickory-",
    "etcd-client",
    "rand",
    "hyper",
];

/// Those that read tables, and know no store.
const STORELESS: [&str; 2] = ["dns", "ambassador"];
const STORES: [&str; 2] = ["store", "etcd-client"];

#[test]
fn crates_use_only_what_their_arrows_allow() {
    let metadata = metadata();
    let names: BTreeMap<&PackageId, &str> = metadata
        .packages
        .iter()
        .map(|package| (&package.id, package.name.as_str()))
        .collect();
    let ours: BTreeSet<&str> = metadata
        .workspace_members
        .iter()
        .map(|id| names[id])
        .collect();
    let listed: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    assert_eq!(ours, listed, "every crate has its arrows in this test");
    let graph = normal_dependencies(&metadata);
    for (name, allowed) in ARROWS {
        let used: BTreeSet<&str> = graph[name]
            .iter()
            .copied()
            .filter(|used| ours.contains(used))
            .collect();
        let allowed = allowed.iter().copied().collect();
        let more: Vec<&&str> = used.difference(&allowed).collect();
        assert!(more.is_empty(), "{name} must not use {more:?}");
    }
}

#[test]
fn pure_crates_reach_nothing_that_is_not_pure() {
    let metadata = metadata();
    let graph = normal_dependencies(&metadata);
    for name in PURE {
        for (reached, way) in reach(&graph, name) {
            let impure = IMPURE.iter().any(|banned| {
                reached == *banned || (banned.ends_with('-') && reached.starts_with(banned))
            });
            assert!(!impure, "{name} is pure, but: {}", way.join(" -> "));
        }
    }
}

#[test]
fn dns_and_ambassador_know_no_store() {
    let metadata = metadata();
    let graph = normal_dependencies(&metadata);
    for name in STORELESS {
        for (reached, way) in reach(&graph, name) {
            assert!(
                !STORES.contains(&reached),
                "{name} knows no store, but: {}",
                way.join(" -> ")
            );
        }
    }
}

/// The lints of the workspace are a rule only for those that inherit them.
#[test]
fn every_crate_has_the_workspace_s_lints() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let manifest = std::fs::read_to_string(&package.manifest_path).expect("Cargo.toml");
        let inherits = manifest
            .split_once("[lints]")
            .is_some_and(|(_, rest)| rest.trim_start().starts_with("workspace = true"));
        assert!(inherits, "{} has lints of its own", package.name);
    }
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        // Without a platform it asks for packages of others too, which no build has fetched.
        .other_options([
            "--locked".to_owned(),
            "--offline".to_owned(),
            format!(
                "--filter-platform={}-unknown-linux-gnu",
                std::env::consts::ARCH
            ),
        ])
        .exec()
        .expect("cargo metadata")
}

/// Each crate by name, with what it uses outside tests and build scripts.
fn normal_dependencies(metadata: &Metadata) -> BTreeMap<&str, BTreeSet<&str>> {
    let names: BTreeMap<&PackageId, &str> = metadata
        .packages
        .iter()
        .map(|package| (&package.id, package.name.as_str()))
        .collect();
    let mut graph: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    for node in &resolve.nodes {
        let used = node
            .deps
            .iter()
            .filter(|dependency| {
                dependency
                    .dep_kinds
                    .iter()
                    .any(|kind| kind.kind == DependencyKind::Normal)
            })
            .map(|dependency| names[&dependency.pkg]);
        graph.entry(names[&node.id]).or_default().extend(used);
    }
    graph
}

/// Everything that `from` reaches, each with the way there.
fn reach<'a>(
    graph: &BTreeMap<&'a str, BTreeSet<&'a str>>,
    from: &'a str,
) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut found = BTreeMap::new();
    let mut ways = vec![vec![from]];
    while let Some(way) = ways.pop() {
        let last = way[way.len() - 1];
        for next in graph.get(last).into_iter().flatten() {
            if !found.contains_key(next) {
                let longer = [way.as_slice(), &[*next]].concat();
                found.insert(*next, longer.clone());
                ways.push(longer);
            }
        }
    }
    found
}
