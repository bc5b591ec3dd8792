//! The doors from outside: over real sockets, on the store in memory and on a real etcd.

mod astray;
mod client;
mod differential;
mod door;
mod example_keys;
mod example_waits;
mod house;
mod members;
mod on_etcd;
mod operator;
mod races;
mod stream;
