//! The messages of `sock_diag(7)`: a request for sockets, and the parts of its answer.
//!
//! Pure: bytes in, bytes out. Whatever the bytes are, nothing beyond them is
//! read; what does not hold together is an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use manifests::manifest::Protocol;

/// Length of `nlmsghdr`.
const HEADER: usize = 16;
/// Length of `inet_diag_req_v2`.
const REQUEST: usize = 56;
/// Length of `inet_diag_msg`; attributes may follow it.
const SOCKET: usize = 72;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 0x001;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// State of a connected TCP socket.
const TCP_ESTABLISHED: u8 = 1;
/// State of a listening TCP socket.
const TCP_LISTEN: u8 = 10;
/// State of a UDP socket that is bound and not connected.
const TCP_CLOSE: u8 = 7;

/// The addresses that a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// Which sockets are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Those that take traffic from anybody.
    Open(Protocol),
    /// TCP connections.
    Connected,
}

/// Why an answer is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswerError {
    /// The kernel says no, with this errno.
    Refused(i32),
    /// The bytes do not hold together.
    Malformed,
}

/// A request for all sockets of this kind. The kernel walks its table of them, which has those of all namespaces.
pub(super) fn request(sequence: u32, wanted: Wanted, family: Family) -> [u8; HEADER + REQUEST] {
    let mut bytes = any(sequence, wanted, family);
    bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes
}

/// A request for the one socket that takes connections to this TCP port at any address. An IPv6 socket that takes IPv4,
/// too, is found as one of IPv4. Where there is none, it is refused with `ENOENT`.
pub(super) fn request_listener(sequence: u32, port: u16) -> [u8; HEADER + REQUEST] {
    let mut bytes = any(sequence, Wanted::Open(Protocol::Tcp), Family::V4);
    bytes[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    bytes[HEADER + 8..HEADER + 10].copy_from_slice(&port.to_be_bytes());
    // `INET_DIAG_NOCOOKIE`: whichever socket it is.
    bytes[HEADER + 48..].fill(0xff);
    bytes
}

/// What all requests have.
fn any(sequence: u32, wanted: Wanted, family: Family) -> [u8; HEADER + REQUEST] {
    let number: u8 = match wanted {
        Wanted::Open(Protocol::Tcp) | Wanted::Connected => 6,
        Wanted::Open(Protocol::Udp) => 17,
    };
    let family = match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    };
    let states = 1_u32 << state(wanted);
    let mut bytes = [0; HEADER + REQUEST];
    bytes[..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bytes[HEADER] = family;
    bytes[HEADER + 1] = number;
    bytes[HEADER + 4..HEADER + 8].copy_from_slice(&states.to_ne_bytes());
    bytes
}

/// Reads what one receive gave of the answer to the request of that number: tells the local address of each socket, and
/// says whether the answer is complete.
pub(super) fn read_part(
    mut bytes: &[u8],
    sequence: u32,
    wanted: Wanted,
    each: &mut dyn FnMut(SocketAddr),
) -> Result<bool, AnswerError> {
    while !bytes.is_empty() {
        let length = u32_at(bytes, 0).ok_or(AnswerError::Malformed)? as usize;
        let message = bytes.get(..length).ok_or(AnswerError::Malformed)?;
        let body = message.get(HEADER..).ok_or(AnswerError::Malformed)?;
        // The last one may lack its padding.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        if u32_at(message, 8) != Some(sequence) {
            continue;
        }
        match u16::from_ne_bytes([message[4], message[5]]) {
            SOCK_DIAG_BY_FAMILY => {
                let socket = body.get(..SOCKET).ok_or(AnswerError::Malformed)?;
                if socket[1] == state(wanted)
                    && let Some(address) = local_address(socket)
                {
                    each(address);
                }
            }
            NLMSG_ERROR => {
                let code = u32_at(body, 0).ok_or(AnswerError::Malformed)?;
                refusal(code)?;
            }
            NLMSG_DONE => {
                // How the dump ended, where the kernel says it.
                refusal(u32_at(body, 0).unwrap_or_default())?;
                return Ok(true);
            }
            NLMSG_OVERRUN => return Err(AnswerError::Malformed),
            _ => {}
        }
    }
    Ok(false)
}

/// The state of those that are wanted.
fn state(wanted: Wanted) -> u8 {
    match wanted {
        Wanted::Open(Protocol::Tcp) => TCP_LISTEN,
        Wanted::Open(Protocol::Udp) => TCP_CLOSE,
        Wanted::Connected => TCP_ESTABLISHED,
    }
}

/// Of an `inet_diag_msg`; ports and addresses are in network order. None for an unknown family.
fn local_address(socket: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(socket.get(4..6)?.try_into().ok()?);
    let ip: IpAddr = match *socket.first()? {
        AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(socket.get(8..12)?).ok()?).into(),
        AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(socket.get(8..24)?).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Errors are told as a negated errno.
fn refusal(code: u32) -> Result<(), AnswerError> {
    let code = code.cast_signed();
    if code < 0 {
        Err(AnswerError::Refused(code.saturating_neg()))
    } else {
        Ok(())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOOP: u16 = 1;

    fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let length = (HEADER + body.len()) as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(2_u16.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// With an attribute after it, as the kernel sends it.
    fn socket(local: &str, state: u8) -> Vec<u8> {
        let local: SocketAddr = local.parse().expect("an address");
        let mut body = [0; SOCKET + 5];
        body[1] = state;
        body[4..6].copy_from_slice(&local.port().to_be_bytes());
        match local.ip() {
            IpAddr::V4(ip) => {
                body[0] = AF_INET;
                body[8..12].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                body[0] = AF_INET6;
                body[8..24].copy_from_slice(&ip.octets());
            }
        }
        body[SOCKET..].copy_from_slice(&[5, 0, 8, 0, 0]);
        message(SOCK_DIAG_BY_FAMILY, 1, &body)
    }

    fn done(code: i32) -> Vec<u8> {
        message(NLMSG_DONE, 1, &code.to_ne_bytes())
    }

    fn read(bytes: &[u8]) -> Result<(bool, Vec<String>), AnswerError> {
        let mut seen = Vec::new();
        let complete = read_part(bytes, 1, Wanted::Open(Protocol::Tcp), &mut |address| {
            seen.push(address.to_string());
        })?;
        Ok((complete, seen))
    }

    #[test]
    fn a_request_names_family_protocol_and_state() {
        let bytes = request(7, Wanted::Open(Protocol::Udp), Family::V6);
        assert_eq!(bytes.len(), 72);
        assert_eq!(u32_at(&bytes, 0), Some(72));
        assert_eq!(u32_at(&bytes, 8), Some(7));
        assert_eq!(bytes[HEADER..HEADER + 4], [10, 17, 0, 0]);
        assert_eq!(u32_at(&bytes, HEADER + 4), Some(1 << 7));
        let bytes = request(1, Wanted::Open(Protocol::Tcp), Family::V4);
        assert_eq!(bytes[HEADER..HEADER + 4], [2, 6, 0, 0]);
        assert_eq!(u32_at(&bytes, HEADER + 4), Some(1 << 10));
        let bytes = request(1, Wanted::Connected, Family::V4);
        assert_eq!(bytes[HEADER..HEADER + 4], [2, 6, 0, 0]);
        assert_eq!(u32_at(&bytes, HEADER + 4), Some(1 << 1));
    }

    #[test]
    fn a_listener_is_asked_for_by_its_port_and_any_address() {
        let bytes = request_listener(3, 0x1f90);
        assert_eq!(bytes.len(), 72);
        assert_eq!(bytes[6..8], NLM_F_REQUEST.to_ne_bytes());
        assert_eq!(u32_at(&bytes, 8), Some(3));
        assert_eq!(bytes[HEADER..HEADER + 2], [2, 6]);
        assert_eq!(bytes[HEADER + 8..HEADER + 10], [0x1f, 0x90]);
        assert!(
            bytes[HEADER + 10..HEADER + 48]
                .iter()
                .all(|byte| *byte == 0)
        );
        assert_eq!(bytes[HEADER + 48..], [0xff; 8]);
    }

    #[test]
    fn an_answer_comes_in_parts_until_it_is_done() {
        let first = [
            socket("0.0.0.0:80", TCP_LISTEN),
            socket("[2001:db8::1]:443", TCP_LISTEN),
        ]
        .concat();
        let seen = ["0.0.0.0:80", "[2001:db8::1]:443"].map(ToOwned::to_owned);
        assert_eq!(read(&first), Ok((false, seen.to_vec())));
        let second = [socket("127.0.0.1:9", TCP_LISTEN), done(0)].concat();
        assert_eq!(read(&second), Ok((true, vec!["127.0.0.1:9".to_owned()])));
        assert_eq!(read(&[]), Ok((false, vec![])));
    }

    #[test]
    fn what_was_not_asked_for_is_passed_over() {
        let mut other_family = socket("0.0.0.0:80", TCP_LISTEN);
        other_family[HEADER] = 1;
        let mut other_request = socket("0.0.0.0:81", TCP_LISTEN);
        other_request[8] = 9;
        let bytes = [
            other_family,
            other_request,
            message(NLMSG_ERROR, 9, &(-2_i32).to_ne_bytes()),
            message(NLMSG_DONE, 9, &[]),
            message(NOOP, 1, &[]),
            message(NLMSG_ERROR, 1, &0_i32.to_ne_bytes()),
            socket("0.0.0.0:82", TCP_CLOSE),
            socket("0.0.0.0:83", TCP_LISTEN),
            // Older kernels do not say how it ended.
            message(NLMSG_DONE, 1, &[]),
            socket("0.0.0.0:84", TCP_LISTEN),
        ];
        assert_eq!(
            read(&bytes.concat()),
            Ok((true, vec!["0.0.0.0:83".to_owned()]))
        );
    }

    #[test]
    fn a_refusal_is_told_at_once_or_at_the_end() {
        let refused = Err(AnswerError::Refused(2));
        let at_once = message(
            NLMSG_ERROR,
            1,
            &[(-2_i32).to_ne_bytes().as_slice(), &[0; 72]].concat(),
        );
        assert_eq!(read(&at_once), refused);
        assert_eq!(read(&done(-2)), refused);
        assert_eq!(read(&done(i32::MIN)), Err(AnswerError::Refused(i32::MAX)));
    }

    #[test]
    fn bytes_that_do_not_hold_together_are_an_error_at_any_length() {
        let bytes = [socket("0.0.0.0:80", TCP_LISTEN), done(0)].concat();
        let boundary = bytes.len() - HEADER - 4;
        // The padding of the first message may be missing.
        let unpadded = boundary - 3..=boundary;
        for length in (1..bytes.len()).filter(|length| !unpadded.contains(length)) {
            let expected = Err(AnswerError::Malformed);
            assert_eq!(read(&bytes[..length]), expected, "{length} bytes");
        }
        for length in [0, 1, 15, 1_000, u32::MAX - 2, u32::MAX] {
            let mut bytes = bytes.clone();
            bytes[..4].copy_from_slice(&u32::to_ne_bytes(length));
            assert_eq!(read(&bytes), Err(AnswerError::Malformed), "{length}");
        }
        for short in [
            message(SOCK_DIAG_BY_FAMILY, 1, &[2; SOCKET - 1]),
            message(NLMSG_ERROR, 1, &[0; 3]),
            message(NLMSG_OVERRUN, 1, &[]),
        ] {
            assert_eq!(read(&short), Err(AnswerError::Malformed));
        }
    }

    #[test]
    fn any_byte_may_be_another() {
        let bytes = [socket("[::]:80", TCP_LISTEN), done(0)].concat();
        for at in 0..bytes.len() {
            for value in [0, 1, 2, 3, 4, 16, 20, 0x7f, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                // Whatever comes of it: at most one socket is in there.
                if let Ok((_, seen)) = read(&bytes) {
                    assert!(seen.len() <= 1);
                }
            }
        }
    }
}
