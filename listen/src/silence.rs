//! Peers that vanish while data is under way to them.
//!
//! The kernel sends no keepalive probes then, and sends the data again for some 15 minutes before it gives up.
//! `TCP_USER_TIMEOUT` is sooner, but it also ends a peer that keeps its window closed for so long, though it acknowledges
//! every probe: an upload to an endpoint that is busy for minutes. So the connection is looked at: it has ended if data
//! was sent again, and the peer has sent nothing at all, for as long as keepalive would have waited. With a closed window
//! everything that was sent is acknowledged, and each probe is: there several probes without an answer say the same.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

/// What the kernel has heard of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heard {
    /// Time since the last packet.
    silence: Duration,
    /// Data was sent again, or a closed window was asked for again and again, without an answer.
    sends_again: bool,
}

impl Heard {
    /// When to look again; none if the peer is gone.
    fn next_look(self, limit: Duration) -> Option<Duration> {
        match limit.checked_sub(self.silence) {
            Some(left) if !left.is_zero() => Some(left),
            _ if self.sends_again => None,
            // A closed window is probed every two minutes at least.
            _ => Some(limit / 4),
        }
    }
}

/// Returns when the peer of one of these connections is gone.
pub async fn gone(streams: &[&impl AsFd], limit: Duration) -> io::Error {
    loop {
        let mut pause = limit;
        for stream in streams {
            // Without an answer it is left to the kernel.
            let Ok(heard) = heard(*stream) else { continue };
            match heard.next_look(limit) {
                Some(next) => pause = pause.min(next),
                None => return io::ErrorKind::TimedOut.into(),
            }
        }
        tokio::time::sleep(pause).await;
    }
}

fn heard(stream: &impl AsFd) -> io::Result<Heard> {
    let info = tcp_info::read(stream.as_fd().as_raw_fd())?;
    // Offsets in `struct tcp_info`, which only grows at its end.
    let milliseconds = |at: usize| {
        let [a, b, c, d] = [info[at], info[at + 1], info[at + 2], info[at + 3]];
        Duration::from_millis(u32::from_ne_bytes([a, b, c, d]).into())
    };
    let (last_data, last_ack) = (milliseconds(52), milliseconds(56));
    Ok(Heard {
        silence: last_data.min(last_ack),
        // `tcpi_retransmits` and `tcpi_probes`; of a live peer one probe may be under way.
        sends_again: info[2] > 0 || info[3] > 2,
    })
}

#[expect(
    unsafe_code,
    reason = "TCP_INFO is offered as a C function, and by no crate that is used here"
)]
mod tcp_info {
    use std::ffi::{c_int, c_void};
    use std::io;
    use std::os::fd::RawFd;

    const IPPROTO_TCP: c_int = 6;
    const TCP_INFO: c_int = 11;
    /// Up to `tcpi_last_ack_recv`.
    pub(super) const LENGTH: usize = 60;

    unsafe extern "C" {
        fn getsockopt(
            fd: c_int,
            level: c_int,
            name: c_int,
            value: *mut c_void,
            length: *mut u32,
        ) -> c_int;
    }

    pub(super) fn read(fd: RawFd) -> io::Result<[u8; LENGTH]> {
        let mut info = [0; LENGTH];
        let mut length = LENGTH as u32;
        let value = info.as_mut_ptr().cast();
        // SAFETY: the kernel writes at most `length` bytes to `value`, which has as many, and both live for the call.
        if unsafe { getsockopt(fd, IPPROTO_TCP, TCP_INFO, value, &raw mut length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if length as usize != LENGTH {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use socket2::{SockFilter, SockRef};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(120);
    /// A filter that lets no packet through.
    const DROP: SockFilter = SockFilter::new(0x06, 0, 0, 0);

    #[test]
    fn a_peer_is_gone_that_is_silent_while_data_is_sent_again() {
        let next = |silence, sends_again| {
            let silence = Duration::from_secs(silence);
            let heard = Heard {
                silence,
                sends_again,
            };
            heard.next_look(LIMIT).map(|next| next.as_secs())
        };
        assert_eq!(next(0, false), Some(120));
        assert_eq!(next(50, false), Some(70));
        assert_eq!(next(119, true), Some(1));
        assert_eq!(next(120, true), None);
        assert_eq!(next(500, true), None);
        assert_eq!(next(500, false), Some(30), "its window is closed");
    }

    async fn pair() -> io::Result<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (ours, theirs) = tokio::join!(
            TcpStream::connect(listener.local_addr()?),
            listener.accept()
        );
        Ok((ours?, theirs?.0))
    }

    #[tokio::test]
    async fn a_peer_that_gets_nothing_is_gone_and_one_that_reads_nothing_is_not() -> io::Result<()>
    {
        let limit = Duration::from_millis(500);
        let (mut lost, lost_peer) = pair().await?;
        let (paused, mut paused_peer) = pair().await?;
        // As behind a cable that was pulled: its kernel drops what comes.
        SockRef::from(&lost_peer).attach_filter(&[DROP])?;
        lost.write_all(b"question").await?;
        // Until its window is closed.
        while paused.try_write(&[0; 4_096]).is_ok() {}

        let (lost, paused) = (&lost, &paused);
        let (streams, both) = ([paused], [paused, lost]);
        let mut of_paused = pin!(gone(&streams, limit));
        tokio::select! {
            error = gone(&both, limit) => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
            _ = &mut of_paused => panic!("it acknowledges"),
        }
        assert!(heard(lost)?.silence >= limit);
        let first = tokio::select! {
            byte = paused_peer.read_u8() => byte?,
            _ = &mut of_paused => panic!("it acknowledges"),
        };
        assert_eq!(first, 0);
        // Its window is still closed, and now it is lost, too.
        SockRef::from(&paused_peer).attach_filter(&[DROP])?;
        let error = tokio::time::timeout(LIMIT, gone(&streams, limit)).await;
        assert_eq!(
            error.map(|error| error.kind()).ok(),
            Some(io::ErrorKind::TimedOut)
        );
        Ok(())
    }
}
