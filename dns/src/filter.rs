//! Packet filter of the UDP sockets.

use socket2::{SockFilter, SockRef};
use tokio::net::UdpSocket;
use tracing::debug;

use crate::message::MAX_QUESTIONS;

/// Classic BPF: loads a half word of the packet.
const LOAD_HALF: u16 = 0x28;
/// Jumps if it is greater.
const IF_GREATER: u16 = 0x25;
/// Returns the number of bytes to deliver.
const RETURN: u16 = 0x06;
/// Offset of the number of questions: after the UDP header, the id and the flags.
const QUESTIONS: u32 = 8 + 4;

/// Drops packets that announce more than [`MAX_QUESTIONS`].
///
/// The library allocates for as many as are announced, 14 MB for 65,535; the
/// RSS of an agent grew by 22 MB.
pub(crate) fn attach(socket: &UdpSocket) {
    let filter = [
        SockFilter::new(LOAD_HALF, 0, 0, QUESTIONS),
        SockFilter::new(IF_GREATER, 0, 1, MAX_QUESTIONS.into()),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    if let Err(error) = SockRef::from(socket).attach_filter(&filter) {
        debug!(%error, "packet filter not attached; malformed queries may cost memory");
    }
}
