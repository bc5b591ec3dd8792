//! An archive on this host's disk while it comes: written once, and read by many who follow its growth.
//!
//! Invariant: what is read ends without an error only where all of it was
//! written. The file has no name: nothing is left of it when the last reader has
//! gone or the agent has ended, however that happens.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use engine::Archive;
use futures_util::{StreamExt, stream};
use rustix::fs::{CWD, Mode, OFlags};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::super::SpoolPlace;

/// Chunks that are written at once, if they have come already.
const CHUNKS: usize = 64;
/// Bytes that are read at once.
const READ: u64 = 256 << 10;
/// How full the disk is is looked at again after so many bytes.
const LOOK: u64 = 64 << 20;

/// How much of the archive is there.
#[derive(Debug, Clone, Copy, Default)]
struct Written {
    bytes: u64,
    /// That is all of it.
    whole: bool,
}

/// The one who writes. Dropped before all is written, it fails all who read.
pub(in super::super) struct Writer {
    file: Arc<File>,
    place: SpoolPlace,
    written: watch::Sender<Written>,
}

/// What has been written so far. Cheap to clone.
#[derive(Clone)]
pub(in super::super) struct Spool {
    file: Arc<File>,
    written: watch::Receiver<Written>,
}

/// A file for an archive of about so many bytes; an error if the disk has no room for it and the image.
pub(in super::super) async fn open(place: &SpoolPlace, bytes: u64) -> io::Result<(Writer, Spool)> {
    let place = place.clone();
    spawn_blocking(move || {
        check_room(&place, bytes.saturating_mul(2))?;
        let file = Arc::new(unnamed(&place.folder)?);
        let (sender, receiver) = watch::channel(Written::default());
        let spool = Spool {
            file: file.clone(),
            written: receiver,
        };
        let writer = Writer {
            file,
            place,
            written: sender,
        };
        Ok((writer, spool))
    })
    .await?
}

fn unnamed(folder: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(file.into())
}

/// An error if so many bytes more made the disk as full as it may be before images are removed.
fn check_room(place: &SpoolPlace, bytes: u64) -> io::Result<()> {
    match engine::usage_of(&place.folder) {
        Some(usage) if usage.has_room(bytes, place.limits.collect) => Ok(()),
        _ => Err(io::ErrorKind::StorageFull.into()),
    }
}

impl Writer {
    /// Writes the archive down as it comes, to its end.
    pub(in super::super) async fn fill(self, archive: Archive) -> io::Result<()> {
        let mut groups = archive.ready_chunks(CHUNKS);
        let mut looked = 0;
        while let Some(group) = groups.next().await {
            let group: Vec<Bytes> = group.into_iter().collect::<io::Result<_>>()?;
            let bytes: u64 = group.iter().map(|chunk| chunk.len() as u64).sum();
            looked += bytes;
            let place = (looked >= LOOK).then(|| self.place.clone());
            if place.is_some() {
                looked = 0;
            }
            let file = self.file.clone();
            spawn_blocking(move || {
                place.map_or(Ok(()), |place| check_room(&place, 0))?;
                group.iter().try_for_each(|chunk| (&*file).write_all(chunk))
            })
            .await??;
            self.written.send_modify(|written| written.bytes += bytes);
        }
        self.written.send_modify(|written| written.whole = true);
        Ok(())
    }
}

impl Spool {
    /// The archive from its beginning; waits for what is not there yet.
    pub(in super::super) fn read(&self) -> Archive {
        let state = Some((self.clone(), 0));
        Box::pin(stream::unfold(state, async |state| {
            let (mut spool, at) = state?;
            match spool.next(at).await.transpose()? {
                Ok(bytes) => {
                    let at = at + bytes.len() as u64;
                    Some((Ok(bytes), Some((spool, at))))
                }
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    /// What comes after so many bytes; none at the end.
    async fn next(&mut self, at: u64) -> io::Result<Option<Bytes>> {
        let broken = || io::Error::other("this host gets no more of it");
        let is_over = self.written.has_changed().is_err();
        if is_over && !self.written.borrow().whole {
            return Err(broken());
        }
        let more = |written: &Written| written.bytes > at || written.whole;
        let written = self.written.wait_for(more).await.map(|written| *written);
        let len = written.map_err(|_| broken())?.bytes - at;
        if len == 0 {
            return Ok(None);
        }
        let file = self.file.clone();
        let read = spawn_blocking(move || {
            let mut bytes = vec![0; len.min(READ) as usize];
            file.read_exact_at(&mut bytes, at)?;
            io::Result::Ok(Bytes::from(bytes))
        });
        read.await?.map(Some)
    }
}

#[cfg(test)]
mod tests;
