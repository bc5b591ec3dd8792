//! Responses, truncated to the size that the client accepts.
//!
//! Truncated here and not by the library, which sets TC also when only the
//! additional section is left out, and drops EDNS where it does not fit.

use std::slice;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Header, Message, Metadata, ResponseCode};
use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::serialize::binary::{BinDecoder, BinEncodable as _, BinEncoder};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use hickory_server::zone_handler::{MessageResponse, MessageResponseBuilder, Queries};
use tracing::debug;

use crate::cookies::Cookie;
use crate::wire::{COOKIE, DATAGRAM, SMALLEST};
use crate::zone::Answer;

type Records<'a> = slice::Iter<'a, Record>;
type Built<'a> = MessageResponse<'a, 'a, Records<'a>, Records<'a>, Records<'a>, Records<'a>>;

/// A response to one request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Response {
    metadata: Metadata,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
    edns: Option<Edns>,
}

impl Response {
    /// A response without records.
    pub(crate) fn failure(request: &Request, code: ResponseCode) -> Self {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        metadata.response_code = code;
        Self {
            metadata,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            edns: request.edns.as_ref().map(|asked| {
                let mut edns = Edns::new();
                edns.set_max_payload(asked.max_payload().min(DATAGRAM));
                edns.set_dnssec_ok(asked.flags().dnssec_ok);
                edns
            }),
        }
    }

    /// An answer of the zone.
    pub(crate) fn authoritative(request: &Request, answer: Answer) -> Self {
        let mut response = Self::failure(request, answer.code);
        response.metadata.authoritative = true;
        response.answers = answer.answers;
        response.authorities = answer.authority;
        response.additionals = answer.additional;
        response
    }

    /// Adds what an upstream resolver has for the name that the last alias leads to.
    pub(crate) fn extend(&mut self, message: Message) {
        self.metadata.response_code = message.metadata.response_code;
        // The client comes back over TCP.
        self.metadata.truncation = message.metadata.truncation;
        self.answers.extend(message.answers);
        self.authorities = message.authorities;
    }

    pub(crate) fn code(&self) -> ResponseCode {
        self.metadata.response_code
    }

    /// The response as octets, with the cookie of its client, truncated if needed.
    pub(crate) fn encode(mut self, request: &Request, cookie: Option<Cookie>) -> Option<Vec<u8>> {
        if let (Some(edns), Some(cookie)) = (&mut self.edns, cookie) {
            let option = EdnsOption::Unknown(COOKIE, cookie.octets().to_vec());
            edns.options_mut().insert(option);
        }
        let none = instead_of_many(request);
        let queries = none.as_ref().unwrap_or(&request.queries);
        let response = self.fitting(request, queries);
        emit(response.message(queries))
    }

    fn fitting(mut self, request: &Request, queries: &Queries) -> Self {
        match self.fit(queries, request.protocol()) {
            Ok(()) => self,
            Err(error) => {
                debug!(%error, "answer not encoded");
                Self {
                    edns: self.edns,
                    ..Self::failure(request, ResponseCode::ServFail)
                }
            }
        }
    }

    /// Truncates to the client's size: additional records first, and TC only if others are left out.
    fn fit(&mut self, queries: &Queries, by: Protocol) -> Result<(), ProtoError> {
        let limit = match by {
            Protocol::Udp => self.edns.as_ref().map_or(SMALLEST, Edns::max_payload),
            _ => u16::MAX,
        };
        let reserved = match &self.edns {
            Some(edns) => edns.to_bytes()?.len() as u16,
            None => 0,
        };
        let mut bytes = Vec::with_capacity(SMALLEST.into());
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(limit.saturating_sub(reserved));
        // The OPT record is left out, since its size is reserved, and with it the code, whose high bits it holds.
        let mut metadata = self.metadata;
        metadata.response_code = ResponseCode::NoError;
        let message = self.build(queries, metadata, None);
        let fitting = message.destructive_emit(&mut encoder)?.counts();
        let is_cut = usize::from(fitting.answers) < self.answers.len()
            || usize::from(fitting.authorities) < self.authorities.len();
        if is_cut {
            self.metadata.truncation = true;
            self.answers.truncate(fitting.answers.into());
            self.authorities.truncate(fitting.authorities.into());
        }
        if is_cut || usize::from(fitting.additionals) < self.additionals.len() {
            self.additionals.clear();
        }
        Ok(())
    }

    fn message<'a>(&'a self, queries: &'a Queries) -> Built<'a> {
        self.build(queries, self.metadata, self.edns.as_ref())
    }

    fn build<'a>(
        &'a self,
        queries: &'a Queries,
        metadata: Metadata,
        edns: Option<&'a Edns>,
    ) -> Built<'a> {
        MessageResponseBuilder::new(queries, edns).build(
            metadata,
            &self.answers,
            &self.authorities,
            &[],
            &self.additionals,
        )
    }
}

/// The response to a malformed message: a header alone.
pub(crate) fn bare(header: &Header, code: ResponseCode) -> Option<Vec<u8>> {
    let queries = no_question()?;
    emit(MessageResponseBuilder::new(&queries, None).error_msg(header, code))
}

/// Replacement for several questions, none of which is answered; one is repeated.
fn instead_of_many(request: &Request) -> Option<Queries> {
    (request.queries.len() != 1).then(no_question).flatten()
}

fn no_question() -> Option<Queries> {
    Queries::read(&mut BinDecoder::new(&[]), 0).ok()
}

fn emit<'q, 'a>(
    message: MessageResponse<
        'q,
        'a,
        impl Iterator<Item = &'a Record> + Send + 'a,
        impl Iterator<Item = &'a Record> + Send + 'a,
        impl Iterator<Item = &'a Record> + Send + 'a,
        impl Iterator<Item = &'a Record> + Send + 'a,
    >,
) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(SMALLEST.into());
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(u16::MAX);
    message.destructive_emit(&mut encoder).ok()?;
    Some(bytes)
}
