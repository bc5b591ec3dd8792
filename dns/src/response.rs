//! What is sent back, within what the client takes.
//!
//! Pure up to the sending. What does not fit is cut here and not left to the
//! library, which would mark an answer as cut for want of what is only extra,
//! and drop EDNS where it no longer fits.

use std::slice;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Header, HeaderCounts, Message, Metadata, ResponseCode};
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::{BinDecoder, BinEncodable as _, BinEncoder};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageResponse, MessageResponseBuilder, Queries};
use tracing::debug;

use crate::zone::Answer;

/// What every client takes in a datagram.
const SMALLEST: u16 = 512;
/// Most that we send of our own in a datagram: it passes any link in one piece (DNS flag day 2020).
const DATAGRAM: u16 = 1232;

type Records<'a> = slice::Iter<'a, Record>;
type Built<'a> = MessageResponse<'a, 'a, Records<'a>, Records<'a>, Records<'a>, Records<'a>>;

/// An answer to one request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Response {
    metadata: Metadata,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
    edns: Option<Edns>,
}

impl Response {
    /// Says only that there is no answer.
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

    /// What our zone says.
    pub(crate) fn ours(request: &Request, answer: Answer) -> Self {
        let mut response = Self::failure(request, answer.code);
        response.metadata.authoritative = true;
        response.answers = answer.answers;
        response.authorities = answer.authority;
        response.additionals = answer.additional;
        response
    }

    /// What another resolver says.
    pub(crate) fn of_others(request: &Request, mut message: Message) -> Self {
        message.metadata.id = request.metadata.id;
        // The size is said from hop to hop, and the library cuts at it.
        if let Some(edns) = &mut message.edns {
            edns.set_max_payload(request.max_payload());
        }
        Self {
            metadata: message.metadata,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
            edns: message.edns,
        }
    }

    /// Sends it, as much as fits.
    pub(crate) async fn send(
        self,
        request: &Request,
        mut handle: impl ResponseHandler,
    ) -> ResponseInfo {
        let none = instead_of_many(request);
        let queries = none.as_ref().unwrap_or(&request.queries);
        let response = self.fitting(request, queries);
        match handle.send_response(response.message(queries)).await {
            Ok(info) => info,
            Err(error) => {
                // The client has gone, and is the one to ask again.
                debug!(%error, "answer not sent");
                let (metadata, counts) = (response.metadata, HeaderCounts::default());
                Header { metadata, counts }.into()
            }
        }
    }

    /// Its octets for a stream, as much as fits.
    pub(crate) fn encode(self, request: &Request) -> Option<Vec<u8>> {
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
                Self::failure(request, ResponseCode::ServFail)
            }
        }
    }

    /// Keeps what the client takes: first what is extra goes, then records, and only that is said.
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
        // EDNS, which has its room, is left out, and so is the code, a part of which is in it.
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

/// What is sent back for a message that can't be read: its header.
pub(crate) fn bare(header: &Header, code: ResponseCode) -> Option<Vec<u8>> {
    let queries = no_question()?;
    emit(MessageResponseBuilder::new(&queries, None).error_msg(header, code))
}

/// One question is repeated; many may not fit, and none of them is answered.
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
