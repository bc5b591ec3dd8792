//! An answer of an upstream resolver, passed on as the octets that came.
//!
//! Only the id, flags of the client's own, the case of the question, TTLs and
//! the EDNS record are replaced. An answer belongs to the question that was
//! asked and to no other: none of its records is used by itself.

use std::io;
use std::ops::Range;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::asked::Asked;
use crate::message::invalid;
use crate::wire::{
    self, AUTHENTIC, AUTHORITATIVE, CHECKING_DISABLED, DATAGRAM, HEADER, OPT, Question,
    RECURSION_DESIRED, RESPONSE, Record, TRUNCATED,
};

/// TTL of records that are known to be out of date (RFC 8767).
pub(crate) const STALE_TTL: u32 = 30;
/// Longest time that an answer is kept.
const LONGEST: u32 = 86_400;
/// Longest time for one that says that there is nothing (RFC 2308).
const LONGEST_NEGATIVE: u32 = 3_600;
/// Time for which a resolver's failure is kept.
const FAILURE: u32 = 5;
/// Offsets of the numbers of records.
const COUNTS: Range<usize> = 6..HEADER;
const ADDITIONALS: usize = 10;
const OPCODE: u8 = 0x78;
/// Octets of an EDNS record without options.
const EMPTY_OPT: usize = 11;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    packet: Vec<u8>,
    /// End of the question.
    question_end: usize,
    /// Offsets of TTLs.
    ttls: Vec<u16>,
    /// The EDNS record.
    opt: Option<Range<usize>>,
    /// Behind the EDNS record are others.
    opt_is_inside: bool,
    /// Start of the additional section.
    additional: usize,
    code: ResponseCode,
    /// Seconds for which it may be kept; none if it may not.
    lifetime: Option<u32>,
}

/// How old an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// It came so long ago, and is true.
    Known(Duration),
    /// Its time is over.
    Stale,
}

impl Answer {
    /// The answer in a packet, if it answers the question with this id; an error if it is malformed.
    pub(super) fn read(packet: &[u8], id: u16, question: &Question) -> io::Result<Option<Self>> {
        let malformed = || invalid("malformed answer");
        if wire::half(packet, 0) != Some(id) {
            return Ok(None);
        }
        let header = packet.get(..HEADER).ok_or_else(malformed)?;
        if header[2] & RESPONSE == 0 || header[2] & OPCODE != 0 {
            return Ok(None);
        }
        let count = |at| wire::half(header, at).unwrap_or_default();
        let is_failure = header[3] & 0x0f != 0;
        match count(4) {
            1 => {
                let of = Question::read(&packet[HEADER..]).ok_or_else(malformed)?;
                if of.folded() != question.folded() {
                    return Ok(None);
                }
                Self::walk(packet.to_vec(), HEADER + of.octets().len(), question)
                    .map(Some)
                    .ok_or_else(malformed)
            }
            // Some servers leave the question out of an error.
            0 if is_failure => {
                let mut packet = [header, question.octets()].concat();
                packet[COUNTS].fill(0);
                packet[5] = 1;
                let end = packet.len();
                Ok(Self::walk(packet, end, question))
            }
            _ => Ok(None),
        }
    }

    fn walk(mut packet: Vec<u8>, question_end: usize, question: &Question) -> Option<Self> {
        let mut sections: [Vec<Record>; 3] = Default::default();
        let mut at = question_end;
        let mut additional = at;
        for (number, section) in sections.iter_mut().enumerate() {
            additional = at;
            for _ in 0..wire::half(&packet, COUNTS.start + 2 * number)? {
                let record = wire::record(&packet, at)?;
                at = record.data.end;
                section.push(record);
            }
        }
        // What is behind the records is none of them, and would be before one that is appended.
        packet.truncate(at);
        let is_opt = |record: &&Record| record.kind == OPT;
        let opt = sections[2].iter().find(is_opt);
        // Its name is the root (RFC 6891, 6.1.2).
        if opt.is_some_and(|opt| packet.get(opt.start) != Some(&0)) {
            return None;
        }
        let code = ResponseCode::from(
            opt.map_or(0, |opt| (opt.ttl >> 24) as u8),
            packet.get(3)? & 0x0f,
        );
        let is_truncated = packet.get(2)? & TRUNCATED != 0;
        let lifetime = lifetime(&packet, question.kind(), code, &sections);
        Some(Self {
            question_end,
            ttls: sections
                .iter()
                .flatten()
                .filter(|record| record.kind != OPT)
                .map(|record| u16::try_from(record.ttl_at).ok())
                .collect::<Option<_>>()?,
            opt_is_inside: opt.is_some_and(|opt| opt.data.end != at),
            opt: opt.map(|opt| opt.start..opt.data.end),
            additional,
            code,
            lifetime: lifetime.filter(|_| !is_truncated),
            packet,
        })
    }

    pub(crate) fn code(&self) -> ResponseCode {
        self.code
    }

    /// The next resolver is asked after SERVFAIL, NOTIMP and REFUSED, as in the C library.
    pub(crate) fn is_good(&self) -> bool {
        !matches!(
            self.code,
            ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused
        )
    }

    pub(super) fn is_truncated(&self) -> bool {
        self.packet
            .get(2)
            .is_some_and(|flags| flags & TRUNCATED != 0)
    }

    pub(super) fn has_edns(&self) -> bool {
        self.opt.is_some()
    }

    /// How long it may be kept; none if it may not.
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        self.lifetime
            .map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// Octets in memory.
    pub(crate) fn size(&self) -> usize {
        self.packet.capacity() + 2 * self.ttls.capacity() + size_of::<Self>()
    }

    /// The answer to a client, truncated to what it takes.
    pub(super) fn reply(&self, to: &Asked<'_>, age: Age) -> Vec<u8> {
        let mut reply = self.packet.clone();
        self.set_ttls(&mut reply, age);
        wire::patch(&mut reply, 0, to.packet.get(..2).unwrap_or_default());
        if to.is_plain {
            self.speak_to(to, &mut reply);
        } else if let Some(opt) = &self.opt {
            // The payload size is of one hop.
            let payload = to.edns.map_or(DATAGRAM, |edns| edns.payload);
            wire::patch(&mut reply, opt.start + 3, &payload.to_be_bytes());
            let options = opt.start + EMPTY_OPT;
            // Behind one that says that it is longer a cookie would be taken for its end.
            let is_last =
                !self.opt_is_inside && reply.get(options..).is_some_and(wire::are_options);
            if let Some(cookie) = to.cookie.filter(|_| is_last) {
                cookie.push(&mut reply, options);
            }
        }
        if reply.len() > to.limit() {
            self.truncate(&mut reply, to);
        }
        reply
    }

    /// Puts the client's question, flags and EDNS in the place of those that were sent upstream.
    fn speak_to(&self, to: &Asked<'_>, reply: &mut Vec<u8>) {
        wire::patch(reply, HEADER, to.question.octets());
        let wants_authentic = to.dnssec_ok() || to.flags() & AUTHENTIC != 0;
        if let [_, _, high, low, ..] = reply.as_mut_slice() {
            // Only the zone's own servers are.
            *high = (*high | RECURSION_DESIRED) & !AUTHORITATIVE;
            if !wants_authentic {
                *low &= !AUTHENTIC;
            }
            *low = (*low & !CHECKING_DISABLED) | (to.flags() & CHECKING_DISABLED);
        }
        let additionals = wire::half(reply, ADDITIONALS).unwrap_or_default();
        let mut kept = additionals;
        if self.opt_is_inside {
            // Records behind it can't be moved; additional ones can be missed.
            reply.truncate(self.additional);
            kept = 0;
        } else if let Some(opt) = &self.opt {
            reply.truncate(opt.start);
            kept = additionals.saturating_sub(1);
        }
        if to.edns.is_some() {
            self.push_opt(reply, to);
            kept = kept.saturating_add(1);
        }
        wire::patch(reply, ADDITIONALS, &kept.to_be_bytes());
    }

    fn push_opt(&self, reply: &mut Vec<u8>, to: &Asked<'_>) {
        reply.extend(wire::opt(DATAGRAM, self.code.high(), to.dnssec_ok()));
        if let Some(cookie) = to.cookie {
            let options = reply.len();
            cookie.push(reply, options);
        }
    }

    /// Leaves all records out but EDNS.
    fn truncate(&self, reply: &mut Vec<u8>, to: &Asked<'_>) {
        reply.truncate(self.question_end);
        reply[2] |= TRUNCATED;
        reply[COUNTS].fill(0);
        if to.edns.is_some() {
            self.push_opt(reply, to);
            reply[HEADER - 1] = 1;
        }
    }

    fn set_ttls(&self, reply: &mut [u8], age: Age) {
        for at in self.ttls.iter().map(|at| usize::from(*at)) {
            let ttl = match age {
                Age::Known(Duration::ZERO) => return,
                Age::Known(age) => {
                    let seconds = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
                    wire::word(reply, at)
                        .unwrap_or_default()
                        .saturating_sub(seconds)
                }
                Age::Stale => STALE_TTL,
            };
            wire::patch(reply, at, &ttl.to_be_bytes());
        }
    }
}

/// Seconds for which an answer holds.
fn lifetime(
    packet: &[u8],
    kind: u16,
    code: ResponseCode,
    [answers, authorities, additionals]: &[Vec<Record>; 3],
) -> Option<u32> {
    let is_of = |kind: RecordType| move |record: &&Record| record.kind == u16::from(kind);
    let has_answer = answers
        .iter()
        .any(|record| record.kind == kind || kind == u16::from(RecordType::ANY));
    let limit = match code {
        ResponseCode::ServFail => return Some(FAILURE),
        ResponseCode::NoError if has_answer => LONGEST,
        // Nothing there, as the owner of the zone says (RFC 2308).
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let soa = authorities.iter().find(is_of(RecordType::SOA))?;
            let minimum = wire::word(packet, soa.data.end.checked_sub(4)?)?;
            seconds(minimum).min(LONGEST_NEGATIVE)
        }
        _ => return None,
    };
    let all = [answers, authorities, additionals].into_iter().flatten();
    let shortest = all
        .filter(|record| record.kind != OPT)
        .map(|record| seconds(record.ttl))
        .fold(limit, u32::min);
    (shortest > 0).then_some(shortest)
}

/// A TTL with the highest bit is none (RFC 2181, 8).
fn seconds(ttl: u32) -> u32 {
    i32::try_from(ttl).map_or(0, i32::cast_unsigned)
}

#[cfg(test)]
pub(super) mod tests;
