//! Closes the instances' ports to everybody who is no host of the cluster, and containers, DNS and links to everybody
//! who is not on this machine.
//!
//! A published port of Docker's passes the usual firewalls of a host. So the
//! agent keeps a chain of its own, `DOKKAA`, below Docker's DOCKER-USER and
//! below INPUT: who opens a connection to `--host-ip` within `--port-range`
//! comes from this machine, from a container on it, or from an address in a
//! host record, or is dropped. So is who routes past the published ports, to a
//! container's address or to the gateway. A service with a `host_port` is for
//! the world. The rules outlive the agent, as containers do.
//!
//! `wanted` derives what the rules are to say, `rules` turns that into text and
//! the difference to what stands into one change, `keeper` applies it, `iptables`
//! runs the program. The first two are pure.

mod ahead;
mod generation;
mod iptables;
mod keeper;
mod localnet;
mod removal;
mod rules;
mod setup;
#[cfg(test)]
mod tests;
mod wanted;

use std::net::IpAddr;
use std::time::Duration;

pub use model::address::is_global;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use iptables::Iptables;
pub use iptables::IptablesError;
use keeper::Keeper;
pub use removal::remove;
pub use rules::CHAIN;
use rules::trial;
pub use setup::{FirewallError, InstancePorts, Setup};

/// How often the kernel is asked whether rules have changed: a reload of another firewall removes them silently. Only then
/// are they read, which costs 1.4 ms of a core with forty rules of others.
pub const RECHECK: Duration = Duration::from_secs(5);
/// The rules are read at least this often, whatever the kernel says of changes.
const HEAL: Duration = Duration::from_secs(60);
/// Changes that come this close together are one.
const GATHER: Duration = Duration::from_millis(100);

/// What asks for a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Time,
    Engine,
    View,
}

/// Whether an agent may start: the instances' ports are to be open, the world does not get to the address, or the rules
/// can be set. That is tried with a chain that nothing leads to.
pub async fn check(instance_ports: InstancePorts, host_ip: IpAddr) -> Result<(), FirewallError> {
    if instance_ports == InstancePorts::Open || !is_global(host_ip) {
        return Ok(());
    }
    let tables = Iptables::of(host_ip);
    let (set, unset) = trial(host_ip);
    let tried = async {
        tables.load(&set).await?;
        tables.load(&unset).await
    };
    tried
        .await
        .map_err(|source| FirewallError::Close { host_ip, source })
}

/// Keeps the rules until it is stopped, and leaves them then. Where the ports are open to all, only removes what an
/// earlier start left.
pub async fn run(setup: Setup, stop: CancellationToken) {
    let mut revision = setup.published.revision.subscribe();
    let mut engine = setup.engine.clone();
    let mut tick = tokio::time::interval(setup.every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut keeper = Keeper::new(&setup);
    keeper.take_over().await;
    loop {
        let asks = tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => Asks::Time,
            changed = engine.changed() => match changed {
                Ok(()) => Asks::Engine,
                Err(_) => return,
            },
            changed = revision.changed() => match changed {
                Ok(()) => Asks::View,
                Err(_) => return,
            },
        };
        if asks == Asks::View {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(GATHER) => revision.mark_unchanged(),
            }
        }
        let is_new = keeper.follow();
        if is_new || asks == Asks::Engine || asks == Asks::Time && keeper.may_differ() {
            keeper.keep().await;
        } else if asks == Asks::Time {
            keeper.report();
        }
    }
}
