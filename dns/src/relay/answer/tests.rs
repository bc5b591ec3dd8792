//! Answers as resolvers write them, for how long they hold, and what clients get.

use hickory_proto::op::{Edns, Message, MessageType, Query};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record as Built};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;

use super::*;

const ID: u16 = 4711;

fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("name")
}

/// A query for the addresses of a name.
fn query(of: &str, edns: Option<(u16, bool)>) -> Message {
    let mut message = Message::query();
    message.metadata.id = ID;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(of), RecordType::A));
    message.edns = edns.map(|(payload, dnssec_ok)| {
        let mut edns = Edns::new();
        edns.set_max_payload(payload).set_dnssec_ok(dnssec_ok);
        edns
    });
    message
}

fn octets(message: &Message) -> Vec<u8> {
    message.to_vec().expect("message")
}

fn question(of: &str) -> Question {
    Question::read(&octets(&query(of, None))[HEADER..]).expect("question")
}

/// What a resolver says of `example.com`.
pub(in crate::relay) fn message(ttls: &[u32]) -> Message {
    let mut message = query("example.com.", None);
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    message.metadata.authentic_data = true;
    message.metadata.authoritative = true;
    message.answers = ttls
        .iter()
        .map(|ttl| Built::from_rdata(name("example.com."), *ttl, RData::A(A::new(192, 0, 2, 1))))
        .collect();
    message
}

fn failure(code: ResponseCode) -> Message {
    let mut message = message(&[]);
    message.metadata.response_code = code;
    message
}

/// A record that says how long there is nothing.
fn soa(ttl: u32, minimum: u32) -> Built {
    let soa = SOA::new(
        name("ns.example.com."),
        name("h.example.com."),
        1,
        2,
        3,
        4,
        minimum,
    );
    Built::from_rdata(name("example.com."), ttl, RData::SOA(soa))
}

pub(in crate::relay) fn read(message: &Message) -> Answer {
    let of = message.queries[0].name().to_ascii();
    Answer::read(&octets(message), message.metadata.id, &question(&of))
        .expect("well-formed")
        .expect("the answer")
}

/// An answer with this code and no records.
pub(in crate::relay) fn coded(code: ResponseCode) -> Answer {
    read(&failure(code))
}

fn request(message: &Message, by: Protocol) -> Request {
    let client = "127.0.0.1:1".parse().expect("address");
    Request::from_bytes(octets(message), client, by).expect("request")
}

fn reply(answer: &Answer, to: &Message, by: Protocol, age: Age) -> Message {
    let request = request(to, by);
    let asked = Asked::new(&request, None).expect("a question");
    let reply = answer.reply(&asked, age);
    assert!(reply.len() <= asked.limit());
    Message::from_vec(&reply).expect("well-formed")
}

const NEW: Age = Age::Known(Duration::ZERO);

#[test]
fn only_the_answer_to_the_question_is_one() {
    let question = question("example.com.");
    let right = octets(&message(&[60]));
    let is_answer =
        |packet: &[u8]| Answer::read(packet, ID, &question).is_ok_and(|answer| answer.is_some());
    assert!(is_answer(&right));
    for (at, octet) in [
        (0, 0xff),            // Another id,
        (2, right[2] & 0x7f), // a query,
        (2, right[2] | 0x28), // an update,
        (13, b'x'),           // another name.
    ] {
        let mut other = right.clone();
        other[at] = octet;
        assert!(!is_answer(&other), "{at} {octet}");
    }
    let end = HEADER + question.octets().len();
    for (at, octet) in [(end - 3, 28), (end - 1, 3)] {
        let mut other = right.clone();
        other[at] = octet;
        assert!(!is_answer(&other), "type and class count");
    }
    let mut case = right.clone();
    case[13] = b'E';
    assert!(is_answer(&case), "case does not");
    for end in 0..right.len() {
        assert!(!is_answer(&right[..end]), "cut at {end}");
    }
    assert!(Answer::read(&right[..right.len() - 1], ID, &question).is_err());
}

#[test]
fn a_bare_error_is_an_answer_and_a_bare_success_is_none() {
    let question = question("example.com.");
    let mut bare = octets(&failure(ResponseCode::FormErr))[..HEADER].to_vec();
    bare[5] = 0;
    let answer = Answer::read(&bare, ID, &question).expect("well-formed");
    let answer = answer.expect("an error");
    assert_eq!(answer.code(), ResponseCode::FormErr);
    let reply = reply(&answer, &query("Example.com.", None), Protocol::Udp, NEW);
    assert_eq!(reply.queries, query("example.com.", None).queries);
    bare[3] &= 0xf0;
    assert_eq!(
        Answer::read(&bare, ID, &question).expect("well-formed"),
        None
    );
}

fn lifetime_of(message: &Message) -> Option<u64> {
    read(message).lifetime().map(|lifetime| lifetime.as_secs())
}

#[test]
fn an_answer_holds_for_its_shortest_ttl() {
    assert_eq!(lifetime_of(&message(&[300, 60])), Some(60));
    assert_eq!(lifetime_of(&message(&[300, 0])), None);
    assert_eq!(lifetime_of(&message(&[1 << 31])), None);
    assert_eq!(lifetime_of(&message(&[604_800])), Some(86_400));
    let mut truncated = message(&[60]);
    truncated.metadata.truncation = true;
    assert_eq!(lifetime_of(&truncated), None);
}

#[test]
fn nothing_holds_as_long_as_the_zone_says() {
    let mut nothing = failure(ResponseCode::NXDomain);
    assert_eq!(lifetime_of(&nothing), None, "nobody says how long");
    for (ttl, minimum, expected) in [
        (600, 60, Some(60)),
        (60, 600, Some(60)),
        (86_400, 86_400, Some(3_600)),
        (600, 0, None),
    ] {
        nothing.authorities = vec![soa(ttl, minimum)];
        assert_eq!(lifetime_of(&nothing), expected);
    }
    // An alias of a name without addresses is no answer.
    let mut alias = message(&[]);
    let to = RData::CNAME(CNAME(name("x.example.com.")));
    alias.answers = vec![Built::from_rdata(name("example.com."), 50, to)];
    assert_eq!(lifetime_of(&alias), None);
    alias.authorities = vec![soa(600, 60)];
    assert_eq!(lifetime_of(&alias), Some(50));
}

#[test]
fn failures_hold_for_seconds_or_not_at_all() {
    assert_eq!(lifetime_of(&failure(ResponseCode::ServFail)), Some(5));
    for code in [
        ResponseCode::Refused,
        ResponseCode::FormErr,
        ResponseCode::NotImp,
    ] {
        assert_eq!(lifetime_of(&failure(code)), None);
    }
}

#[test]
fn a_client_gets_its_own_id_case_and_flags_and_ttls_counted_down() {
    let answer = read(&message(&[300, 60]));
    let mut to = query("eXample.COM.", None);
    to.metadata.id = 9;
    to.metadata.checking_disabled = true;
    let age = Age::Known(Duration::from_millis(59_900));
    let reply_of = |to: &Message, age| reply(&answer, to, Protocol::Udp, age);
    let got = reply_of(&to, age);
    assert_eq!(got.metadata.id, 9);
    assert_eq!(got.queries[0].name().to_ascii(), "eXample.COM.");
    assert_eq!(
        got.answers[0].name.to_ascii(),
        "eXample.COM.",
        "a pointer to it"
    );
    assert!(got.metadata.checking_disabled && !got.metadata.authentic_data);
    assert!(!got.metadata.authoritative);
    let ttls = |message: &Message| -> Vec<u32> {
        message.answers.iter().map(|record| record.ttl).collect()
    };
    assert_eq!(ttls(&got), [241, 1]);
    assert_eq!(ttls(&reply_of(&to, Age::Stale)), [STALE_TTL; 2]);
    to.metadata.authentic_data = true;
    assert!(
        reply_of(&to, NEW).metadata.authentic_data,
        "who wants to know"
    );
}

#[test]
fn edns_is_of_one_hop() {
    let with = |edns: Option<(u16, bool)>| {
        let mut message = message(&[60]);
        message.edns = query("x.", edns).edns;
        read(&message)
    };
    for upstream in [None, Some((512, false)), Some((4096, true))] {
        let got = |edns| {
            let to = query("example.com.", edns);
            reply(&with(upstream), &to, Protocol::Udp, NEW)
        };
        assert_eq!(got(None).edns, None);
        let edns = got(Some((4096, true))).edns.expect("as asked");
        assert_eq!((edns.max_payload(), edns.flags().dnssec_ok), (1232, true));
        assert_eq!(got(None).answers.len(), 1);
    }
}

#[test]
fn records_behind_edns_are_left_out() {
    let mut built = message(&[60]);
    built.additionals = built.answers.clone();
    built.edns = query("x.", Some((1232, false))).edns;
    let written = octets(&built);
    let answer = read(&built);
    // The same with the EDNS record first.
    let opt = answer.opt.clone().expect("EDNS");
    let first = [
        &written[..answer.additional],
        &written[opt.clone()],
        &written[answer.additional..opt.start],
    ]
    .concat();
    let question = question("example.com.");
    let moved = Answer::read(&first, ID, &question).expect("well-formed");
    for (answer, additionals) in [(answer, 1), (moved.expect("an answer"), 0)] {
        let to = query("example.com.", Some((1232, false)));
        let got = reply(&answer, &to, Protocol::Udp, NEW);
        assert_eq!(got.additionals.len(), additionals);
        assert!(got.edns.is_some() && got.answers.len() == 1);
    }
}

#[test]
fn what_is_behind_the_records_is_left_out() {
    let mut packet = octets(&message(&[60]));
    packet.extend(b"garbage");
    let answer = Answer::read(&packet, ID, &question("example.com."));
    let answer = answer.expect("well-formed").expect("the answer");
    for edns in [None, Some((1232, false))] {
        let reply = reply(&answer, &query("example.com.", edns), Protocol::Udp, NEW);
        assert_eq!(
            (reply.answers.len(), reply.edns.is_some()),
            (1, edns.is_some())
        );
    }
}

#[test]
fn an_edns_record_has_the_name_of_the_root() {
    let mut packet = octets(&message(&[60]));
    packet[11] += 1;
    packet.extend([0xc0, 12, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    assert!(Answer::read(&packet, ID, &question("example.com.")).is_err());
}

#[test]
fn what_is_too_long_for_a_datagram_is_truncated() {
    let answer = read(&message(&[60; 50]));
    for (edns, is_cut) in [
        (None, true),
        (Some((600, false)), true),
        (Some((1232, false)), false),
    ] {
        let to = query("example.com.", edns);
        let got = reply(&answer, &to, Protocol::Udp, NEW);
        assert_eq!(got.metadata.truncation, is_cut, "{edns:?}");
        assert_eq!(got.answers.len(), if is_cut { 0 } else { 50 });
        assert_eq!(got.edns.is_some(), edns.is_some());
        let got = reply(&answer, &to, Protocol::Tcp, NEW);
        assert!(!got.metadata.truncation && got.answers.len() == 50);
    }
}
