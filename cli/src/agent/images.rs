//! Images between this host and the others.

use std::sync::Arc;

use async_trait::async_trait;
use conductor::Published;
use conductor::images::{Images, OtherHosts};
use engine::{Archive, EngineError};
use gateway::peer::{ImageServer, PeerClient};
use gateway::v1::HostError;
use manifests::{HostName, Manifest};
use model::Snapshot;
use model::images::{OfferedImage, WantedArchive, WantedImage};
use uuid::Uuid;

/// This host's images, for the others.
pub(super) struct ServedImages(pub(super) Images);

#[async_trait]
impl ImageServer for ServedImages {
    async fn offer(&self, wanted: &WantedImage) -> Result<Option<OfferedImage>, HostError> {
        self.0.offer(wanted).await.map_err(host_error)
    }

    async fn archive(&self, wanted: &WantedArchive) -> Result<Option<Archive>, HostError> {
        self.0.archive(wanted).await.map_err(host_error)
    }
}

fn host_error(error: EngineError) -> HostError {
    match error {
        EngineError::NotFound(_) => HostError::NotFound,
        error => HostError::Engine(error.to_string()),
    }
}

/// The others' images, for this host.
pub(super) struct PeerImages {
    pub(super) host: HostName,
    pub(super) client: Arc<PeerClient>,
    pub(super) published: Arc<Published>,
}

#[async_trait]
impl OtherHosts for PeerImages {
    fn hosts(&self, image: &str) -> Vec<HostName> {
        let seen = self.published.seen.load();
        let Some(seen) = seen.as_ref() else {
            return Vec::new();
        };
        let snapshot = &seen.snapshot;
        let live = snapshot.live();
        let mut hosts: Vec<(bool, Uuid, &HostName)> = live
            .filter(|(host, record)| record.peer.is_some() && **host != self.host)
            // Not all of those who ask begin with the same host.
            .map(|(host, _)| (!runs(snapshot, host, image), Uuid::new_v4(), host))
            .collect();
        hosts.sort_unstable();
        hosts.into_iter().map(|(_, _, host)| host.clone()).collect()
    }

    async fn offer(
        &self,
        host: &HostName,
        wanted: &WantedImage,
    ) -> Result<Option<OfferedImage>, String> {
        self.client.offered_image(host, wanted).await
    }

    async fn archive(
        &self,
        host: &HostName,
        wanted: &WantedArchive,
    ) -> Result<Option<Archive>, String> {
        self.client.image_archive(host, wanted).await
    }
}

/// A slot of a container of this image is the host's.
fn runs(snapshot: &Snapshot, host: &HostName, image: &str) -> bool {
    snapshot.containers.values().any(|container| {
        let mut versions = container.versions.values();
        let named = |manifest: &Arc<Manifest>| manifest.image == image;
        let is_of_image = versions.any(|version| version.manifest.as_ref().is_some_and(named));
        let mut claims = container
            .slots
            .values()
            .filter_map(|slot| slot.claim.as_ref());
        is_of_image && claims.any(|claim| claim.host == *host)
    })
}
