//! `pause`, `drain`, `activate`, `leave`, `label` and `hosts rm`.

use std::time::Duration;

use gateway::v1::types::{
    ClusterStatus, HostData, HostDetail, HostRemoved, HostSettings, HostSlot, Hosts,
    WantedAvailability,
};
use hyper::Method;
use manifests::HostName;
use model::records::{Availability, Labels};
use tokio::time::{Instant, sleep};

use super::client::{Client, LOOK, Refusal};
use super::error::CommandError;
use super::{ask, output};
use crate::args::{
    ActivateArgs, DrainArgs, GlobalArgs, HostArgs, HostsRmArgs, LabelArgs, LeaveArgs,
};

/// An agent that was told to leave and does not answer for so long has ended.
const ENDED: Duration = Duration::from_secs(5);

pub(super) async fn pause(args: &HostArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let host = &args.host;
    want(&client, host, Availability::Pause).await?;
    output::print(&format!(
        "{host} is paused: it keeps its slots and gets no others\n"
    ))
}

pub(super) async fn activate(args: &ActivateArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let host = &args.host;
    let wanted = WantedAvailability {
        availability: Availability::Active,
        returns: args.r#return,
    };
    let settings = put_availability(&client, host, wanted).await?;
    let comes = match settings.returns.len() {
        0 if args.r#return => ": there is nothing that a drain has moved away".to_owned(),
        0 => String::new(),
        count => format!(": {} to come back", output::count(count, "slot")),
    };
    output::print(&format!("{host} is active{comes}\n"))?;
    if args.wait {
        returned(&client, host, global).await?;
    }
    Ok(())
}

/// Waits until what a drain has moved away is back.
async fn returned(
    client: &Client,
    host: &HostName,
    global: &GlobalArgs,
) -> Result<(), CommandError> {
    let within = global.converged_within();
    let end = Instant::now() + within;
    let mut left = None;
    loop {
        let detail: HostDetail = client.get(&format!("hosts/{host}")).await?;
        let now = &detail.row.availability;
        if *now != Availability::Active.to_string() {
            return Err(CommandError::NotConverged(format!(
                "{host} is not active any more: somebody has set it to {now}"
            )));
        }
        let count = detail.moved.len();
        if count == 0 {
            return output::print(&format!(
                "{host} has what can come back: {}\n",
                output::count(detail.slots.len(), "slot")
            ));
        }
        if left.replace(count) != Some(count) {
            let slots = output::count(count, "slot");
            output::note(&format!("{host}: {slots} left to come back"));
        }
        if Instant::now() >= end {
            return Err(CommandError::TimedOut(format!(
                "{} still to come back to {host} after {within:?}, such as {}; `dokkaa why` says where it is",
                output::count(count, "slot"),
                detail.moved[0]
            )));
        }
        sleep(LOOK).await;
    }
}

pub(super) async fn drain(args: &DrainArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let host = &args.host;
    let detail: HostDetail = client.get(&format!("hosts/{host}")).await?;
    if !detail.live {
        return Err(CommandError::Failed(format!(
            "{host} is missing, so it gives nothing away: others take its slots over"
        )));
    }
    let with_data = |slot: &HostSlot| detail.data.iter().any(|data| data.slot == slot.slot);
    let leaves_data = |slot: &HostSlot| args.force_volumes && with_data(slot);
    let availability = if args.force_volumes {
        confirm_without_data(args, &detail)?;
        Availability::DrainVolumes
    } else {
        Availability::Drain
    };
    want(&client, host, availability).await?;
    output::print(&format!(
        "{host} is drained: its slots go to other hosts, and it gets no others\n"
    ))?;
    note_own(&detail.slots);
    let stuck = detail.slots.iter().filter(|s| s.stuck.is_some());
    let stuck: Vec<&HostSlot> = stuck.filter(|slot| !leaves_data(slot)).collect();
    if !stuck.is_empty() {
        output::note("these stay, and stop with the host:");
        note_stuck(&stuck);
    }
    if args.wait {
        drained(&client, host, availability, global).await?;
    }
    Ok(())
}

/// Says whose data stays behind, and asks.
fn confirm_without_data(args: &DrainArgs, detail: &HostDetail) -> Result<(), CommandError> {
    let host = &args.host;
    let runs = |data: &&HostData| {
        let mut slots = detail.slots.iter();
        slots.any(|slot| slot.slot == data.slot && !slot.global)
    };
    let left: Vec<&HostData> = detail.data.iter().filter(runs).collect();
    if left.is_empty() {
        return Ok(());
    }
    output::note(&format!(
        "these slots begin with empty volumes elsewhere; their data stays on {host}:"
    ));
    for data in left {
        note_data(data);
    }
    ask::confirm(
        args.yes,
        &format!("drain {host} and leave this data behind?"),
        &format!("{host} was not drained"),
    )
}

/// Waits until nothing is left on a drained host that another one can take.
async fn drained(
    client: &Client,
    host: &HostName,
    wanted: Availability,
    global: &GlobalArgs,
) -> Result<(), CommandError> {
    let within = global.converged_within();
    let end = Instant::now() + within;
    let wanted = wanted.to_string();
    let mut left = None;
    loop {
        let detail: HostDetail = client.get(&format!("hosts/{host}")).await?;
        let now = &detail.row.availability;
        if *now != wanted {
            return Err(CommandError::NotConverged(format!(
                "{host} is not drained any more: somebody has set it to {now}"
            )));
        }
        let (stuck, free): (Vec<_>, Vec<_>) = detail.slots.iter().partition(|s| s.stuck.is_some());
        if free.is_empty() && stuck.is_empty() {
            return output::print(&format!("{host} has no slots any more\n"));
        }
        if free.is_empty() {
            return Err(CommandError::NotConverged(format!(
                "{} of {host} can't move: {}",
                output::count(stuck.len(), "slot"),
                slots(stuck.iter().map(|slot| slot.slot.to_string()))
            )));
        }
        if left.replace(free.len()) != Some(free.len()) {
            let slots = output::count(free.len(), "slot");
            output::note(&format!("{host}: {slots} left to move"));
        }
        if Instant::now() >= end {
            return Err(CommandError::TimedOut(format!(
                "{host} still has {} to move after {within:?}; it goes on, and `dokkaa activate {host}` ends it",
                output::count(free.len(), "slot")
            )));
        }
        sleep(LOOK).await;
    }
}

async fn want(
    client: &Client,
    host: &HostName,
    availability: Availability,
) -> Result<HostSettings, CommandError> {
    let wanted = WantedAvailability {
        availability,
        returns: false,
    };
    put_availability(client, host, wanted).await
}

async fn put_availability(
    client: &Client,
    host: &HostName,
    wanted: WantedAvailability,
) -> Result<HostSettings, CommandError> {
    let path = format!("hosts/{host}/availability");
    client.send_json(Method::PUT, &path, &wanted).await
}

pub(super) async fn label(args: &LabelArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let changes: Labels = args.changes.iter().cloned().collect();
    let path = format!("hosts/{}/labels", args.host);
    let settings: HostSettings = client.send_json(Method::PATCH, &path, &changes).await?;
    let labels: Vec<String> = settings
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    output::print(&format!("{} {}\n", args.host, labels.join(",")))
}

pub(super) async fn remove(args: &HostsRmArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let host = &args.host;
    let detail: HostDetail = client.get(&format!("hosts/{host}")).await?;
    if detail.live {
        return Err(CommandError::Failed(format!(
            "{host} is live: `dokkaa leave {host}` takes it out of the cluster"
        )));
    }
    if !detail.slots.is_empty() {
        output::note(&format!(
            "slots of {host} that other hosts take over: {}",
            slots(detail.slots.iter().map(|slot| slot.slot.to_string()))
        ));
    }
    if !detail.data.is_empty() {
        output::note(&format!(
            "these slots lose their data on {host} and start empty elsewhere:"
        ));
        detail.data.iter().for_each(note_data);
    }
    ask::confirm(
        args.yes,
        &format!("forget {host}?"),
        &format!("{host} was not forgotten"),
    )?;
    let path = format!("hosts/{host}?member={}", detail.member);
    let removed: HostRemoved = client.delete(&path).await?;
    let given_up = match removed.data.len() {
        0 => String::new(),
        n => format!("; the data of {} is given up", output::count(n, "slot")),
    };
    output::print(&format!("{host} is forgotten{given_up}\n"))
}

fn note_data(data: &HostData) {
    output::note(&format!("  {}: {}", data.slot, data.volumes.join(", ")));
}

fn slots(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

pub(super) async fn leave(args: &LeaveArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let own = client.get::<ClusterStatus>("status").await?.host;
    let host = args.host.as_ref().unwrap_or(&own);
    let detail: HostDetail = client.get(&format!("hosts/{host}")).await?;
    if !detail.live {
        return Err(CommandError::Failed(format!(
            "{host} is missing, so it gives nothing away: others take its slots over; \
             `dokkaa hosts rm {host}` forgets it"
        )));
    }
    show_leaving(host, &detail);
    ask::confirm(
        args.yes,
        &format!("take {host} out of the cluster?"),
        &format!("{host} stays"),
    )?;
    want(&client, host, Availability::Leave).await?;
    output::print(&format!("{host} leaves\n"))?;
    if args.no_wait {
        return Ok(());
    }
    output::note(&format!(
        "Ctrl-C only ends this display; `dokkaa activate {host}` takes it back"
    ));
    follow(&client, host, *host == own, global).await
}

fn show_leaving(host: &HostName, detail: &HostDetail) {
    let (stuck, free): (Vec<_>, Vec<_>) = detail.slots.iter().partition(|s| s.stuck.is_some());
    let has_data = |slot: &&HostSlot| detail.data.iter().any(|data| data.slot == slot.slot);
    let (kept, late): (Vec<&HostSlot>, Vec<_>) = stuck.into_iter().partition(has_data);
    note_own(&detail.slots);
    let free: Vec<&HostSlot> = free.into_iter().filter(|slot| !slot.global).collect();
    if !free.is_empty() {
        output::note(&format!(
            "from {host} to other hosts: {}",
            slots(free.iter().map(|slot| slot.slot.to_string()))
        ));
    }
    if !kept.is_empty() {
        output::note(&format!(
            "these end with {host}, and wait until it is back or `dokkaa volumes release` lets go of their data:"
        ));
        note_stuck(&kept);
    }
    if !late.is_empty() {
        output::note(&format!(
            "nobody can take these now; {host} does not leave before somebody can, or they are removed:"
        ));
        note_stuck(&late);
    }
}

/// Slots of global containers: they end with what the host gives away.
fn note_own(all: &[HostSlot]) {
    let own = all.iter().filter(|slot| slot.global);
    let own: Vec<String> = own.map(|slot| slot.slot.to_string()).collect();
    if !own.is_empty() {
        output::note(&format!(
            "these end, since each host has its own: {}",
            slots(own.into_iter())
        ));
    }
}

fn note_stuck(stuck: &[&HostSlot]) {
    for slot in stuck {
        let why = slot.stuck.as_deref().unwrap_or_default();
        output::note(&format!("  {}: {}", slot.slot, output::one_line(why)));
    }
}

/// Follows a host until it has left.
async fn follow(
    client: &Client,
    host: &HostName,
    own: bool,
    global: &GlobalArgs,
) -> Result<(), CommandError> {
    let within = global.converged_within();
    let end = Instant::now() + within;
    let leaving = Availability::Leave.to_string();
    let mut left = None;
    let mut answered = Instant::now();
    loop {
        let hosts: Hosts = match client.get("hosts").await {
            Ok(hosts) => hosts,
            // This agent is the one that leaves; one that only restarts answers again soon.
            Err(CommandError::Unreached { .. }) if own => {
                if answered.elapsed() >= ENDED {
                    return output::print(&format!("{host} has left: its agent has ended\n"));
                }
                sleep(LOOK).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        answered = Instant::now();
        let Some(row) = hosts.hosts.iter().find(|row| row.host == *host) else {
            return output::print(&format!("{host} has left\n"));
        };
        if row.availability != leaving {
            // The list is the agent's view, which may be older than what was just written.
            match client.try_get::<HostDetail>(&format!("hosts/{host}")).await {
                Ok(detail) if detail.row.availability != leaving => {
                    return Err(CommandError::NotConverged(format!(
                        "{host} does not leave any more: somebody has set it to {}",
                        detail.row.availability
                    )));
                }
                // It has left meanwhile, which the list is to say, too.
                Ok(_) | Err(Refusal::NotFound(_)) => {}
                Err(Refusal::Other(CommandError::Unreached { .. })) if own => continue,
                Err(error) => return Err(error.into()),
            }
        }
        if left.replace(row.slots) != Some(row.slots) {
            let slots = output::count(row.slots as usize, "slot");
            output::note(&format!("{host}: {slots} left"));
        }
        if Instant::now() >= end {
            return Err(CommandError::TimedOut(format!(
                "{host} still has {} after {within:?}; it goes on leaving, and `dokkaa activate {host}` takes it back",
                output::count(row.slots as usize, "slot")
            )));
        }
        sleep(LOOK).await;
    }
}
