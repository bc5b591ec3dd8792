//! A client's query that is to be forwarded, and the octets that are sent for it.

use std::borrow::Cow;
use std::sync::Arc;

use hickory_proto::rr::LowerName;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;

use crate::cookies::{self, Cookie};
use crate::wire::{
    self, AUTHENTIC, CHECKING_DISABLED, COOKIE, DATAGRAM, HEADER, OPT, Question, RECURSION_DESIRED,
    SMALLEST,
};

/// EDNS options between two hops, which say nothing of the answer: cookie, keepalive, padding.
const PER_HOP: [u16; 3] = [COOKIE, 11, 12];

/// What the client said with EDNS.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edns {
    pub(super) payload: u16,
    pub(super) dnssec_ok: bool,
}

/// A query as a client sent it.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// Without cookies.
    pub(super) packet: Cow<'a, [u8]>,
    pub(super) name: &'a LowerName,
    pub(super) question: Question,
    pub(super) edns: Option<Edns>,
    pub(super) by_udp: bool,
    /// It says nothing but what the key of the cache says, and is sent upstream in words of our own.
    pub(super) is_plain: bool,
    /// What it gets for its cookie.
    pub(crate) cookie: Option<Cookie>,
}

impl<'a> Asked<'a> {
    /// None if it has no question, or one whose name is compressed.
    pub(crate) fn new(request: &'a Request, cookie: Option<Cookie>) -> Option<Self> {
        let name = request.queries.queries().first()?.name();
        let packet = request.as_slice();
        let question = Question::read(packet.get(HEADER..)?)?;
        let end = HEADER + question.octets().len();
        let edns = request.edns.as_ref().map(|edns| Edns {
            payload: edns.max_payload(),
            dnssec_ok: edns.flags().dnssec_ok,
        });
        let is_plain = is_recursive(packet)
            && question.octets().ends_with(&[0, 1])
            && ends_plainly(packet, end);
        let taken_out = cookie.filter(|_| !is_plain);
        let taken_out = taken_out.map(|_| cookies::without(packet));
        // What is signed stays as it is, and its cookie is the resolver's.
        let cookie = cookie.filter(|_| !matches!(taken_out, Some(None)));
        let without = taken_out.flatten();
        Some(Self {
            packet: without.map_or(Cow::Borrowed(packet), Cow::Owned),
            name,
            question,
            edns,
            by_udp: request.protocol() == Protocol::Udp,
            is_plain,
            cookie,
        })
    }

    /// Queries with equal keys have equal answers.
    pub(super) fn key(&self) -> Arc<[u8]> {
        if !self.is_plain {
            let kind = [0xff, u8::from(self.by_udp)];
            return [&kind, self.packet.get(2..).unwrap_or_default()]
                .concat()
                .into();
        }
        let flags = u8::from(self.dnssec_ok()) | (self.flags() & CHECKING_DISABLED);
        [&[flags], self.question.folded().octets()].concat().into()
    }

    /// The query that is sent upstream, with this id and question.
    pub(super) fn upstream(&self, id: u16, question: Question) -> Sent {
        if self.is_plain {
            let checking = self.flags() & CHECKING_DISABLED;
            return Sent::plain(id, question, checking, self.dnssec_ok());
        }
        let mut packet = self.packet.to_vec();
        wire::patch(&mut packet, 0, &id.to_be_bytes());
        Sent {
            id,
            question,
            packet,
            by_udp: self.by_udp,
            has_own_edns: false,
        }
    }

    /// Most octets of an answer.
    pub(super) fn limit(&self) -> usize {
        let payload = self.edns.map_or(SMALLEST, |edns| edns.payload);
        if self.by_udp {
            payload.clamp(SMALLEST, DATAGRAM).into()
        } else {
            u16::MAX.into()
        }
    }

    pub(super) fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// The fourth octet of the header.
    pub(super) fn flags(&self) -> u8 {
        self.packet.get(3).copied().unwrap_or_default()
    }
}

/// A query with an id of our own.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) id: u16,
    pub(super) question: Question,
    pub(super) packet: Vec<u8>,
    pub(super) by_udp: bool,
    /// EDNS is ours, and can be left out.
    pub(super) has_own_edns: bool,
}

impl Sent {
    /// In words of our own.
    pub(super) fn plain(id: u16, question: Question, checking: u8, dnssec_ok: bool) -> Self {
        let flags = AUTHENTIC | checking;
        let mut packet = vec![0, 0, RECURSION_DESIRED, flags, 0, 1, 0, 0, 0, 0, 0, 1];
        packet.extend_from_slice(question.octets());
        packet.extend_from_slice(&wire::opt(DATAGRAM, 0, dnssec_ok));
        wire::patch(&mut packet, 0, &id.to_be_bytes());
        Self {
            id,
            question,
            packet,
            by_udp: true,
            has_own_edns: true,
        }
    }

    /// For servers that know no EDNS.
    pub(super) fn without_edns(&self) -> Vec<u8> {
        let end = HEADER + self.question.octets().len();
        let mut packet = self.packet.get(..end).unwrap_or_default().to_vec();
        wire::patch(&mut packet, HEADER - 1, &[0]);
        packet
    }
}

fn is_recursive(packet: &[u8]) -> bool {
    packet
        .get(2)
        .is_some_and(|flags| flags & RECURSION_DESIRED != 0)
}

/// Behind the question is nothing, or an EDNS record without options that concern the answer.
fn ends_plainly(packet: &[u8], end: usize) -> bool {
    if end == packet.len() {
        return true;
    }
    wire::record(packet, end).is_some_and(|record| {
        record.kind == OPT
            && record.data.end == packet.len()
            && are_per_hop(&packet[record.data.clone()])
    })
}

fn are_per_hop(mut options: &[u8]) -> bool {
    while let Some((code, _, rest)) = wire::split_option(options) {
        if !PER_HOP.contains(&code) {
            return false;
        }
        options = rest;
    }
    options.is_empty()
}
