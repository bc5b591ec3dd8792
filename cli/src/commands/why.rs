//! `why`: each slot, each host's reason and each link of a container.

use gateway::v1::types::{SlotStatus, Why, WhyLink, WhySlot};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::client::Client;
use super::error::CommandError;
use super::stage::found_lines;
use super::{lists, output};
use crate::args::{Format, GlobalArgs, WhyArgs};

/// A failed connect of a working link is shown for so many seconds.
const OLD: i64 = 600;

pub(super) async fn run(args: &WhyArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let (container, slot) = &args.of;
    let query = slot.map_or(String::new(), |slot| format!("?slot={slot}"));
    let why: Why = client.get(&format!("why/{container}{query}")).await?;
    if global.output == Format::Json {
        return output::json(&why);
    }
    lists::note_age(why.stale, &why.notices);
    output::print_lines(&text(&why))
}

fn text(why: &Why) -> String {
    let mut lines = Vec::new();
    let container = &why.container;
    lines.push(match (container.revision, container.scale) {
        (Some(revision), _) if container.stopped => format!(
            "{id}: revision {revision}, stopped; `dokkaa start {id}` starts it",
            id = container.id()
        ),
        (Some(revision), Some(hosts)) if container.global => format!(
            "{}: revision {revision}, on each host that may have it ({})",
            container.id(),
            output::count(hosts as usize, "host")
        ),
        (Some(revision), Some(scale)) => {
            format!("{}: revision {revision}, scale {scale}", container.id())
        }
        (Some(revision), None) => format!("{}: revision {revision}", container.id()),
        (None, _) => format!(
            "{}: the manifest is removed; its containers are being removed",
            container.id()
        ),
    });
    lines.extend(lists::ending(container.expires, Timestamp::now()));
    lines.extend(
        container
            .errors
            .iter()
            .map(|error| format!("invalid manifest: {error}")),
    );
    lines.extend(
        container
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}")),
    );
    lines.extend(lists::unnamed_volumes(container).map(|warning| format!("warning: {warning}")));
    lines.extend(found_lines(container));
    if let Some(gave_up) = &container.gave_up {
        let at = match gave_up.slot {
            Some(slot) => format!("the rollout failed at slot {slot}"),
            None => "the rollout is halted: `before` failed".to_owned(),
        };
        lines.push(format!("{at}: {}", gave_up.reason));
    }
    for slot in why.slots.iter().filter(|slot| slot.row.slot.is_some()) {
        lines.push(String::new());
        add_slot(&mut lines, slot);
    }
    if !why.without.is_empty() {
        lines.push(String::new());
        lines.push("without a slot".to_owned());
        let without = why.without.iter();
        lines.extend(
            without.map(|one| format!("  {}: {}", one.host, output::one_line(&one.reason))),
        );
    }
    for link in &why.links {
        lines.push(String::new());
        add_link(&mut lines, link, Timestamp::now());
    }
    lines.join("\n") + "\n"
}

fn add_slot(lines: &mut Vec<String>, slot: &WhySlot) {
    let row = &slot.row;
    let mut reason = row.reason.as_deref().unwrap_or_default();
    if row.unplaceable && !slot.hosts.is_empty() {
        // Each host says its own below.
        reason = reason.split(':').next().unwrap_or_default();
    }
    let reason = match reason {
        "" => String::new(),
        reason => format!(": {}", output::one_line(reason)),
    };
    let host = row
        .host
        .as_ref()
        .map(|host| format!(" on {host}"))
        .unwrap_or_default();
    lines.push(format!(
        "slot {}{host} {}{reason}",
        row.slot.unwrap_or_default(),
        row.status
    ));
    // The log, where it may be the reason.
    if row.status != SlotStatus::Ready || row.failed {
        lines.extend(
            row.log
                .iter()
                .map(|line| format!("  | {}", output::one_line(line))),
        );
    }
    lines.extend(
        slot.hosts
            .iter()
            .map(|host| format!("  {}: {}", host.host, output::one_line(&host.reason))),
    );
}

fn add_link(lines: &mut Vec<String>, link: &WhyLink, now: Timestamp) {
    lines.push(format!(
        "link {} by {}, port {}",
        link.service, link.variable, link.port
    ));
    if link.endpoints.is_empty() {
        lines.push("  no endpoint: no running container offers this service".to_owned());
    }
    for endpoint in &link.endpoints {
        let how = match (&endpoint.reason, endpoint.serving) {
            (None, _) => "ready".to_owned(),
            (Some(reason), true) => format!("serving: {reason}"),
            (Some(reason), false) => format!("not serving: {reason}"),
        };
        lines.push(format!(
            "  {} on {} at {}: {how}",
            endpoint.slot,
            endpoint.host,
            std::net::SocketAddr::new(endpoint.addr, endpoint.port)
        ));
    }
    let serves = link.endpoints.iter().any(|endpoint| endpoint.serving);
    for failure in &link.failures {
        let at = failure.at.parse::<Timestamp>().ok();
        let ago = at.map(|at| now.duration_since(at).as_secs());
        // The link works again.
        if serves && ago.is_some_and(|ago| ago > OLD) {
            continue;
        }
        let time = at.map_or_else(
            || failure.at.clone(),
            |at| output::local_time(at, &TimeZone::system()),
        );
        lines.push(format!(
            "  last failed connect on {}, {time}, from {}: {}",
            failure.host,
            failure.caller,
            output::one_line(&failure.reason)
        ));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use serde_json::json;

    use super::*;

    #[test]
    fn old_failures_of_a_working_link_are_not_shown() {
        let slot = |id: &str| id.parse::<manifests::ContainerId>().unwrap().slot(0);
        let link = |serving: bool| -> WhyLink {
            serde_json::from_value(json!({
                "service": "shop/db", "variable": "SERVICE_DB_ADDR", "port": 10000,
                "endpoints": [{"slot": slot("shop/db"), "host": "h1",
                    "addr": "10.0.0.1", "port": 20000, "serving": serving}],
                "failures": [{"caller": slot("shop/web"), "service": "shop/db",
                    "host": "h1", "at": "2026-01-01T00:00:00.123456789Z", "reason": "refused"}],
            }))
            .unwrap()
        };
        let said = |link: &WhyLink, now: &str| {
            let mut lines = Vec::new();
            add_link(&mut lines, link, now.parse().unwrap());
            lines
                .iter()
                .any(|line| line.contains("last failed connect"))
        };
        assert!(!said(&link(true), "2026-01-01T02:00:00Z"));
        assert!(said(&link(true), "2026-01-01T00:00:09Z"));
        assert!(said(&link(false), "2026-01-01T02:00:00Z"));
    }
}
