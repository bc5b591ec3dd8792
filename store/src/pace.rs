//! How often etcd is spoken to while nothing happens, as parts of the lease's time to live.

use std::time::Duration;

/// So often a lease is renewed, as etcd's own client does it, and a watch asked for its progress.
pub fn every(ttl: Duration) -> Duration {
    ttl / 3
}

/// What is not answered in this time is lost: a lease lives long enough for two more attempts then.
pub fn deadline(ttl: Duration) -> Duration {
    ttl / 5
}
