//! How full the disk of an engine is, which runs on this machine.

use std::path::{Path, PathBuf};

use bollard::models::SystemInfo;
use model::disk::DiskUsage;
use tokio::time::timeout;

use super::client::{READ, late};
use crate::EngineError;

/// Where containerd keeps images; the engine does not say.
const CONTAINERD: &str = "/var/lib/containerd";

/// Where an engine keeps images and containers.
pub(super) fn folders(info: &SystemInfo) -> Vec<PathBuf> {
    let root = info.docker_root_dir.iter().map(PathBuf::from);
    let status = info.driver_status.iter().flatten();
    let in_containerd = status
        .flatten()
        .any(|text| text.starts_with("io.containerd.snapshotter"));
    root.chain(in_containerd.then(|| PathBuf::from(CONTAINERD)))
        .collect()
}

/// How full the fullest of their file systems is; none if none of them can be seen.
pub(super) async fn usage(folders: Vec<PathBuf>) -> Result<Option<DiskUsage>, EngineError> {
    let looking = tokio::task::spawn_blocking(move || {
        let usages = folders.iter().filter_map(|folder| usage_of(folder));
        usages.max_by_key(|usage| usage.percent())
    });
    // A file system of a server that is away answers nobody.
    match timeout(READ, looking).await {
        Ok(usage) => usage.map_err(|error| EngineError::Engine(error.to_string())),
        Err(_) => Err(late(READ)),
    }
}

fn usage_of(folder: &Path) -> Option<DiskUsage> {
    let shown = rustix::fs::statvfs(folder).ok()?;
    Some(DiskUsage {
        used: shown.f_blocks.saturating_sub(shown.f_bfree) * shown.f_frsize,
        available: shown.f_bavail * shown.f_frsize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_store_of_containerd_is_looked_at_too() {
        let mut info = SystemInfo {
            docker_root_dir: Some("/srv/docker".to_owned()),
            driver_status: Some(vec![vec!["Backing Filesystem".into(), "extfs".into()]]),
            ..SystemInfo::default()
        };
        assert_eq!(folders(&info), [Path::new("/srv/docker")]);
        let of_containerd = ["driver-type", "io.containerd.snapshotter.v1"].map(str::to_owned);
        info.driver_status = Some(vec![of_containerd.into()]);
        assert_eq!(
            folders(&info),
            [Path::new("/srv/docker"), Path::new(CONTAINERD)]
        );
    }

    #[tokio::test]
    async fn what_is_not_here_is_not_known() {
        let here = PathBuf::from("/");
        let elsewhere = PathBuf::from("/nonexistent/docker");
        assert_eq!(usage(vec![elsewhere.clone()]).await, Ok(None));
        let seen = usage(vec![elsewhere, here]).await;
        assert!(seen.is_ok_and(|usage| usage.is_some()));
    }
}
