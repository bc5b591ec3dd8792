//! What fuzzing has found worth keeping, and packets that differ from it a little: `scripts/fuzz.sh` goes further.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::fuzzing;

/// Packets for each side, made of those in the corpus: less than a minute in all.
const PACKETS: usize = 10_000;
/// Most octets of one.
const MOST: usize = 4_096;

fn corpus(target: &str) -> Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut files: Vec<_> = fs::read_dir(folder.join(target))?.collect::<Result<_, _>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    let all: Vec<_> = files
        .iter()
        .map(|file| fs::read(file.path()))
        .collect::<Result<_, _>>()?;
    ensure!(!all.is_empty(), "no corpus of {target}");
    Ok(all)
}

/// A pseudo-random sequence (xorshift), the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }

    /// One of them, with parts of another one, other octets, other numbers, more or fewer of them.
    fn mutate(&mut self, all: &[Vec<u8>]) -> Vec<u8> {
        let mut packet = all[self.below(all.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(packet.len() + 1);
            let to = (at + self.below(40)).min(packet.len());
            match self.below(7) {
                0 => packet.truncate(at),
                1 => drop(packet.drain(at..to)),
                2 => {
                    let other = &all[self.below(all.len())];
                    let from = self.below(other.len() + 1);
                    packet.truncate(at);
                    packet.extend(&other[from..]);
                }
                3 => packet.extend_from_within(at..to),
                4 if at < to => packet[at] = [0, 1, 0x7f, 0x80, 0xc0, 0xff][self.below(6)],
                5 if at < to => packet[at] = packet[at].wrapping_add([1, 0xff][self.below(2)]),
                _ if at < to => packet[at] = self.below(256) as u8,
                _ => {}
            }
        }
        packet.truncate(MOST);
        packet
    }
}

fn run(target: &str, of: impl Fn(&[u8])) -> Result<()> {
    let all = corpus(target)?;
    for packet in &all {
        of(packet);
    }
    let mut random = Random(88_172_645_463_325_252);
    for _ in 0..PACKETS {
        of(&random.mutate(&all));
    }
    Ok(())
}

#[test]
fn queries_of_any_form_are_answered() -> Result<()> {
    run("queries", fuzzing::query)
}

#[test]
fn answers_of_any_form_are_passed_on_or_left() -> Result<()> {
    run("answers", fuzzing::answer)
}
