//! Two files of one JSON value a line: the present one, and the one before it.
//!
//! Lines are not synced one by one: after a power cut the last ones may be
//! missing or torn. A line that can't be read is passed over.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use model::events::{Event, Wanted};
use store::state_file;

/// The present file, in the state directory.
const FILE: &str = "events.jsonl";
/// The one before it.
const OLDER: &str = "events.old.jsonl";
/// Where the last id is looked for.
const TAIL: u64 = 64 << 10;
/// Events that are read at a time.
const SOME: usize = 256;

/// The files. One process writes them.
#[derive(Debug)]
pub(super) struct Files {
    present: PathBuf,
    older: PathBuf,
    largest: u64,
    /// None before the first line, and after a trouble.
    file: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    length: u64,
}

impl Files {
    /// Those of a state directory. It is not touched before the first line.
    pub(super) fn new(folder: &Path, largest: u64) -> Self {
        Self {
            present: folder.join(FILE),
            older: folder.join(OLDER),
            largest,
            file: None,
        }
    }

    /// Id of the last event; 0 without one.
    pub(super) fn last_id(&self) -> i64 {
        [&self.present, &self.older]
            .into_iter()
            .find_map(|path| last_id_of(path).ok().flatten())
            .unwrap_or_default()
    }

    /// Writes whole lines. After an error the next call begins anew.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut open = match self.file.take() {
            Some(open) => open,
            None => Open::at(&self.present)?,
        };
        if open.length > 0 && open.length + lines.len() as u64 > self.largest {
            std::fs::rename(&self.present, &self.older)?;
            open = Open::at(&self.present)?;
        }
        open.file.write_all(lines)?;
        open.length += lines.len() as u64;
        self.file = Some(open);
        Ok(())
    }

    /// Events behind `after` up to `upto`, as they are now: a file that is renamed meanwhile stays open.
    pub(super) fn past(&self, after: i64, upto: i64) -> Past {
        let files = [&self.present, &self.older]
            .into_iter()
            .filter_map(|path| File::open(path).ok())
            .map(BufReader::new)
            .collect();
        Past { files, after, upto }
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let mut file = state_file::append(path)?;
        let mut length = file.metadata()?.len();
        let mut end = [b'\n'];
        if length > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut end)?;
        }
        if end != [b'\n'] {
            // A torn line ends here, so that it takes no other with it.
            file.write_all(b"\n")?;
            length += 1;
        }
        Ok(Self { file, length })
    }
}

fn last_id_of(path: &Path) -> io::Result<Option<i64>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let events = tail.split(|byte| *byte == b'\n').filter_map(read);
    Ok(events.map(|event| event.id).max())
}

fn read(line: &[u8]) -> Option<Event> {
    serde_json::from_slice(line).ok()
}

/// What the files have, read piece by piece.
#[derive(Debug)]
pub(super) struct Past {
    /// The oldest is the last one.
    files: Vec<BufReader<File>>,
    after: i64,
    upto: i64,
}

impl Past {
    /// Behind this, files are not read.
    pub(super) fn upto(&self) -> i64 {
        self.upto
    }

    /// The next ones that are wanted; none at the end.
    pub(super) fn some(&mut self, wanted: &Wanted) -> Vec<Event> {
        let mut events = Vec::new();
        let mut line = Vec::new();
        while events.len() < SOME
            && let Some(file) = self.files.last_mut()
        {
            line.clear();
            match file.read_until(b'\n', &mut line) {
                Ok(length) if length > 0 => {}
                // Its end; or a disk that gives no more.
                _ => {
                    self.files.pop();
                    continue;
                }
            }
            let Some(event) = read(&line) else { continue };
            if event.id > self.after && event.id <= self.upto {
                self.after = event.id;
                if wanted.takes(&event) {
                    events.push(event);
                }
            }
        }
        events
    }
}
