//! Real files in a folder of their own.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::Write as _;
use std::time::Duration;

use futures_util::StreamExt;
use manifests::ContainerId;
use tempfile::TempDir;

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// A journal with small files and a small memory, until dropped.
struct Kept {
    journal: Journal,
    stop: CancellationToken,
    writing: tokio::task::JoinHandle<()>,
}

impl Kept {
    fn open(dir: &Path, largest: u64, ring: usize) -> Self {
        let (journal, writer) = Journal::with(Some(Files::new(dir, largest)), ring);
        let stop = CancellationToken::new();
        Self {
            journal,
            writing: tokio::spawn(writer.run(stop.clone())),
            stop,
        }
    }

    /// Tells of numbers, one by one, and waits until they are kept.
    async fn tell(&self, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            self.tell_one(happened(number)).await;
        }
    }

    async fn tell_one(&self, happened: Happened) {
        let mut last = self.journal.0.last.subscribe();
        last.borrow_and_update();
        self.journal.tell([happened]);
        tokio::time::timeout(LONG, last.changed())
            .await
            .unwrap()
            .unwrap();
    }

    async fn all(&self, after: Option<i64>) -> Vec<Event> {
        let wanted = Wanted {
            after,
            ..Wanted::default()
        };
        self.journal.read(wanted).collect().await
    }

    async fn close(self) {
        self.stop.cancel();
        self.writing.await.unwrap();
    }
}

fn happened(number: u32) -> Happened {
    let slot = "shop/web".parse::<ContainerId>().unwrap().slot(number);
    Happened::of_slot(&slot, Kind::Started, "")
}

fn numbers(events: &[Event]) -> Vec<u32> {
    events.iter().filter_map(|event| event.what.slot).collect()
}

fn size(dir: &TempDir) -> u64 {
    let files = std::fs::read_dir(dir.path()).unwrap();
    files.map(|f| f.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn events_outlive_the_process_and_their_ids_rise() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::open(dir.path(), 1 << 20, 100);
    kept.tell(0..5).await;
    kept.close().await;
    let kept = Kept::open(dir.path(), 1 << 20, 100);
    kept.tell(5..10).await;
    let all = kept.all(None).await;
    assert_eq!(numbers(&all), (0..10).collect::<Vec<_>>());
    assert!(all.windows(2).all(|two| two[0].id < two[1].id), "{all:?}");
    let behind = kept.all(Some(all[3].id)).await;
    assert_eq!(behind, all[4..]);
    assert_eq!(kept.all(Some(all[9].id)).await, []);
    kept.close().await;
}

#[tokio::test]
async fn the_files_are_bounded_and_the_oldest_go() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::open(dir.path(), 2_000, 4);
    kept.tell(0..100).await;
    assert!(size(&dir) <= 4_000, "{}", size(&dir));
    let all = numbers(&kept.all(None).await);
    assert!(all.len() > 10 && all.len() < 60, "{all:?}");
    let first = 100 - all.len() as u32;
    assert_eq!(all, (first..100).collect::<Vec<_>>(), "the newest, whole");
    kept.close().await;
}

#[tokio::test]
async fn a_torn_line_is_passed_over_and_takes_no_other_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::open(dir.path(), 1 << 20, 100);
    kept.tell(0..3).await;
    kept.close().await;
    let path = dir.path().join("events.jsonl");
    let mut file = std::fs::File::options().append(true).open(path).unwrap();
    file.write_all(br#"{"id":9,"at":1,"ki"#).unwrap();
    let kept = Kept::open(dir.path(), 1 << 20, 100);
    kept.tell(3..6).await;
    assert_eq!(numbers(&kept.all(None).await), [0, 1, 2, 3, 4, 5]);
    kept.close().await;
    let kept = Kept::open(dir.path(), 1 << 20, 100);
    assert_eq!(numbers(&kept.all(None).await), [0, 1, 2, 3, 4, 5]);
    kept.close().await;
}

#[tokio::test]
async fn who_follows_gets_each_event_once_while_files_change_under_him() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::open(dir.path(), 2_000, 4);
    kept.tell(0..10).await;
    let wanted = Wanted {
        follow: true,
        ..Wanted::default()
    };
    let mut following = Box::pin(kept.journal.read(wanted));
    let mut seen = Vec::new();
    for round in 1..=10 {
        // The reader has begun with files that are renamed and deleted meanwhile; it lags behind what memory holds.
        kept.tell(round * 10..round * 10 + 8).await;
        for _ in 0..8 {
            let next = tokio::time::timeout(LONG, following.next()).await.unwrap();
            seen.push(next.unwrap());
        }
    }
    assert!(seen.windows(2).all(|two| two[0].id < two[1].id));
    let behind = kept.all(Some(seen.last().unwrap().id)).await;
    assert_eq!(numbers(&behind).last(), Some(&107));
    kept.close().await;
}

#[tokio::test]
async fn only_what_is_wanted_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::open(dir.path(), 1 << 20, 2);
    // Each is waited for: the next one would be taken for it.
    kept.tell_one(Happened::here(Kind::EngineBack, "")).await;
    kept.tell(0..4).await;
    let of = |app: &str| Wanted {
        app: Some(app.parse().unwrap()),
        ..Wanted::default()
    };
    let shop: Vec<Event> = kept.journal.read(of("shop")).collect().await;
    assert_eq!(numbers(&shop), [0, 1, 2, 3]);
    assert_eq!(kept.journal.read(of("other")).count().await, 0);
    kept.close().await;
}

#[tokio::test]
async fn without_a_folder_the_last_ones_are_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    // A file where the folder should be: root may write anywhere else.
    let no_folder = dir.path().join("file");
    std::fs::write(&no_folder, "").unwrap();
    let kept = Kept::open(&no_folder, 1 << 20, 4);
    kept.tell(0..10).await;
    assert_eq!(numbers(&kept.all(None).await), [6, 7, 8, 9]);
    // When it is there, it is used.
    std::fs::remove_file(&no_folder).unwrap();
    std::fs::create_dir(&no_folder).unwrap();
    kept.tell(10..12).await;
    kept.close().await;
    let kept = Kept::open(&no_folder, 1 << 20, 4);
    assert_eq!(numbers(&kept.all(None).await), [10, 11]);
    kept.close().await;
}

#[tokio::test]
async fn who_tells_never_waits_and_what_was_dropped_is_counted() {
    let (journal, writer) = Journal::in_memory();
    for number in 0..WAITING as u32 + 7 {
        journal.tell([happened(number)]);
    }
    let stop = CancellationToken::new();
    let writing = tokio::spawn(writer.run(stop.clone()));
    let mut following = Box::pin(journal.read(Wanted {
        follow: true,
        ..Wanted::default()
    }));
    let mut dropped = None;
    while dropped.is_none() {
        let next = tokio::time::timeout(LONG, following.next()).await.unwrap();
        dropped = next.filter(|event| event.what.kind == Kind::Dropped);
    }
    assert!(dropped.unwrap().what.message.starts_with("7 events"));
    stop.cancel();
    writing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_is_few_lines() {
    let (journal, writer) = Journal::in_memory();
    let stop = CancellationToken::new();
    let writing = tokio::spawn(writer.run(stop.clone()));
    let mut following = Box::pin(journal.read(Wanted {
        follow: true,
        ..Wanted::default()
    }));
    for _ in 0..50 {
        journal.tell([happened(0)]);
    }
    let mut times = Vec::new();
    while times.iter().sum::<u32>() < 50 {
        times.push(following.next().await.unwrap().times);
    }
    assert_eq!(times, [1, 1, 1, 47]);
    stop.cancel();
    writing.await.unwrap();
}
