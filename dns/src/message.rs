//! A packet to what is done with it: answered, relayed or dropped.
//!
//! Pure. Whatever the packet holds, this neither fails nor panics: what is no
//! question is dropped, a broken question gets its error, and an answer never
//! exceeds what the client takes.

use conductor_core::directory::Directory;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

use crate::zone::Zone;

/// A header.
const HEADER: usize = 12;
/// What every client takes in a datagram.
const SMALLEST: usize = 512;
/// Most that is sent in a datagram: it passes any link in one piece (DNS flag day 2020).
const DATAGRAM: u16 = 1232;
/// A record whose name is a pointer: an IPv4 address.
const SMALLEST_RECORD: usize = 16;
/// The bit of a header's third octet that makes it a response.
const RESPONSE: u8 = 0x80;
/// The bit of the same octet by which a client wants the answer of others.
const RECURSION_DESIRED: u8 = 0x01;

/// How a packet came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Udp,
    Tcp,
}

/// What is done with a packet.
#[derive(Debug, PartialEq)]
pub(crate) enum Reaction {
    /// This is sent back.
    Answer(Vec<u8>),
    /// The question is not ours.
    Relay(Query),
    /// It is no question.
    Drop,
}

/// Decides what is done with a packet.
pub(crate) fn react(
    zone: &Zone,
    directory: &Directory,
    packet: &[u8],
    way: Way,
    turn: usize,
) -> Reaction {
    if packet.len() < HEADER || packet[2] & RESPONSE != 0 {
        return Reaction::Drop;
    }
    if OpCode::from_u8((packet[2] >> 3) & 0x0f) != OpCode::Query {
        return failure(packet, ResponseCode::NotImp);
    }
    let Some(query) = question(packet) else {
        return failure(packet, ResponseCode::FormErr);
    };
    // A transfer is many messages; nobody here has a use for one.
    if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
        return failure(packet, ResponseCode::Refused);
    }
    if !zone.contains(query.name()) {
        return Reaction::Relay(query);
    }
    let Ok(request) = Message::from_vec(packet) else {
        return failure(packet, ResponseCode::FormErr);
    };
    let answer = answer(zone, directory, &request, query, turn);
    let limit = match way {
        Way::Tcp => usize::from(u16::MAX),
        Way::Udp => usize::from(request.max_payload().min(DATAGRAM)).max(SMALLEST),
    };
    match fit(answer, limit) {
        Some(bytes) => Reaction::Answer(bytes),
        None => failure(packet, ResponseCode::ServFail),
    }
}

/// The one question of a message, if it can be read.
pub(crate) fn question(packet: &[u8]) -> Option<Query> {
    if packet.get(4..6)? != [0, 1] {
        return None;
    }
    let mut decoder = BinDecoder::new(packet);
    decoder.read_slice(HEADER).ok()?;
    Query::read(&mut decoder).ok()
}

/// An answer that says only that there is none: the question as it came, as far as it can be read.
pub(crate) fn failure(packet: &[u8], code: ResponseCode) -> Reaction {
    let (Some(id), Some(flags)) = (packet.first_chunk::<2>(), packet.get(2)) else {
        return Reaction::Drop;
    };
    let op_code = OpCode::from_u8((flags >> 3) & 0x0f);
    let mut message = Message::error_msg(u16::from_be_bytes(*id), op_code, code);
    message.metadata.recursion_desired = flags & RECURSION_DESIRED != 0;
    message.metadata.recursion_available = true;
    message.queries.extend(question(packet));
    match message.to_vec() {
        Ok(bytes) => Reaction::Answer(bytes),
        Err(_) => Reaction::Drop,
    }
}

fn answer(
    zone: &Zone,
    directory: &Directory,
    request: &Message,
    query: Query,
    turn: usize,
) -> Message {
    let mut message = Message::response(request.metadata.id, OpCode::Query);
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_desired = request.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.checking_disabled = request.metadata.checking_disabled;
    message.edns = request.edns.as_ref().map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        edns
    });
    if request.version() > 0 {
        message.metadata.response_code = ResponseCode::BADVERS;
    } else if matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        let answer = zone.answer(directory, &query, turn);
        message.metadata.authoritative = true;
        message.metadata.response_code = answer.code;
        message.answers = answer.answers;
        message.authorities = answer.authority;
        message.additionals = answer.additional;
    } else {
        message.metadata.response_code = ResponseCode::Refused;
    }
    message.queries.push(query);
    message
}

/// Encodes within a limit: first what is extra goes, then records, and the message says so.
fn fit(mut message: Message, limit: usize) -> Option<Vec<u8>> {
    let mut bytes = message.to_vec().ok()?;
    if bytes.len() > limit {
        message.additionals.clear();
        bytes = message.to_vec().ok()?;
    }
    if bytes.len() > limit {
        message.metadata.truncation = true;
        let all = message.answers.clone();
        let (mut fits, mut exceeds) = (0, all.len().min(limit / SMALLEST_RECORD + 1));
        while exceeds - fits > 1 {
            let count = fits.midpoint(exceeds);
            message.answers = all[..count].to_vec();
            if message.to_vec().ok()?.len() > limit {
                exceeds = count;
            } else {
                fits = count;
            }
        }
        message.answers = all[..fits].to_vec();
        bytes = message.to_vec().ok().filter(|bytes| bytes.len() <= limit)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;
    use proptest::prelude::*;

    use super::*;
    use crate::tests::fixture::Cluster;

    fn zone() -> Zone {
        Zone::new("skydns.local", [[172, 17, 0, 1].into()]).expect("domain")
    }

    fn many(count: u8) -> Directory {
        let mut cluster = Cluster::default();
        cluster.host("h1");
        for n in 0..count {
            let addr = format!("10.0.0.{n}:20000");
            cluster.state(&format!("shop/web/{n}"), "h1", &addr, "ready", "web");
        }
        cluster.directory()
    }

    fn packet(name: &str, wanted: RecordType, payload: Option<u16>) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).expect("name"), wanted));
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        message.to_vec().expect("packet")
    }

    fn answered(directory: &Directory, packet: &[u8], way: Way) -> (Message, usize) {
        match react(&zone(), directory, packet, way, 0) {
            Reaction::Answer(bytes) => {
                let message = Message::from_vec(&bytes).expect("an answer that can be read");
                assert_eq!(bytes[..2], packet[..2], "id");
                (message, bytes.len())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn answers_keep_to_the_size_that_the_client_takes() {
        let name = "web.shop.skydns.local.";
        let directory = many(200);
        for (payload, limit) in [
            (None, 512),
            (Some(100), 512),
            (Some(900), 900),
            (Some(4096), 1232),
        ] {
            for wanted in [RecordType::A, RecordType::SRV] {
                let packet = packet(name, wanted, payload);
                let (message, length) = answered(&directory, &packet, Way::Udp);
                assert!(length <= limit, "{length} of {limit}");
                assert!(length > limit - 100, "{length} of {limit}");
                assert!(message.metadata.truncation);
                assert!(!message.answers.is_empty());
                assert_eq!(message.edns.is_some(), payload.is_some());
            }
        }
        let (message, _) = answered(&directory, &packet(name, RecordType::A, None), Way::Tcp);
        assert_eq!(message.answers.len(), 200);
        assert!(!message.metadata.truncation);
    }

    #[test]
    fn what_is_extra_goes_without_a_word() {
        let packet = packet("web.shop.skydns.local.", RecordType::SRV, None);
        let (message, _) = answered(&many(9), &packet, Way::Udp);
        assert_eq!((message.answers.len(), message.additionals.len()), (9, 0));
        assert!(!message.metadata.truncation);
        let (message, _) = answered(&many(9), &packet, Way::Tcp);
        assert_eq!((message.answers.len(), message.additionals.len()), (9, 9));
    }

    #[test]
    fn an_answer_is_authoritative_and_repeats_the_question() {
        let packet = packet("wEb.shop.SKYDNS.local.", RecordType::A, Some(1232));
        let (message, _) = answered(&many(1), &packet, Way::Udp);
        assert!(message.metadata.authoritative);
        assert!(message.metadata.recursion_desired && message.metadata.recursion_available);
        assert_eq!(
            message.queries[0].name().to_ascii(),
            "wEb.shop.SKYDNS.local."
        );
        assert_eq!(message.answers.len(), 1);
        assert_eq!(message.edns.expect("as asked").max_payload(), 1232);
    }

    #[test]
    fn what_is_not_a_question_for_us() {
        let directory = many(1);
        let good = packet("web.shop.skydns.local.", RecordType::A, Some(1232));
        let code = |packet: &[u8]| {
            answered(&directory, packet, Way::Udp)
                .0
                .metadata
                .response_code
        };
        let mut notify = good.clone();
        notify[2] |= 4 << 3;
        assert_eq!(code(&notify), ResponseCode::NotImp);
        let mut two = good.clone();
        two[5] = 2;
        assert_eq!(code(&two), ResponseCode::FormErr);
        assert_eq!(code(&good[..20]), ResponseCode::FormErr);
        assert_eq!(code(&good[..good.len() - 3]), ResponseCode::FormErr);
        let transfer = packet("skydns.local.", RecordType::AXFR, None);
        assert_eq!(code(&transfer), ResponseCode::Refused);
        let mut version = good.clone();
        let at = version.len() - 5;
        version[at] = 1;
        // Its number is that of BADSIG too.
        assert_eq!(code(&version).high(), 1);
        assert_eq!(code(&version).low(), 0);
        let mut chaos = packet("web.shop.skydns.local.", RecordType::A, None);
        let at = chaos.len() - 1;
        chaos[at] = 3;
        assert_eq!(code(&chaos), ResponseCode::Refused);

        let dropped = |packet: &[u8]| react(&zone(), &directory, packet, Way::Udp, 0);
        let mut response = good.clone();
        response[2] |= RESPONSE;
        assert_eq!(dropped(&response), Reaction::Drop);
        assert_eq!(dropped(&good[..11]), Reaction::Drop);
        assert_eq!(dropped(&[]), Reaction::Drop);
        let other = packet("example.com.", RecordType::A, None);
        assert!(matches!(dropped(&other), Reaction::Relay(_)));
    }

    /// Random octets, and questions with some octets changed or cut off.
    fn packets() -> impl Strategy<Value = Vec<u8>> {
        let names = prop::sample::select(vec![
            "web.shop.skydns.local.",
            "all.web.shop.skydns.local.",
            "skydns.local.",
            "example.com.",
        ]);
        let types = prop::sample::select(vec![
            RecordType::A,
            RecordType::SRV,
            RecordType::SOA,
            RecordType::ANY,
        ]);
        let changed = (
            names,
            types,
            prop::option::of(any::<u16>()),
            prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            any::<prop::sample::Index>(),
            any::<bool>(),
        )
            .prop_map(|(name, wanted, payload, changes, end, cut)| {
                let mut packet = packet(name, wanted, payload);
                for (at, octet) in changes {
                    let at = at.index(packet.len());
                    packet[at] = octet;
                }
                if cut {
                    packet.truncate(end.index(packet.len()));
                }
                packet
            });
        prop_oneof![prop::collection::vec(any::<u8>(), 0..600), changed]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn any_packet_is_answered_relayed_or_dropped(packet in packets(), turn: usize) {
            let directory = many(3);
            for way in [Way::Udp, Way::Tcp] {
                match react(&zone(), &directory, &packet, way, turn) {
                    Reaction::Answer(bytes) => {
                        let message = Message::from_vec(&bytes).expect("an answer that can be read");
                        prop_assert_eq!(&bytes[..2], &packet[..2]);
                        prop_assert_eq!(message.metadata.message_type, MessageType::Response);
                        prop_assert!(way == Way::Tcp || bytes.len() <= 1232);
                    }
                    Reaction::Relay(query) => prop_assert!(!zone().contains(query.name())),
                    Reaction::Drop => {
                        prop_assert!(packet.len() < HEADER || packet[2] & RESPONSE != 0);
                    }
                }
            }
        }
    }
}
