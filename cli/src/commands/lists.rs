//! `ps`, `hosts` and `status`.

use std::collections::BTreeMap;
use std::time::Duration;

use gateway::v1::types::{ClusterStatus, ContainerRow, HostRow, Hosts, SlotRow, Slots};
use manifests::ContainerId;
use tokio::time::sleep;

use super::client::Client;
use super::error::CommandError;
use super::output;
use crate::args::{Format, ListArgs, PsArgs, Selection};

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(1);
/// The cursor to the top left, everything below cleared.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

pub(super) async fn ps(args: &PsArgs) -> Result<(), CommandError> {
    let client = Client::new(&args.client)?;
    let mut slots = client.slots(args.of.as_ref()).await?;
    if !args.watch {
        if let (true, Some(of)) = (slots.containers.is_empty(), &args.of) {
            let what = match of {
                Selection::App(_) => "app",
                Selection::Container(_) => "container",
            };
            return Err(CommandError::Failed(format!("there is no {what} {of}")));
        }
        return show_slots(&slots, args.output.format);
    }
    let mut shown: Option<Slots> = None;
    let on_screen = output::is_terminal() && args.output.format == Format::Table;
    let mut silent = false;
    loop {
        // In a pipe only what changed is news; ages always change.
        let mut news = slots.clone();
        news.revision = 0;
        for row in &mut news.slots {
            row.age_seconds = None;
        }
        let changed = shown.as_ref() != Some(&news);
        if on_screen {
            output::print(CLEAR)?;
            show_slots(&slots, Format::Table)?;
        } else if changed {
            match args.output.format {
                Format::Table => show_slots(&slots, Format::Table)?,
                Format::Json => output::json_line(&slots)?,
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

fn show_slots(slots: &Slots, format: Format) -> Result<(), CommandError> {
    if format == Format::Json {
        return output::json(slots);
    }
    tell(slots.stale, &slots.notices);
    // Of a container as a whole: said once, at its first row.
    let mut warnings: BTreeMap<ContainerId, &[String]> = slots
        .containers
        .iter()
        .map(|row| (row.id(), row.warnings.as_slice()))
        .collect();
    let rows = slots
        .slots
        .iter()
        .map(|row| slot_cells(row, warnings.remove(&row.id()).unwrap_or_default()))
        .collect();
    output::print(&output::table(
        &[
            "APP",
            "CONTAINER",
            "SLOT",
            "HOST",
            "STATUS",
            "AGE",
            "PORTS",
            "REASON",
        ],
        rows,
    ))
}

/// What is to be said beside the list.
pub(super) fn tell(stale: bool, notices: &[String]) {
    for notice in notices {
        output::note(notice);
    }
    if stale && notices.is_empty() {
        output::note("this is the last known state");
    }
}

/// That data of a container is lost with each instance, if it is.
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

fn slot_cells(row: &SlotRow, warnings: &[String]) -> Vec<String> {
    let ports: Vec<String> = row
        .ports
        .iter()
        .map(|port| {
            format!(
                "{}={}",
                port.service,
                std::net::SocketAddr::new(port.addr, port.port)
            )
        })
        .collect();
    let reason = match (&row.reason, row.restarts) {
        (Some(reason), _) => Some(reason.clone()),
        (None, 0) => None,
        (None, 1) => Some("restarted once".to_owned()),
        (None, times) => Some(format!("restarted {times} times")),
    };
    let reasons: Vec<String> = reason.into_iter().chain(warnings.iter().cloned()).collect();
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
        reasons.join("; "),
    ]
}

pub(super) async fn hosts(args: &ListArgs) -> Result<(), CommandError> {
    let hosts: Hosts = Client::new(&args.client)?.get("hosts").await?;
    if args.output.format == Format::Json {
        return output::json(&hosts);
    }
    tell(hosts.stale, &hosts.notices);
    let rows = hosts.hosts.iter().map(host_cells).collect();
    output::print(&output::table(
        &[
            "HOST", "STATE", "ADDR", "SLOTS", "FOREIGN", "CPUS", "MEMORY", "DISK", "AGENT",
            "LABELS", "PROBLEMS",
        ],
        rows,
    ))
}

fn host_cells(row: &HostRow) -> Vec<String> {
    let state = match row.availability.as_str() {
        "active" => row.state.clone(),
        availability => format!("{}, {availability}", row.state),
    };
    let labels: Vec<String> = row.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    vec![
        row.host.to_string(),
        state,
        or_dash(row.addr),
        row.slots.to_string(),
        row.foreign.to_string(),
        match row.cpu_millis {
            0 => "-".to_owned(),
            millis => format!("{}", millis as f64 / 1_000.0),
        },
        output::size(row.memory),
        or_dash(row.disk.map(|percent| format!("{percent} %"))),
        or_dash(row.agent.as_ref()),
        if labels.is_empty() {
            "-".to_owned()
        } else {
            labels.join(",")
        },
        row.problems.join("; "),
    ]
}

pub(super) async fn status(args: &ListArgs) -> Result<(), CommandError> {
    let status: ClusterStatus = Client::new(&args.client)?.get("status").await?;
    if args.output.format == Format::Json {
        return output::json(&status);
    }
    output::print(&status_text(&status))
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
    let etcd = match (status.etcd, status.hold.is_some()) {
        (true, false) => format!("answers (revision {})", status.revision),
        (true, true) => "answers, but is not believed (in hold)".to_owned(),
        (false, _) => "does not answer".to_owned(),
    };
    let mut lines = vec![
        format!(
            "cluster  {}",
            status.cluster.as_deref().unwrap_or("not known yet")
        ),
        format!("agent    {} on {}", status.agent, status.host),
        format!("etcd     {etcd}"),
        format!("hosts    {}", counts(&status.hosts)),
        format!("slots    {}", counts(&status.slots)),
        format!("apps     {}, {} containers", status.apps, status.containers),
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
