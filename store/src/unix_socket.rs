//! The channel to an etcd that listens on a unix socket: the embedded one.
//!
//! It never opens a TCP connection. The channel connects when it is first used
//! and again after each loss, so it may be made before etcd listens.

use std::path::Path;
use std::time::Duration;

use tonic::transport::Endpoint;

/// A channel to the etcd at `path`, for `etcd_client::Client::from_channel`.
///
/// `keep_alive` is the HTTP/2 keep-alive's interval and time-out, as for every
/// other endpoint.
pub fn channel(
    path: &Path,
    connect_timeout: Duration,
    keep_alive: Duration,
) -> Result<etcd_client::Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display()))?
        .connect_timeout(connect_timeout)
        .http2_keep_alive_interval(keep_alive)
        .keep_alive_timeout(keep_alive)
        .keep_alive_while_idle(true);
    Ok(etcd_client::Channel::Tonic(endpoint.connect_lazy()))
}
