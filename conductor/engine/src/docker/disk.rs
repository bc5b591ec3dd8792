//! How full the disk of an engine is, which runs on this machine.

use std::path::{Path, PathBuf};

use model::disk::DiskUsage;
use tokio::time::timeout;

use super::client::{READ, late};
use crate::EngineError;

/// Part of the path of each layer in containerd's image stores.
const SNAPSHOTTER: &str = "/io.containerd.snapshotter.";
/// What containerd is told by its administrator.
const CONFIG: &str = "/etc/containerd/config.toml";
/// Where containerd keeps images if it is told nothing.
const DEFAULT: &str = "/var/lib/containerd";

/// Where containerd keeps images, by what the root of a container's process is made of.
pub(super) fn image_store(pid: u32) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    of_mounts(&mounts)
}

/// Where it should keep them: the engine does not say, and runs no container.
pub(super) fn image_store_unseen(data_root: &str) -> PathBuf {
    // Of a containerd that the engine has started itself.
    let own = Path::new(data_root).join("containerd/daemon");
    if own.is_dir() {
        return own;
    }
    let config = std::fs::read_to_string(CONFIG).unwrap_or_default();
    of_config(&config).unwrap_or_else(|| DEFAULT.into())
}

fn of_mounts(mounts: &str) -> Option<PathBuf> {
    let root = mounts
        .lines()
        .find(|line| line.split(' ').nth(4) == Some("/"))?;
    let mut options = root.rsplit(' ').next()?.split(',');
    let layer = options.find_map(|option| option.strip_prefix("upperdir="))?;
    let (store, _) = layer.split_once(SNAPSHOTTER)?;
    Some(store.into())
}

/// `root = "…"` before the first table.
fn of_config(config: &str) -> Option<PathBuf> {
    let mut top = config
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with('['));
    let value = top.find_map(|line| line.strip_prefix("root")?.trim_start().strip_prefix('='))?;
    let value = value.trim().trim_matches(['"', '\'']);
    value.starts_with('/').then(|| value.into())
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

/// How full the file system of a folder is; none if that can't be seen. Blocks.
pub fn usage_of(folder: &Path) -> Option<DiskUsage> {
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
    fn a_containers_root_says_where_its_layers_are() {
        let mounts = |upper: &str| {
            format!(
                "2 1 0:9 / /proc rw - proc proc rw\n\
                 1 0 0:8 / / rw,relatime - overlay overlay rw,lowerdir=/a,upperdir={upper},workdir=/w\n"
            )
        };
        let of_containerd =
            mounts("/srv/ctr/io.containerd.snapshotter.v1.overlayfs/snapshots/7/fs");
        assert_eq!(of_mounts(&of_containerd), Some("/srv/ctr".into()));
        let of_docker = mounts("/var/lib/docker/overlay2/abc/diff");
        assert_eq!(of_mounts(&of_docker), None);
        assert_eq!(
            of_mounts("1 0 0:8 / / rw - btrfs /dev/sda1 rw,subvol=/x\n"),
            None
        );
    }

    #[test]
    fn the_configuration_of_containerd_says_where_it_keeps_images() {
        let config = "version = 2\n# root = '/no'\nroot = \"/srv/ctr\"\n[grpc]\nroot = '/no'\n";
        assert_eq!(of_config(config), Some("/srv/ctr".into()));
        assert_eq!(of_config("version = 2\nroot = ''\n"), None);
        assert_eq!(of_config("[plugins]\n  root = '/no'\n"), None);
        assert_eq!(of_config("rootless = '/no'\n"), None);
    }

    #[test]
    fn a_containerd_of_the_engines_own_is_below_it() {
        let root = tempfile::tempdir().expect("a directory");
        let own = root.path().join("containerd/daemon");
        std::fs::create_dir_all(&own).expect("made");
        let root = root.path().to_string_lossy();
        assert_eq!(image_store_unseen(&root), own);
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
