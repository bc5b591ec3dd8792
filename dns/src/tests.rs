//! The server on loopback, asked by `dig` and by hand.

mod asking;
pub(crate) mod fixture;
mod limits;
mod packets;
mod protocol;
mod relaying;
