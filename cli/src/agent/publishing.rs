//! What this host publishes under `/skydns`, with `--skydns-publish`.

use std::sync::Arc;

use conductor::Published;
use manifests::HostName;
use store::skydns::publish::{Wanted, publish};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::Misconfigured;
use super::parts::{Parts, Tasks};

pub(super) fn start(parts: &Parts, tasks: &mut Tasks) -> Result<(), Misconfigured> {
    if !parts.config.skydns_publish {
        return Ok(());
    }
    let zone = dns::Zone::new(&parts.config.domain, []).map_err(Misconfigured::by)?;
    let host = parts.host.name().clone();
    let (says, wanted) = watch::channel(None);
    let (kv, name) = (parts.kv.clone(), host.clone());
    tasks.spawn(|stop| publish(kv, name, wanted, stop));
    let published = parts.published.clone();
    tasks.spawn(|stop| follow(published, zone, host, says, stop));
    Ok(())
}

/// Says what is to be published with each view.
async fn follow(
    published: Arc<Published>,
    zone: dns::Zone,
    host: HostName,
    says: watch::Sender<Option<Wanted>>,
    stop: CancellationToken,
) {
    let mut revision = published.revision.subscribe();
    loop {
        says.send_replace(wanted(&published, &zone, &host));
        tokio::select! {
            () = stop.cancelled() => return,
            changed = revision.changed() => if changed.is_err() { return },
        }
    }
}

/// None while etcd is away, or distrusted.
fn wanted(published: &Published, zone: &dns::Zone, host: &HostName) -> Option<Wanted> {
    let seen = published.seen.load();
    let seen = seen.as_ref().as_ref()?;
    if seen.stale || seen.distrust.is_some() {
        return None;
    }
    let record = seen.snapshot.record(host)?;
    Some(Wanted {
        record: record.modified.0,
        keys: zone.published(&published.directory.load(), host),
    })
}
