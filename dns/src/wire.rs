//! Messages as octets: where their parts are, without building them.

use std::ops::Range;

/// Length of the header.
pub(crate) const HEADER: usize = 12;
/// Size of an answer that every client takes.
pub(crate) const SMALLEST: u16 = 512;
/// Largest datagram of our own, which is not fragmented (DNS flag day 2020).
pub(crate) const DATAGRAM: u16 = 1232;

// Flags in the third octet.
pub(crate) const RESPONSE: u8 = 0x80;
pub(crate) const AUTHORITATIVE: u8 = 0x04;
pub(crate) const TRUNCATED: u8 = 0x02;
pub(crate) const RECURSION_DESIRED: u8 = 0x01;
// Flags in the fourth octet.
pub(crate) const RECURSION_AVAILABLE: u8 = 0x80;
pub(crate) const AUTHENTIC: u8 = 0x20;
pub(crate) const CHECKING_DISABLED: u8 = 0x10;

/// Type of the EDNS pseudo record.
pub(crate) const OPT: u16 = 41;
/// The cookies of a client and a server (RFC 7873), in an EDNS record.
pub(crate) const COOKIE: u16 = 10;
/// Code and length of an option of EDNS.
const OPTION: usize = 4;
/// Most octets of a name.
const NAME: usize = 255;
/// Type, class, TTL and length of the data, behind the name of a record.
const FIXED: usize = 10;

/// A record's place and fixed fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: u16,
    pub(crate) ttl: u32,
    /// Offset of the TTL.
    pub(crate) ttl_at: usize,
    pub(crate) data: Range<usize>,
    /// Offset of the name.
    pub(crate) start: usize,
}

/// The two octets at an offset.
pub(crate) fn half(packet: &[u8], at: usize) -> Option<u16> {
    let octets = packet.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*octets))
}

/// The four octets at an offset.
pub(crate) fn word(packet: &[u8], at: usize) -> Option<u32> {
    let octets = packet.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*octets))
}

/// Replaces the octets at an offset, as many as there are.
pub(crate) fn patch(packet: &mut [u8], at: usize, octets: &[u8]) {
    if let Some(place) = packet.get_mut(at..at + octets.len()) {
        place.copy_from_slice(octets);
    }
}

/// End of an uncompressed name.
pub(crate) fn plain_name(packet: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        match *packet.get(at)? {
            0 if at - start < NAME => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// End of a name, which a pointer to an earlier one may end.
fn name(packet: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0.. => {
                let to = usize::from(half(packet, at)? & 0x3fff);
                return (to < at).then_some(at + 2);
            }
            _ => return None,
        }
    }
}

/// The record at an offset; none if it is not whole.
pub(crate) fn record(packet: &[u8], start: usize) -> Option<Record> {
    let fixed = name(packet, start)?;
    let data = fixed + FIXED;
    let end = data + usize::from(half(packet, fixed + 8)?);
    (end <= packet.len()).then_some(())?;
    Some(Record {
        kind: half(packet, fixed)?,
        ttl: word(packet, fixed + 4)?,
        ttl_at: fixed + 4,
        data: data..end,
        start,
    })
}

/// The EDNS record of a message; none if what is before it is not whole.
pub(crate) fn edns(packet: &[u8]) -> Option<Record> {
    let mut at = HEADER;
    for _ in 0..half(packet, 4)? {
        at = name(packet, at)? + 4;
    }
    let before = usize::from(half(packet, 6)?) + usize::from(half(packet, 8)?);
    for _ in 0..before {
        at = record(packet, at)?.data.end;
    }
    for _ in 0..half(packet, 10)? {
        let record = record(packet, at)?;
        if record.kind == OPT {
            return Some(record);
        }
        at = record.data.end;
    }
    None
}

/// The first of the options in the data of an EDNS record: its code, its data, and the options behind it.
pub(crate) fn split_option(options: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = half(options, 2)?;
    let (data, rest) = options.get(OPTION..)?.split_at_checked(length.into())?;
    Some((half(options, 0)?, data, rest))
}

/// The data of an EDNS record is whole options.
pub(crate) fn are_options(mut data: &[u8]) -> bool {
    while let Some((_, _, rest)) = split_option(data) {
        data = rest;
    }
    data.is_empty()
}

/// Appends an option to the EDNS record that is the last one, whose data begins there.
pub(crate) fn push_option(packet: &mut Vec<u8>, data_at: usize, code: u16, data: &[u8]) {
    packet.extend(code.to_be_bytes());
    packet.extend((data.len() as u16).to_be_bytes());
    packet.extend(data);
    set_length(packet, data_at);
}

/// Sets the length of the last record, whose data begins there. What is longer is no message.
pub(crate) fn set_length(packet: &mut [u8], data_at: usize) {
    let length = packet.len().saturating_sub(data_at) as u16;
    patch(packet, data_at.saturating_sub(2), &length.to_be_bytes());
}

/// An EDNS record without options.
pub(crate) fn opt(payload: u16, code_high: u8, dnssec_ok: bool) -> [u8; 11] {
    let [high, low] = payload.to_be_bytes();
    let dnssec_ok = u8::from(dnssec_ok) << 7;
    [0, 0, OPT as u8, high, low, code_high, 0, dnssec_ok, 0, 0, 0]
}

/// An answer without records that says that there are more by TCP.
pub(crate) fn truncated(query: &[u8]) -> Option<Vec<u8>> {
    let question = Question::read(query.get(HEADER..)?)?;
    let mut answer = [query.get(..HEADER)?, question.octets()].concat();
    answer[2] = (answer[2] | 0x82) & !0x04;
    answer[3] = 0;
    patch(&mut answer, 4, &[0, 1, 0, 0, 0, 0, 0, 0]);
    Some(answer)
}

/// A question: the octets of name, type and class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question(Vec<u8>);

impl Question {
    /// The question at the start of the octets, whose name must not be compressed.
    pub(crate) fn read(octets: &[u8]) -> Option<Self> {
        let end = plain_name(octets, 0)? + 4;
        Some(Self(octets.get(..end)?.to_vec()))
    }

    pub(crate) fn octets(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn kind(&self) -> u16 {
        half(&self.0, self.name_length()).unwrap_or_default()
    }

    /// Without its length; none of the root.
    pub(crate) fn first_label(&self) -> Option<&[u8]> {
        let (length, rest) = self.0.split_first()?;
        rest.get(..usize::from(*length))
            .filter(|label| !label.is_empty())
    }

    /// The same for the name below with this label; none if that is too long.
    pub(crate) fn below(&self, label: &[u8]) -> Option<Self> {
        let length = u8::try_from(label.len()).ok()?;
        Self::read(&[&[length], label, &self.0].concat())
    }

    fn name_length(&self) -> usize {
        self.0.len().saturating_sub(4)
    }

    /// With the name in lower case: names are equal in any.
    pub(crate) fn folded(&self) -> Self {
        let mut octets = self.0.clone();
        // Lengths are below the letters, but type and class are not.
        octets[..self.name_length()].make_ascii_lowercase();
        Self(octets)
    }

    /// With the case of letters by the bits of a stream, never all in lower case.
    pub(crate) fn in_random_case(&self, mut bit: impl FnMut() -> bool) -> Self {
        let mut question = self.folded();
        let length = question.name_length();
        let mut letters = question.0[..length]
            .iter_mut()
            .filter(|octet| octet.is_ascii_lowercase());
        if let Some(first) = letters.next() {
            first.make_ascii_uppercase();
        }
        letters.filter(|_| bit()).for_each(u8::make_ascii_uppercase);
        question
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &[u8] = b"\x03wWw\x02ex\x00\x00\x41\x00\x01";

    #[test]
    fn only_the_name_is_folded() {
        let question = Question::read(QUESTION).expect("a question");
        assert_eq!(question.kind(), 65);
        assert_eq!(
            question.folded().octets(),
            b"\x03www\x02ex\x00\x00\x41\x00\x01"
        );
        let upper = question.in_random_case(|| true);
        assert_eq!(upper.octets(), b"\x03WWW\x02EX\x00\x00\x41\x00\x01");
        let lower = question.in_random_case(|| false);
        assert_eq!(lower.octets(), b"\x03Www\x02ex\x00\x00\x41\x00\x01");
        assert_eq!(lower.folded(), question.folded());
    }

    #[test]
    fn a_question_has_a_plain_name_and_is_whole() {
        for wrong in [
            &QUESTION[..10],
            b"\xc0\x00\x00\x01\x00\x01",
            b"\x40x\x00\x00\x01\x00\x01",
            b"",
        ] {
            assert_eq!(Question::read(wrong), None, "{wrong:?}");
        }
        let mut long = b"\x3f".repeat(256);
        long.extend([0; 5]);
        assert_eq!(Question::read(&long), None);
    }

    #[test]
    fn a_truncated_answer_is_as_long_as_its_question() {
        let mut query = vec![1, 2, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1];
        query.extend_from_slice(QUESTION);
        query.extend_from_slice(&[0, 0, 41]);
        let answer = truncated(&query).expect("a question");
        assert_eq!(answer[..6], [1, 2, 0x83, 0, 0, 1]);
        assert_eq!(answer[6..HEADER], [0; 6]);
        assert_eq!(&answer[HEADER..], QUESTION);
        assert_eq!(truncated(&query[..HEADER]), None);
    }

    #[test]
    fn records_are_whole_and_pointers_lead_back() {
        let packet = b"\x01x\x00\xc0\x00\x00\x01\x00\x01\x00\x00\x00\x07\x00\x02ab";
        let found = record(packet, 3).expect("a record");
        assert_eq!((found.kind, found.ttl, found.ttl_at), (1, 7, 9));
        assert_eq!(&packet[found.data], b"ab");
        assert_eq!(record(&packet[..16], 3), None);
        let mut forward = *packet;
        forward[4] = 3;
        assert_eq!(record(&forward, 3), None);
    }
}
