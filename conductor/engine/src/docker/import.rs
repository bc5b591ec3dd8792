//! An image made of a file system.

use std::time::Duration;

use bollard::query_parameters::CreateImageOptions;
use bytes::Bytes;
use futures_util::TryStreamExt as _;

use super::client::DockerEngine;
use crate::{EngineError, Operation, parse_reference};

/// Deadline: it is written to disk as one layer.
const IMPORT: Duration = Duration::from_secs(60);

impl DockerEngine {
    /// Makes an image of this name from a tar archive of its root file system, as `docker import` does.
    pub async fn import(&self, archive: Bytes, name: &str) -> Result<(), EngineError> {
        let parsed = parse_reference(name)?;
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(parsed.familiar_repository()),
            tag: Some(parsed.version().to_owned()),
            ..CreateImageOptions::default()
        };
        let docker = self.docker().await?;
        let body = bollard::body_full(archive);
        let steps = docker.create_image(Some(options), Some(body), None);
        self.call(Operation::Other, IMPORT, steps.try_collect::<Vec<_>>())
            .await?;
        Ok(())
    }
}
