//! The records on disk: the next agent has them before etcd answers.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::skydns::Records;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::state_file;

/// Octets of records in the file, at most: some 100,000 of them.
const MOST: usize = 16 << 20;
/// Time that changes are gathered for.
const EVERY: Duration = Duration::from_secs(5);

/// Where the records of a cluster are.
#[derive(Debug, Clone)]
pub struct Saved {
    path: PathBuf,
    cluster: Uuid,
}

impl Saved {
    /// In this file.
    pub fn new(path: PathBuf, cluster: Uuid) -> Self {
        Self { path, cluster }
    }

    /// What is there. What can't be read costs the records until etcd answers, nothing else: said.
    pub fn load(&self) -> Records {
        let path = self.path.display();
        match read(&self.path, self.cluster) {
            Ok(Some(records)) => {
                info!(
                    records = records.len(),
                    "the last known records under /skydns are in DNS"
                );
                records
            }
            Ok(None) => Records::default(),
            Err(error) => {
                warn!(%path, %error, "the last known records under /skydns can't be read");
                Records::default()
            }
        }
    }

    /// Writes the records a while after each change, and at the end.
    pub(super) async fn keep(self, mut records: watch::Receiver<Records>, stop: CancellationToken) {
        let mut is_cut = false;
        // As it is on disk. Registrars put the same values again every few seconds.
        let mut before = None;
        // What has changed when it is to stop is written, too.
        while matches!(
            stop.run_until_cancelled(records.changed()).await,
            Some(Ok(()))
        ) || records.has_changed().unwrap_or_default()
        {
            stop.run_until_cancelled(sleep(EVERY)).await;
            let now = records.borrow_and_update().clone();
            if before.as_ref() == Some(&now) {
                continue;
            }
            before = Some(now.clone());
            let (path, cluster) = (self.path.clone(), self.cluster);
            let written = spawn_blocking(move || write(&path, cluster, &now)).await;
            let left_out = match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(left_out) => left_out,
                Err(error) => {
                    let path = self.path.display();
                    warn!(%path, %error, "the records under /skydns are not saved");
                    before = None;
                    continue;
                }
            };
            // Said once, as long as it lasts.
            if left_out > 0 && !is_cut {
                warn!(
                    left_out,
                    most = MOST,
                    "not all records under /skydns are saved"
                );
            }
            is_cut = left_out > 0;
        }
    }
}

fn read(path: &Path, cluster: Uuid) -> io::Result<Option<Records>> {
    match File::open(path) {
        Ok(file) => Records::read(cluster, &mut BufReader::new(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Says how many are left out. Most hosts have none, and no file.
fn write(path: &Path, cluster: Uuid, records: &Records) -> io::Result<usize> {
    if records.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(0),
        };
    }
    let mut left_out = 0;
    state_file::replace_with(path, |file| {
        left_out = records.write(cluster, MOST, file)?;
        Ok(())
    })?;
    Ok(left_out)
}
