//! Limits of messages, and length-prefixed messages on a stream (RFC 1035, 4.2.2).

use std::error::Error;
use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest query, in octets; hickory's limit for UDP.
pub(crate) const MAX_QUESTION: usize = 4096;
/// Most questions that a packet may announce. More than one is FORMERR.
pub(crate) const MAX_QUESTIONS: u16 = 255;

pub(crate) fn invalid(error: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Reads a message of at most `most` octets. Allocates as octets arrive, not as announced.
pub(crate) async fn read_message(stream: &mut TcpStream, most: usize) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    if usize::from(length) > most {
        return Err(invalid("message is too long"));
    }
    let mut message = Vec::new();
    stream.take(length.into()).read_to_end(&mut message).await?;
    if message.len() < length.into() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(message)
}

/// Writes a message with a single write.
pub(crate) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(invalid)?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}
