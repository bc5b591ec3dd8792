//! One battery of tests, run on the etcd in memory and on a real one: that is what keeps the twin honest.

mod claims;
mod cluster;
mod guards;
mod harness;
mod host;
mod kv;
mod members;
mod network;
mod random;
mod space;
mod view;
