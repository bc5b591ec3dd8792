//! A short way for the commonest questions, those for the addresses of a name.
//!
//! They are read and answered as octets, and the answers are those of the long
//! way through the library. Where that has more to do, there is no short way.
//! That a name has no address of a type is such an answer, too: most resolvers
//! ask for both types, and most services have one.

use hickory_proto::rr::RecordType;

use crate::wire::{
    self, AUTHENTIC, AUTHORITATIVE, CHECKING_DISABLED, DATAGRAM, HEADER, RECURSION_AVAILABLE,
    RECURSION_DESIRED, RESPONSE, SMALLEST,
};

/// Most labels below the domain that instances have.
const LABELS: usize = 4;
/// More addresses are not short.
const MOST: u8 = 32;
/// Longest name, in octets.
const NAME: usize = 255;
/// Offset of the low octet of the number of answers.
const ANSWERS: usize = 7;
/// The same for those of the section that says whose zone it is.
const AUTHORITIES: usize = 9;
/// The first two bits of an offset in the place of a name.
const POINTER: u16 = 0xc000;
/// Type SOA, class IN.
const SOA: [u8; 4] = [0, 6, 0, 1];
/// Octets of a record before an address.
const RECORD: usize = 12;
/// In the place of a name: that of the question.
const SAME_NAME: [u8; 2] = [0xc0, HEADER as u8];
/// The one flag of EDNS.
const DNSSEC_OK: u8 = 0x80;

/// A question for addresses.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    id: [u8; 2],
    flags: [u8; 2],
    name: &'a [u8],
    kind_and_class: [u8; 4],
    pub(crate) kind: RecordType,
    edns: Option<Edns>,
}

#[derive(Debug)]
struct Edns {
    payload: u16,
    flags: u8,
}

impl<'a> Question<'a> {
    pub(crate) fn read(message: &'a [u8]) -> Option<Self> {
        let (header, rest) = message.split_first_chunk::<HEADER>()?;
        let [id @ .., high, low, 0, 1, 0, 0, 0, 0, 0, additional] = *header else {
            return None;
        };
        let is_plain =
            high & !RECURSION_DESIRED == 0 && low & !(AUTHENTIC | CHECKING_DISABLED) == 0;
        let (name, rest) = rest.split_at_checked(wire::plain_name(rest, 0)?)?;
        let (kind_and_class, rest) = rest.split_first_chunk::<4>()?;
        let kind = match kind_and_class {
            [0, 1, 0, 1] => RecordType::A,
            [0, 28, 0, 1] => RecordType::AAAA,
            _ => return None,
        };
        let edns = match (additional, rest) {
            (0, []) => None,
            (1, [0, 0, 41, high, low, 0, 0, flags, 0, 0, 0]) => Some(Edns {
                payload: u16::from_be_bytes([*high, *low]),
                flags: *flags,
            }),
            _ => return None,
        };
        let is_usual = |edns: &Edns| edns.payload >= SMALLEST && edns.flags & !DNSSEC_OK == 0;
        (is_plain && edns.as_ref().is_none_or(is_usual)).then_some(Self {
            id,
            flags: [high, low],
            name,
            kind_and_class: *kind_and_class,
            kind,
            edns,
        })
    }

    /// The labels below a domain, in lower case, each behind its length; the domain as octets.
    pub(crate) fn labels_below(&self, domain: &[u8]) -> Option<Labels> {
        let length = self.name.len().checked_sub(domain.len())?;
        let (labels, rest) = self.name.split_at(length);
        let mut octets = [0; NAME];
        octets.get_mut(..length)?.copy_from_slice(labels);
        // Lengths are below the letters. That a label ends where the domain begins is seen when they are split.
        octets[..length].make_ascii_lowercase();
        rest.eq_ignore_ascii_case(domain)
            .then_some(Labels { octets, length })
    }

    /// Writes the answer with these addresses, which are of the type that is asked for, and returns their number; none if
    /// it is long. Without one it is not an answer.
    pub(crate) fn answer<const N: usize>(
        &self,
        addrs: impl IntoIterator<Item = [u8; N]>,
        ttl: u32,
        answer: &mut Vec<u8>,
    ) -> Option<u8> {
        self.begin(answer);
        let (records, record) = (answer.len(), RECORD + N);
        let mut count = 0;
        for addr in addrs {
            if count == MOST {
                return None;
            }
            let before = answer[records..].chunks_exact(record);
            // Each once.
            if before.clone().any(|record| record.ends_with(&addr)) {
                continue;
            }
            count += 1;
            answer.extend(SAME_NAME);
            answer.extend(self.kind_and_class);
            answer.extend(ttl.to_be_bytes());
            answer.extend([0, N as u8]);
            answer.extend(addr);
        }
        wire::patch(answer, ANSWERS, &[count]);
        self.end(answer);
        (answer.len() <= SMALLEST.into()).then_some(count)
    }

    /// Writes the answer that the name has no record of the type, with the SOA of the domain (RFC 2308, 2.2).
    pub(crate) fn no_data(&self, soa: &Soa<'_>, answer: &mut Vec<u8>) {
        self.begin(answer);
        wire::patch(answer, AUTHORITIES, &[1]);
        let labels = self.name.len().saturating_sub(soa.domain.len());
        let domain = (POINTER | (HEADER + labels) as u16).to_be_bytes();
        answer.extend(domain);
        answer.extend(SOA);
        answer.extend(soa.ttl.to_be_bytes());
        let length = answer.len();
        answer.extend([0, 0]);
        for label in [soa.name_server, soa.contact] {
            answer.push(label.len() as u8);
            answer.extend(label.as_bytes());
            answer.extend(domain);
        }
        for number in soa.numbers {
            answer.extend(number.to_be_bytes());
        }
        let octets = answer.len() - length - 2;
        wire::patch(answer, length, &(octets as u16).to_be_bytes());
        self.end(answer);
    }

    /// All before the records.
    fn begin(&self, answer: &mut Vec<u8>) {
        let [high, low] = self.flags;
        answer.clear();
        answer.extend(self.id);
        answer.push(RESPONSE | AUTHORITATIVE | high);
        answer.push(RECURSION_AVAILABLE | (low & CHECKING_DISABLED));
        answer.extend([0, 1, 0, 0, 0, 0, 0, self.edns.is_some().into()]);
        answer.extend(self.name);
        answer.extend(self.kind_and_class);
    }

    fn end(&self, answer: &mut Vec<u8>) {
        if let Some(edns) = &self.edns {
            answer.extend([0, 0, 41]);
            answer.extend(edns.payload.min(DATAGRAM).to_be_bytes());
            answer.extend([0, 0, edns.flags, 0, 0, 0]);
        }
    }
}

/// The record of a domain in which the question's name is.
#[derive(Debug)]
pub(crate) struct Soa<'a> {
    /// As octets.
    pub(crate) domain: &'a [u8],
    pub(crate) ttl: u32,
    /// Labels below the domain.
    pub(crate) name_server: &'a str,
    pub(crate) contact: &'a str,
    /// Serial, refresh, retry, expire, minimum.
    pub(crate) numbers: [u32; 5],
}

/// Labels in lower case, each behind its length.
#[derive(Debug)]
pub(crate) struct Labels {
    octets: [u8; NAME],
    length: usize,
}

impl Labels {
    pub(crate) fn octets(&self) -> &[u8] {
        self.octets.get(..self.length).unwrap_or_default()
    }

    /// Looks with each as text.
    pub(crate) fn split<T>(&self, look: impl FnOnce(&[&str]) -> Option<T>) -> Option<T> {
        let mut rest = self.octets();
        let mut labels = [""; LABELS];
        let mut count = 0;
        while let Some((length, more)) = rest.split_first() {
            let (label, more) = more.split_at_checked((*length).into())?;
            *labels.get_mut(count)? = std::str::from_utf8(label).ok()?;
            (rest, count) = (more, count + 1);
        }
        look(labels.get(..count)?)
    }
}
