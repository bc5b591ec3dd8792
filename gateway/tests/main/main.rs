//! The APIs from outside: over real sockets, on the store in memory and on a real etcd.

mod client;
mod clients;
mod differences;
mod differential;
mod example_dirs;
mod example_keys;
mod example_ttl;
mod example_waits;
mod harness;
mod kept;
mod listener;
mod members;
mod misrouted;
mod on_etcd;
mod operator;
mod races;
mod stream;
