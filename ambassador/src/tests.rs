//! The ambassador on loopback: 127.0.0.x are the callers.

pub(crate) mod fixture;
mod handover;
mod proxying;
mod stream;
