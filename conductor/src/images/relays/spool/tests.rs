#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use model::disk::DiskLimits;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::*;

type Source = UnboundedSender<io::Result<Bytes>>;

fn place(below: u8) -> (TempDir, SpoolPlace) {
    let folder = tempfile::tempdir().unwrap();
    let place = SpoolPlace {
        folder: folder.path().to_owned(),
        limits: DiskLimits {
            collect: below,
            full: below,
        },
    };
    (folder, place)
}

fn source() -> (Source, Archive) {
    let (sender, receiver) = unbounded_channel();
    let chunks = stream::unfold(receiver, async |mut receiver| {
        let chunk = receiver.recv().await?;
        Some((chunk, receiver))
    });
    (sender, Box::pin(chunks))
}

fn send(source: &Source, text: &'static str) {
    let chunk = Bytes::from_static(text.as_bytes());
    source.send(Ok(chunk)).unwrap();
}

async fn all(archive: Archive) -> io::Result<Vec<u8>> {
    let chunks: Vec<io::Result<Bytes>> = archive.collect().await;
    let chunks: Vec<Bytes> = chunks.into_iter().collect::<io::Result<_>>()?;
    Ok(chunks.concat())
}

#[tokio::test]
async fn readers_follow_its_growth_from_its_beginning_to_its_end() {
    let (folder, place) = place(u8::MAX);
    let (writer, spool) = open(&place, 1).await.unwrap();
    let (sender, archive) = source();
    let filling = tokio::spawn(writer.fill(archive));
    let mut early = spool.read();
    send(&sender, "one ");
    assert_eq!(early.next().await.unwrap().unwrap(), "one ");
    let late = spool.read();
    send(&sender, "two ");
    send(&sender, "three");
    drop(sender);
    assert_eq!(all(early).await.unwrap(), b"two three");
    filling.await.unwrap().unwrap();
    assert_eq!(all(late).await.unwrap(), b"one two three");
    assert_eq!(all(spool.read()).await.unwrap(), b"one two three");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_breaks_off_fails_all_who_read_it() {
    let (_folder, place) = place(u8::MAX);
    for lost in [true, false] {
        let (writer, spool) = open(&place, 1).await.unwrap();
        let (sender, archive) = source();
        let filling = tokio::spawn(writer.fill(archive));
        let mut early = spool.read();
        send(&sender, "one ");
        early.next().await.unwrap().unwrap();
        if lost {
            let lost = io::Error::other("connection lost");
            sender.send(Err(lost)).unwrap();
            filling.await.unwrap().unwrap_err();
        } else {
            filling.abort();
            assert!(filling.await.is_err());
        }
        assert!(early.next().await.unwrap().is_err());
        assert!(early.next().await.is_none());
        // Also those who had not read what there was.
        all(spool.read()).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_disk_that_is_too_full_gets_none_and_no_more_of_one() {
    let (_folder, full) = place(0);
    let refused = open(&full, 1).await.err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    let (_folder, room) = place(u8::MAX);
    assert!(open(&room, u64::MAX).await.is_err());

    let (mut writer, spool) = open(&room, 1).await.unwrap();
    writer.place.limits = full.limits;
    let zeros = Bytes::from(vec![0; 1 << 20]);
    let archive = stream::iter(0..=LOOK >> 20).map(move |_| Ok(zeros.clone()));
    let filled = writer.fill(Box::pin(archive)).await;
    assert_eq!(filled.unwrap_err().kind(), io::ErrorKind::StorageFull);
    all(spool.read()).await.unwrap_err();
}
