//! Cookies of EDNS (RFC 7873): a client that shows a cookie of ours receives what is sent to its address.
//!
//! A server's cookie is made of the client's, the time and the client's address (RFC 9018), so no client costs memory. The
//! secret is of one start: no two hosts answer at the same address, and who comes with a cookie of the agent before
//! gets a new one.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use hickory_proto::op::ResponseCode;
use siphasher::sip::SipHasher24;

use crate::wire::{self, COOKIE, DATAGRAM, HEADER, TRUNCATED};

/// Octets of the cookie of a client.
const CLIENTS: usize = 8;
/// Octets of both: the client's, version, three that are reserved, time, hash.
const BOTH: usize = 24;
/// Octets of both but for the hash, which is made of them.
const HASHED: usize = 16;
/// Octets of a server's cookie, of any server.
const OF_SERVERS: std::ops::RangeInclusive<usize> = 8..=32;
const VERSION: u8 = 1;
/// Age in seconds up to which a cookie proves the address; clocks of one server may go back a little.
const VALID: std::ops::RangeInclusive<i32> = -300..=3600;
/// Age in seconds from which on the client gets a new one.
const OLD: i32 = 1800;

/// A cookie of a length that none has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// What a client has shown; none if it has no cookie.
pub(crate) type Shown = Option<Result<Cookie, Malformed>>;

/// The cookies of a client and of this server for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cookie {
    octets: [u8; BOTH],
    proof: Proof,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// The client has shown none of a server.
    None,
    /// It is not ours, or not for this client any more.
    Wrong,
    /// It is ours.
    Valid,
}

impl Cookie {
    /// Both, as the client is to get them.
    pub(crate) fn octets(&self) -> &[u8; BOTH] {
        &self.octets
    }

    /// The client is at the address that its packet says.
    pub(crate) fn is_proof(&self) -> bool {
        self.proof == Proof::Valid
    }

    /// Of the answer to who asks for nothing but a cookie (RFC 7873, 5.4).
    pub(crate) fn code(&self) -> ResponseCode {
        match self.proof {
            Proof::Wrong => ResponseCode::BADCOOKIE,
            Proof::None | Proof::Valid => ResponseCode::NoError,
        }
    }

    /// An answer that says nothing but "come again with this cookie"; none without a question.
    pub(crate) fn refusal(&self, query: &[u8]) -> Option<Vec<u8>> {
        let code = ResponseCode::BADCOOKIE;
        let mut answer = wire::truncated(query)?;
        answer[2] &= !TRUNCATED;
        answer[3] = code.low();
        answer[HEADER - 1] = 1;
        answer.extend(wire::opt(DATAGRAM, code.high(), false));
        let options = answer.len();
        self.push(&mut answer, options);
        Some(answer)
    }

    /// Appends both to a message that ends with an EDNS record, whose options begin there.
    pub(crate) fn push(&self, message: &mut Vec<u8>, options: usize) {
        wire::push_option(message, options, COOKIE, &self.octets);
    }
}

/// Makes and knows the cookies of this server.
#[derive(Debug)]
pub(crate) struct Cookies(SipHasher24);

impl Cookies {
    /// With a secret that nobody knows.
    pub(crate) fn new() -> Self {
        // Keyed by what the operating system gives for it.
        let random = RandomState::new();
        let mut secret = [0; 16];
        for (place, half) in secret.chunks_exact_mut(8).zip(0_u8..) {
            place.copy_from_slice(&random.hash_one(half).to_ne_bytes());
        }
        Self::with(&secret)
    }

    fn with(secret: &[u8; 16]) -> Self {
        Self(SipHasher24::new_with_key(secret))
    }

    /// Looks at what a client has in the option, `now` in seconds since 1970.
    pub(crate) fn look(
        &self,
        option: &[u8],
        client: IpAddr,
        now: u32,
    ) -> Result<Cookie, Malformed> {
        let (clients, servers) = option.split_first_chunk::<CLIENTS>().ok_or(Malformed)?;
        if servers.is_empty() {
            let octets = self.made(*clients, client, now);
            return Ok(Cookie {
                octets,
                proof: Proof::None,
            });
        }
        if !OF_SERVERS.contains(&servers.len()) {
            return Err(Malformed);
        }
        let shown = option.first_chunk::<BOTH>();
        let shown = shown.filter(|both| both.len() == option.len());
        let valid = shown.and_then(|both| Some((both, self.age(both, client, now)?)));
        Ok(Cookie {
            octets: match valid {
                Some((both, age)) if age <= OLD => *both,
                _ => self.made(*clients, client, now),
            },
            proof: match valid {
                Some(_) => Proof::Valid,
                None => Proof::Wrong,
            },
        })
    }

    /// Seconds since it was made; none if it was not, or is out of date.
    fn age(&self, both: &[u8; BOTH], client: IpAddr, now: u32) -> Option<i32> {
        let (begin, hash) = both.split_first_chunk::<HASHED>()?;
        let made = wire::word(begin, HASHED - 4)?;
        // Times wrap around (RFC 1982).
        let age = now.wrapping_sub(made).cast_signed();
        let is_ours = begin[CLIENTS] == VERSION
            && VALID.contains(&age)
            && self.hash(begin, client).to_le_bytes() == hash;
        is_ours.then_some(age)
    }

    fn made(&self, clients: [u8; CLIENTS], client: IpAddr, now: u32) -> [u8; BOTH] {
        let mut both = [0; BOTH];
        both[..CLIENTS].copy_from_slice(&clients);
        both[CLIENTS] = VERSION;
        both[HASHED - 4..HASHED].copy_from_slice(&now.to_be_bytes());
        let hash = self.hash(&both[..HASHED], client);
        both[HASHED..].copy_from_slice(&hash.to_le_bytes());
        both
    }

    fn hash(&self, begin: &[u8], client: IpAddr) -> u64 {
        let mut hasher = self.0;
        hasher.write(begin);
        match client.to_canonical() {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()),
        }
        hasher.finish()
    }
}

/// What a message has in the option for cookies, the first one where it has several.
pub(crate) fn option(message: &[u8]) -> Option<&[u8]> {
    let mut options = message.get(wire::edns(message)?.data)?;
    while let Some((code, data, rest)) = wire::split_option(options) {
        if code == COOKIE {
            return Some(data);
        }
        options = rest;
    }
    None
}

/// A message without cookies, which are for one hop; none where that would change more: EDNS is not its last record, as in
/// one that is signed, or its options are not whole.
pub(crate) fn without(message: &[u8]) -> Option<Vec<u8>> {
    let data = wire::edns(message)?.data;
    let (before, mut options) = message.split_at_checked(data.start)?;
    if data.end != message.len() || !wire::are_options(options) {
        return None;
    }
    let mut without = before.to_vec();
    while let Some((code, _, rest)) = wire::split_option(options) {
        if code != COOKIE {
            without.extend(&options[..options.len() - rest.len()]);
        }
        options = rest;
    }
    wire::set_length(&mut without, data.start);
    Some(without)
}

/// The time of cookies.
pub(crate) fn now() -> u32 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |since| since.as_secs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(hex: &str) -> Vec<u8> {
        let pairs = hex.as_bytes().chunks(2);
        let octet = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        pairs.map(|pair| octet(pair).expect("hex")).collect()
    }

    fn cookies(secret: &str) -> Cookies {
        Cookies::with(octets(secret).first_chunk().expect("16 octets"))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    const SECRET: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";

    /// RFC 9018, appendix A: what is shown, when it was made, and what is answered when.
    #[test]
    fn the_hashes_are_those_of_the_rfc() {
        let (first, second) = ("198.51.100.100", "203.0.113.203");
        for (client, shown, made, now, answered) in [
            (
                first,
                "2464c4abcf10c957",
                0,
                1_559_731_985,
                "2464c4abcf10c957010000005cf79f111f8130c3eee29480",
            ),
            (
                first,
                "2464c4abcf10c957010000005cf79f111f8130c3eee29480",
                1_559_731_985,
                1_559_734_385,
                "2464c4abcf10c957010000005cf7a871d4a564a1442aca77",
            ),
            // The reserved octets are not zero, and hashed.
            (
                second,
                "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5",
                1_559_727_985,
                1_559_734_700,
                "fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e",
            ),
        ] {
            let look = |now| cookies(SECRET).look(&octets(shown), ip(client), now);
            let answer = look(now).expect("well-formed");
            assert_eq!(answer.octets()[..], octets(answered), "{shown}");
            let is_proof = look(made).expect("well-formed").is_proof();
            assert_eq!(is_proof, made > 0, "{shown}");
        }
        let client = ip("2001:db8:220:1:59de:d0f4:8769:82b8");
        let shown = octets("22681ab97d52c298010000005cf7c57926556bd0934c72f8");
        let look = |secret| {
            let cookie = cookies(secret).look(&shown, client, 1_559_741_961);
            cookie.expect("well-formed")
        };
        assert!(look("dd3bdf9344b678b185a6f5cb60fca715").is_proof());
        let with_another = look("445536bcd2513298075a5d379663c962");
        assert!(!with_another.is_proof());
        let answered = "22681ab97d52c298010000005cf7c609a6bb79d16625507a";
        assert_eq!(with_another.octets()[..], octets(answered));
    }

    #[test]
    fn a_cookie_is_for_one_client_and_an_hour() {
        let (all, client) = (cookies(SECRET), ip("192.0.2.1"));
        let made = 1_000_000_u32;
        let look = |shown: &[u8], client, now| all.look(shown, client, now).expect("well-formed");
        let first = look(&[7; 8], client, made);
        assert_eq!(
            (first.is_proof(), first.code()),
            (false, ResponseCode::NoError)
        );
        for (age, is_proof, is_same) in [
            (-301, false, false),
            (-300, true, true),
            (0, true, true),
            (1800, true, true),
            (1801, true, false),
            (3600, true, false),
            (3601, false, false),
        ] {
            let now = made.wrapping_add_signed(age);
            let again = look(first.octets(), client, now);
            assert_eq!(again.is_proof(), is_proof, "{age}");
            assert_eq!(again.octets() == first.octets(), is_same, "{age}");
            assert!(look(again.octets(), client, now).is_proof(), "{age}");
        }
        assert!(look(first.octets(), ip("::ffff:192.0.2.1"), made).is_proof());
        let others = look(first.octets(), ip("192.0.2.2"), made);
        assert_eq!(
            (others.is_proof(), others.code()),
            (false, ResponseCode::BADCOOKIE)
        );
        for at in 0..BOTH {
            let mut changed = *first.octets();
            changed[at] ^= 1;
            assert!(!look(&changed, client, made).is_proof(), "{at}");
        }
        let of_another = Cookies::new().look(first.octets(), client, made);
        assert!(!of_another.expect("well-formed").is_proof());
    }

    #[test]
    fn the_time_wraps_around() {
        let (all, client) = (cookies(SECRET), ip("::1"));
        let first = all.look(&[1; 8], client, u32::MAX - 5).expect("one");
        let again = all.look(first.octets(), client, 10).expect("one");
        assert!(again.is_proof());
    }

    #[test]
    fn a_length_that_no_cookie_has_is_malformed() {
        let all = Cookies::new();
        for length in 0..=48 {
            let looked = all.look(&vec![0; length], ip("::1"), 0);
            let is_legal = length == 8 || (16..=40).contains(&length);
            assert_eq!(looked.is_ok(), is_legal, "{length}");
        }
    }

    #[test]
    fn a_refusal_has_the_question_and_both_cookies() {
        let mut query = vec![1, 2, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1];
        query.extend_from_slice(b"\x01x\x00\x00\x01\x00\x01");
        query.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8]);
        query.extend_from_slice(&[7; 8]);
        let cookie = Cookies::new().look(&[7; 8], ip("::1"), 0).expect("one");
        let answer = cookie.refusal(&query).expect("a question");
        // 23: 7 in the header, 1 in EDNS.
        assert_eq!(answer[..HEADER], [1, 2, 0x81, 7, 0, 1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(
            answer[19..34],
            [0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 28, 0, 10, 0, 24]
        );
        assert_eq!(answer[34..], *cookie.octets());
        assert!(answer.len() <= query.len() + 16);
    }
}
