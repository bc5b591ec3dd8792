//! The server on loopback, asked by `dig` and by hand.

mod asking;
mod cookies;
pub(crate) mod fixture;
mod fuzzing;
mod keeping;
mod limits;
mod packets;
mod protocol;
mod relaying;
pub(crate) mod searching;
mod short;
mod strangers;
mod threads;
