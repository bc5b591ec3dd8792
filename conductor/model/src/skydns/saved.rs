//! Records on disk, so that an agent which starts while etcd is away has the last known ones.
//!
//! A line of JSON for each, in SkyDNS's own words, behind one that says whose they are and how many: a torn or foreign file
//! is none.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Records, parse};

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    cluster: Uuid,
    records: usize,
}

impl Records {
    /// Writes the first of them by path, as far as their lines have no more than `most` octets; says how many are left out.
    pub fn write(&self, cluster: Uuid, most: usize, out: &mut impl Write) -> io::Result<usize> {
        let mut lines = Vec::new();
        let mut records = 0;
        for (path, record) in &self.table {
            let before = lines.len();
            serde_json::to_writer(&mut lines, &(path, parse::fields(record)))?;
            lines.push(b'\n');
            if lines.len() > most {
                lines.truncate(before);
                break;
            }
            records += 1;
        }
        serde_json::to_writer(&mut *out, &Head { cluster, records })?;
        out.write_all(b"\n")?;
        out.write_all(&lines)?;
        Ok(self.len() - records)
    }

    /// Reads what was written for this cluster; none if that is another one's. They are as good as confirmed by nobody.
    /// A torn file is an error, and one of another release whose records are none here.
    pub fn read(cluster: Uuid, from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut lines = from.lines();
        let head = lines.next().transpose()?.unwrap_or_default();
        let head: Head = serde_json::from_str(&head)?;
        if head.cluster != cluster {
            return Ok(None);
        }
        let mut records = Self {
            is_saved: true,
            ..Self::default()
        };
        for line in lines {
            let (path, fields): (String, Map<String, Value>) = serde_json::from_str(&line?)?;
            let path = super::path(&format!("{}{path}", manifests::keys::SKYDNS));
            let path = path.ok_or_else(|| invalid("a path that is none"))?;
            let record = parse::record(fields).map_err(invalid)?;
            records.table.insert_mut(path, record.into());
        }
        if records.len() != head.records {
            return Err(invalid("it does not have as many records as it says"));
        }
        Ok(Some(records))
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
