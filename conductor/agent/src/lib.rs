//! The agent of one host, without IO: what happens to it goes in, what it does comes out.

pub mod events;
pub mod host;
pub mod view;
