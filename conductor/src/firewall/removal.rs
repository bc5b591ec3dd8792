//! Removes the agent's rules.

use tracing::debug;

use super::iptables::{Iptables, IptablesError};
use super::rules::{Family, removal};
use super::setup::FirewallError;

/// Removes all that an agent has set on this machine; whether there was anything.
pub async fn remove() -> Result<bool, FirewallError> {
    let found = remove_of(Family::V4).await.map_err(FirewallError::Remove)?;
    match remove_of(Family::V6).await {
        Ok(more) => Ok(found || more),
        // A kernel without IPv6 has no rules for it.
        Err(error) => {
            debug!(error = %model::error::chain(&error), "cannot look for IPv6 firewall rules");
            Ok(found)
        }
    }
}

pub(super) async fn remove_of(family: Family) -> Result<bool, IptablesError> {
    let tables = Iptables::new(family);
    let shown = match tables.shown().await {
        // Without the program nothing was ever set.
        Err(IptablesError::Missing { .. }) => return Ok(false),
        shown => shown?,
    };
    match removal(&shown) {
        None => Ok(false),
        Some(text) => tables.load(&text).await.map(|()| true),
    }
}
