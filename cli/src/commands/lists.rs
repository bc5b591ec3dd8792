//! `ps`, `apps`, `hosts` and `status`.

use std::collections::BTreeMap;
use std::time::Duration;

use gateway::v1::types::{
    Apps, ClusterStatus, ContainerRow, HostRow, Hosts, PublishedPort, SlotRow, Slots,
};
use jiff::Timestamp;
use manifests::ContainerId;
use tokio::time::sleep;

use super::client::Client;
use super::error::CommandError;
use super::output;
use super::table::{Column, Shown, table};
use crate::args::{AppsArgs, Format, GlobalArgs, PsArgs, Selection};

/// Poll interval of `--watch`.
const LOOK: Duration = Duration::from_secs(1);
/// Digits of a container id, as `docker ps` prints them.
const SHORT_ID: usize = 12;
/// Cursor to the top left, screen cleared.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

const PS: &[Column] = &[
    Column("APP", Shown::Always),
    Column("CONTAINER", Shown::Always),
    Column("SLOT", Shown::Always),
    Column("HOST", Shown::IfFits(3)),
    Column("STATUS", Shown::Always),
    Column("AGE", Shown::IfFits(1)),
    Column("PORTS", Shown::Stacked(2)),
    Column("IMAGE", Shown::Wide),
    Column("VERSION", Shown::Wide),
    Column("CONTAINER ID", Shown::Wide),
    Column("REASON", Shown::Text),
];
const APPS: &[Column] = &[
    Column("APP", Shown::Always),
    Column("CONTAINER", Shown::Always),
    Column("READY", Shown::Always),
    Column("IMAGE", Shown::IfFits(1)),
    Column("NOTES", Shown::Text),
];
const HOSTS: &[Column] = &[
    Column("HOST", Shown::Always),
    Column("STATE", Shown::Always),
    Column("ADDR", Shown::IfFits(6)),
    Column("SLOTS", Shown::IfFits(5)),
    Column("CPUS", Shown::IfFits(2)),
    Column("MEMORY", Shown::IfFits(3)),
    Column("DISK", Shown::IfFits(4)),
    Column("FOREIGN", Shown::Wide),
    Column("AGENT", Shown::Wide),
    Column("DOCKER", Shown::Wide),
    Column("API", Shown::Wide),
    Column("IMAGES", Shown::Wide),
    Column("FIREWALL", Shown::Wide),
    Column("CGROUP", Shown::Wide),
    Column("PROXY", Shown::Wide),
    Column("LABELS", Shown::IfFits(1)),
    Column("PROBLEMS", Shown::Text),
];

pub(super) async fn ps(args: &PsArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let mut slots = client.slots(args.of.as_ref()).await?;
    if !args.watch {
        if let (true, Some(of)) = (slots.containers.is_empty(), &args.of) {
            return Err(none_of(of));
        }
        return show_slots(&slots, global.output);
    }
    let mut shown: Option<Slots> = None;
    let on_screen = output::is_terminal() && global.output != Format::Json;
    let mut silent = false;
    loop {
        // In a pipe only changes are printed; ages always change.
        let mut news = slots.clone();
        news.revision = 0;
        for row in &mut news.slots {
            row.age_seconds = None;
        }
        let changed = shown.as_ref() != Some(&news);
        if on_screen {
            output::print(CLEAR)?;
            show_slots(&slots, global.output)?;
        } else if changed {
            match global.output {
                Format::Json => output::json_line(&slots)?,
                format => show_slots(&slots, format)?,
            }
        }
        shown = Some(news);
        slots = loop {
            sleep(LOOK).await;
            match client.slots(args.of.as_ref()).await {
                Ok(slots) => {
                    silent = false;
                    break slots;
                }
                Err(error @ CommandError::Unreached { .. }) => {
                    if !silent {
                        output::note(&error.to_string());
                        silent = true;
                    }
                }
                Err(error) => return Err(error),
            }
        };
    }
}

/// The app or container does not exist.
pub(super) fn none_of(of: &Selection) -> CommandError {
    let what = match of {
        Selection::App(_) => "app",
        Selection::Container(_) => "container",
    };
    CommandError::Failed(format!("there is no {what} {of}"))
}

pub(super) async fn apps(args: &AppsArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let apps: Apps = client
        .get(&super::client::selected("apps", args.of.as_ref()))
        .await?;
    if let (true, Some(of)) = (apps.apps.is_empty(), &args.of) {
        return Err(none_of(of));
    }
    if global.output == Format::Json {
        return output::json(&apps);
    }
    note_age(apps.stale, &apps.notices);
    let now = Timestamp::now();
    let containers = apps
        .apps
        .iter()
        .flat_map(|app| app.containers.iter().map(move |row| (&app.app, row)));
    let rows = containers.map(|(app, row)| {
        vec![
            app.to_string(),
            row.container.to_string(),
            if row.stopped {
                "stopped".to_owned()
            } else if row.global {
                format!("{}/{} global", row.ready, or_dash(row.scale))
            } else {
                format!("{}/{}", row.ready, or_dash(row.scale))
            },
            or_dash(row.image.as_ref()),
            ending(row.expires, now)
                .chain(row.problems.clone())
                .collect::<Vec<_>>()
                .join("; "),
        ]
    });
    output::print(&table(APPS, global.output, rows))
}

fn show_slots(slots: &Slots, format: Format) -> Result<(), CommandError> {
    if format == Format::Json {
        return output::json(slots);
    }
    note_age(slots.stale, &slots.notices);
    let mut rows: Vec<(ContainerId, Vec<String>)> = Vec::new();
    // What is said of a container is shown once, in its first row.
    let now = Timestamp::now();
    let mut notes: BTreeMap<ContainerId, Vec<String>> = slots
        .containers
        .iter()
        .map(|row| (row.id(), container_notes(row, now)))
        .collect();
    for row in &slots.slots {
        let notes = notes.remove(&row.id()).unwrap_or_default();
        rows.push((row.id(), slot_cells(row, notes)));
    }
    // Containers that are stopped or scaled to 0 have no slots, but are listed.
    for container in &slots.containers {
        if let Some(notes) = notes.remove(&container.id())
            && container.scale == Some(0)
        {
            rows.push((container.id(), idle_cells(container, &notes)));
        }
    }
    rows.sort_by(|(one, _), (other, _)| one.cmp(other));
    let rows = rows.into_iter().map(|(_, cells)| cells);
    output::print(&table(PS, format, rows))
}

/// Notes beside a list: why it may be outdated.
pub(super) fn note_age(stale: bool, notices: &[String]) {
    for notice in notices {
        output::note(notice);
    }
    if stale && notices.is_empty() {
        output::note("this is the last known state");
    }
}

/// Warns of volumes of the image that the manifest does not name.
pub(super) fn unnamed_volumes(container: &ContainerRow) -> Option<String> {
    let paths = container.unnamed_volumes.join(", ");
    (!paths.is_empty()).then(|| {
        format!(
            "what is written to {paths} is lost at each replacement: the image has a volume there; \
             name it in `volumes` to keep it"
        )
    })
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// When it ends by itself, and warnings.
fn container_notes(row: &ContainerRow, now: Timestamp) -> Vec<String> {
    let ends = ending(row.expires, now);
    ends.chain(row.warnings.clone()).collect()
}

pub(super) fn ending(expires: Option<Timestamp>, now: Timestamp) -> impl Iterator<Item = String> {
    let ends = expires.map(|expires| {
        let left = expires.duration_since(now).as_secs().max(0);
        format!("ends in {}", output::age(left.unsigned_abs()))
    });
    ends.into_iter()
}

fn slot_cells(row: &SlotRow, notes: Vec<String>) -> Vec<String> {
    let ports: Vec<String> = row.ports.iter().map(port_cell).collect();
    let reason = match (&row.reason, row.restarts) {
        (Some(reason), _) => Some(reason.clone()),
        (None, 0) => None,
        (None, 1) => Some("restarted once".to_owned()),
        (None, times) => Some(format!("restarted {times} times")),
    };
    let reasons: Vec<String> = reason.into_iter().chain(notes).collect();
    let id = row.container_id.as_ref();
    vec![
        row.app.to_string(),
        row.container.to_string(),
        or_dash(row.slot),
        or_dash(row.host.as_ref()),
        row.status.to_string(),
        or_dash(row.age_seconds.map(output::age)),
        if ports.is_empty() {
            "-".to_owned()
        } else {
            ports.join(" ")
        },
        or_dash(row.image.as_ref()),
        or_dash(row.version),
        or_dash(id.map(|id| id.chars().take(SHORT_ID).collect::<String>())),
        reasons.join("; "),
    ]
}

fn idle_cells(row: &ContainerRow, notes: &[String]) -> Vec<String> {
    let dash = || "-".to_owned();
    vec![
        row.app.to_string(),
        row.container.to_string(),
        dash(),
        dash(),
        if row.stopped {
            "stopped"
        } else if row.global {
            "on no host"
        } else {
            "scaled to 0"
        }
        .to_owned(),
        dash(),
        dash(),
        or_dash(row.image.as_ref()),
        or_dash(row.revision),
        dash(),
        notes.join("; "),
    ]
}

/// A service and the address it listens at.
fn port_cell(port: &PublishedPort) -> String {
    let at = std::net::SocketAddr::new(port.bind.unwrap_or(port.addr), port.port);
    let public = if port.public { " (public)" } else { "" };
    format!("{}={at}{public}", port.service)
}

pub(super) async fn hosts(global: &GlobalArgs) -> Result<(), CommandError> {
    let hosts: Hosts = Client::new(global)?.get("hosts").await?;
    let format = global.output;
    if format == Format::Json {
        return output::json(&hosts);
    }
    note_age(hosts.stale, &hosts.notices);
    output::print(&table(HOSTS, format, hosts.hosts.iter().map(host_cells)))
}

fn host_cells(row: &HostRow) -> Vec<String> {
    let state = match row.availability.as_str() {
        "active" => row.state.clone(),
        "pause" => format!("{} (paused)", row.state),
        "drain" => format!("{} (draining)", row.state),
        "drain-volumes" => format!("{} (draining, also volumes)", row.state),
        "leave" => format!("{} (leaving)", row.state),
        other => format!("{} ({other})", row.state),
    };
    let docker = row.docker.as_ref();
    let proxy = docker.and_then(|docker| docker.userland_proxy);
    let labels: Vec<String> = row.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    vec![
        row.host.to_string(),
        state,
        or_dash(row.addr),
        row.slots.to_string(),
        match row.cpu_millis {
            0 => "-".to_owned(),
            millis => format!("{}", millis as f64 / 1_000.0),
        },
        output::size(row.memory),
        or_dash(row.disk.map(|percent| format!("{percent}%"))),
        row.foreign.to_string(),
        or_dash(row.agent.as_ref()),
        or_dash(docker.map(|docker| &docker.version)),
        or_dash(docker.map(|docker| &docker.api)),
        or_dash(docker.map(|docker| &docker.store)),
        or_dash(docker.map(|docker| &docker.firewall)),
        or_dash(
            docker
                .filter(|d| d.cgroup > 0)
                .map(|d| format!("v{}", d.cgroup)),
        ),
        or_dash(proxy.map(|on| if on { "on" } else { "off" })),
        if labels.is_empty() {
            "-".to_owned()
        } else {
            labels.join(",")
        },
        row.problems.join("; "),
    ]
}

pub(super) async fn status(global: &GlobalArgs) -> Result<(), CommandError> {
    let status: ClusterStatus = Client::new(global)?.get("status").await?;
    if global.output == Format::Json {
        return output::json(&status);
    }
    output::print_lines(&status_text(&status))
}

fn status_text(status: &ClusterStatus) -> String {
    let counts = |counts: &std::collections::BTreeMap<String, u32>| {
        let parts: Vec<String> = counts
            .iter()
            .map(|(what, n)| format!("{n} {what}"))
            .collect();
        if parts.is_empty() {
            "none".to_owned()
        } else {
            parts.join(", ")
        }
    };
    let set = match counts(&status.availability).as_str() {
        "none" => String::new(),
        set => format!(" ({set})"),
    };
    let etcd = match (status.etcd, status.hold.is_some()) {
        (true, false) => format!("answers (revision {})", status.revision),
        (true, true) => "answers, but is not trusted (in hold)".to_owned(),
        (false, _) => "does not answer".to_owned(),
    };
    let mut lines = vec![
        format!(
            "cluster  {}",
            status.cluster.as_deref().unwrap_or("not known yet")
        ),
        format!("agent    {} on {}", status.agent, status.host),
        format!("etcd     {etcd}"),
        format!("hosts    {}{set}", counts(&status.hosts)),
        format!("slots    {}", counts(&status.slots)),
        format!(
            "apps     {}, {}",
            status.apps,
            output::count(status.containers as usize, "container")
        ),
    ];
    if status.problems.is_empty() {
        lines.push("problems none".to_owned());
    } else {
        lines.push("problems".to_owned());
        lines.extend(
            status
                .problems
                .iter()
                .map(|problem| format!("  {}", output::one_line(problem))),
        );
    }
    lines.join("\n") + "\n"
}
