//! The state of an instance, as other hosts read it.

use model::VersionId;
use std::time::Duration;

use model::observed::{ContainerPort, ObservedContainer};
use model::records::{Phase, SlotState};
use model::snapshot::ContainerView;

use crate::inputs::Inputs;

/// An adopted instance that others know as ready is looked at this long before that is taken back.
pub(crate) const ADOPT: Duration = Duration::from_secs(5);

/// State of an instance of the version `rev` on this host.
pub(crate) fn state(
    inputs: &Inputs<'_>,
    view: &ContainerView,
    rev: VersionId,
    container: &ObservedContainer,
    phase: Phase,
) -> SlotState {
    let ports = view
        .manifest_of(rev)
        .into_iter()
        .flat_map(|m| &m.services)
        .filter_map(|(name, service)| {
            let inside = ContainerPort {
                port: service.port,
                protocol: service.protocol,
            };
            Some((name.clone(), container.ports.get(&inside)?.port()))
        })
        .collect();
    SlotState {
        instance: container.owner.instance.clone(),
        state: phase,
        addr: inputs.host.surroundings.host_ip,
        ports,
    }
}
