//! Questions over UDP, from one socket, and how long their answers take.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::services::{DOMAIN, name};

/// An answer that has not come so long after the last one is lost.
const LOST: Duration = Duration::from_secs(1);
/// Room for answers while this process waits for a processor.
const BUFFER: usize = 8 << 20;
const HEADER: usize = 12;

/// Types of records.
pub(super) const A: u8 = 1;
pub(super) const AAAA: u8 = 28;

/// Packets that ask each service for a type of records.
pub(super) struct Questions(Vec<Vec<u8>>);

/// When the next question is asked.
#[derive(Clone, Copy)]
pub(super) enum Pace {
    /// So many are under way at any time.
    Window(u64),
    /// So many a second, evenly.
    Rate(u64),
}

/// What came of it.
pub(super) struct Load {
    pub(super) sent: u64,
    /// Seconds from the first to the last of them.
    pub(super) sent_in: f64,
    /// Milliseconds of each answer, from when its question was due; sorted.
    pub(super) took: Vec<f32>,
}

impl Load {
    pub(super) fn answered(&self) -> u64 {
        self.took.len() as u64
    }
}

/// Slower than 99 of 100, of sorted ones.
pub(super) fn p99(took: &[f32]) -> f64 {
    let slow = took.get(took.len() * 99 / 100);
    slow.map_or(f64::NAN, |slow| f64::from(*slow))
}

impl Questions {
    pub(super) fn new(services: usize, kind: u8) -> Self {
        let question = |service| question(service, kind);
        Self((0..services).map(question).collect())
    }

    /// Asks a server for so long, of all services in turns that jump about.
    pub(super) fn ask(
        &self,
        server: SocketAddr,
        pace: Pace,
        lasts: Duration,
    ) -> anyhow::Result<Load> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        set_socket_recv_buffer_size_force(&socket, BUFFER)?;
        let begin = Instant::now();
        let (mut sent, mut sent_in, mut heard) = (0, Duration::ZERO, Duration::ZERO);
        // By the number that question and answer have in common.
        let mut due = vec![None; 1 << 16];
        let mut took = Vec::new();
        let (mut packet, mut answer, mut next) = (Vec::new(), [0; 4096], 0);
        loop {
            let now = begin.elapsed();
            let allowed = match pace {
                Pace::Rate(rate) => (now.min(lasts).as_secs_f64() * rate as f64) as u64,
                Pace::Window(open) if now < lasts => took.len() as u64 + open,
                Pace::Window(_) => sent,
            };
            let may_send = sent < allowed;
            if may_send {
                let number = sent as u16;
                next = (next + 7_919) % self.0.len();
                packet.clone_from(&self.0[next]);
                packet[..2].copy_from_slice(&number.to_be_bytes());
                match socket.send(&packet) {
                    Ok(_) => {
                        due[usize::from(number)] = Some(match pace {
                            Pace::Rate(rate) => Duration::from_secs_f64(sent as f64 / rate as f64),
                            Pace::Window(_) => now,
                        });
                        (sent, sent_in) = (sent + 1, now);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error).context("a question is not sent"),
                }
            }
            match socket.recv(&mut answer) {
                Ok(length) if length < HEADER => bail!("an answer of {length} octets"),
                Ok(_) => {
                    heard = begin.elapsed();
                    let number = u16::from_be_bytes([answer[0], answer[1]]);
                    if let Some(due) = due[usize::from(number)].take() {
                        took.push(heard.saturating_sub(due).as_secs_f32() * 1e3);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let all_sent = now >= lasts && !may_send;
                    let is_late = now > heard.max(sent_in) + LOST;
                    if all_sent && (took.len() as u64 == sent || is_late) {
                        break;
                    }
                    if !may_send {
                        std::thread::yield_now();
                    }
                }
                Err(error) => return Err(error).context("no answer is received"),
            }
        }
        took.sort_by(f32::total_cmp);
        Ok(Load {
            sent,
            sent_in: sent_in.as_secs_f64(),
            took,
        })
    }
}

/// One question, and what comes back within a moment.
pub(super) fn ask_once(server: SocketAddr, service: usize) -> Result<Vec<u8>, String> {
    let ask = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        socket.send(&question(service, A))?;
        let mut answer = vec![0; 4096];
        let length = socket.recv(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    };
    ask().map_err(|error: std::io::Error| error.to_string())
}

/// The question for records of a service.
fn question(service: usize, kind: u8) -> Vec<u8> {
    let mut packet = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name(service).split('.').chain(DOMAIN.split('.')) {
        packet.push(label.len() as u8);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&[0, 0, kind, 0, 1]);
    packet
}
