//! The resolver of the lab's switch: what a host's `/etc/resolv.conf` names.
//!
//! It answers the names that end in `.example` and knows nothing else, and
//! remembers what it was asked, so that a test can tell that a name of the
//! cluster's own zone was never sent to it.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;

use crate::node::Node;

/// What every name that ends in `.example` resolves to.
pub const ANSWER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

/// A running resolver.
#[derive(Debug)]
pub struct Resolver {
    asked: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    /// Starts it in a node, on port 53 of an address.
    pub fn start(node: &Node, ip: Ipv4Addr) -> anyhow::Result<Self> {
        let socket = node
            .inside(|| UdpSocket::bind((ip, 53)))?
            .context("the lab's resolver")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (asked, stop) = (Arc::clone(&asked), Arc::clone(&stop));
            move || serve(&socket, &asked, &stop)
        });
        Ok(Self {
            asked,
            stop,
            thread: Some(thread),
        })
    }

    /// The names it was asked for, in order and in lower case.
    pub fn asked(&self) -> Vec<String> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn serve(socket: &UdpSocket, asked: &Mutex<Vec<String>>, stop: &AtomicBool) {
    let mut buffer = [0; 1500];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                if let Some((name, answer)) = reply(&buffer[..length]) {
                    asked
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(name);
                    socket.send_to(&answer, from).ok();
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

/// The name asked for, and the answer.
fn reply(query: &[u8]) -> Option<(String, Vec<u8>)> {
    let mut name = String::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        name.push_str(&String::from_utf8_lossy(query.get(at..at + length)?));
        name.push('.');
        at += length;
    }
    // An agent asks in random case.
    name.make_ascii_lowercase();
    let question = query.get(12..at + 4)?;
    let kind = query.get(at..at + 2)?;
    let known = name.ends_with(".example.");
    let address = known && kind == [0, 1];
    let mut answer = query.get(..2)?.to_vec();
    // A response, recursion asked for and available; NXDOMAIN if unknown.
    answer.extend([0x81, if known { 0x80 } else { 0x83 }]);
    answer.extend([0, 1, 0, u8::from(address), 0, 0, 0, 0]);
    answer.extend(question);
    if address {
        // The name by reference, type A, class IN, 60 s, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(ANSWER.octets());
    }
    Some((name, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &[&str], kind: u8) -> Vec<u8> {
        let mut bytes = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.extend([0, 0, kind, 0, 1]);
        bytes
    }

    #[test]
    fn it_knows_one_zone() {
        let (name, answer) = reply(&query(&["wWw", "eXample"], 1)).expect("an answer");
        assert_eq!(name, "www.example.");
        assert_eq!(answer[3] & 15, 0);
        assert!(answer.ends_with(&ANSWER.octets()));
        let (_, answer) = reply(&query(&["www", "example"], 28)).expect("an answer");
        assert_eq!((answer[3] & 15, answer[7]), (0, 0));
        let (_, answer) = reply(&query(&["nowhere"], 1)).expect("an answer");
        assert_eq!(answer[3] & 15, 3);
    }
}
