//! etcd's v2 keys API: dokkaa's, over etcd v3, beside that of etcd 3.4 itself.
//!
//! This process is the client of both; a third one serves dokkaa's.

mod connection;
mod load;
mod seen;
mod server;
mod waits;

use std::fmt;

use dokkaa_tests::etcd::{Etcd, EtcdOptions};
use dokkaa_tests::release::EtcdRelease;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{median, verdict};
use load::Load;
use seen::{Seen, WRITES};
pub(crate) use server::serve;
use server::{ApiProcess, Server};
use waits::{WAITS, WOKEN, Waits};

const MAY_WATCH: f64 = 1.0;
const MAY_HOLD_KB: f64 = 20.0;
/// What a wait may be told later than a watch of v3, at the median.
const MAY_ADD_MS: f64 = 1.0;

pub(crate) struct Keys {
    /// Of etcd's own v2.
    version: String,
    load: Load,
    waits: Waits,
    etcd_waits: Waits,
    seen: Seen,
    etcd_seen: Vec<f64>,
}

pub(crate) fn measure() -> anyhow::Result<Keys> {
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> anyhow::Result<Keys> {
    raise_open_files()?;
    let (below, own) = etcds()?;
    let api = ApiProcess::start(&below)?;
    let load = load::measure(api.server().address, &below.url(), own.address()).await?;
    let url = below.url();
    let seen = Box::pin(seen::of_v3(api.server().address, &url)).await?;
    let etcd_seen = seen::of_v2(own.address()).await?;
    let version = own.version()?;
    drop((api, below, own));
    // New ones, whose memory has no gaps from earlier requests.
    let (below, own) = etcds()?;
    let api = ApiProcess::start(&below)?;
    Ok(Keys {
        version,
        load,
        waits: waits::measure(api.server(), &below).await?,
        etcd_waits: waits::measure(Server::of(&own), &own).await?,
        seen,
        etcd_seen,
    })
}

/// The one that dokkaa's API is over, and one with a v2 of its own.
fn etcds() -> anyhow::Result<(Etcd, Etcd)> {
    let own = EtcdOptions {
        release: Some(EtcdRelease::Machine),
        v2: true,
        ..EtcdOptions::default()
    };
    Ok((Etcd::start(&EtcdOptions::default())?, Etcd::start(&own)?))
}

/// Each connection is one, here and in the processes that are started from here.
fn raise_open_files() -> anyhow::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    Ok(setrlimit(Resource::Nofile, limit)?)
}

fn p99(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Milliseconds: the median and the 99th percentile.
struct Took<'a>(&'a [f64]);

impl fmt::Display for Took<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.2} ms, p99 {:.2}", median(self.0), p99(self.0))
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (waits, etcd) = (&self.waits, &self.etcd_waits);
        let right = waits.right == WOKEN && waits.others == 0;
        let added = median(&self.seen.by_wait) - median(&self.seen.by_watch);
        write!(
            f,
            "the v2 keys API over etcd v3, and that of etcd {} alone;\n{}\n\
             {WAITS} waits, each for a key of its own:\n  \
             watches of etcd     {:7.0}, at most {MAY_WATCH}: {}\n  \
             resident, a wait    {:7.1} kB, at most {MAY_HOLD_KB}: {}\n  \
             etcd alone          {:7.1} kB\n  \
             told rightly        {:7} of {WOKEN} PUTs, and {} others: {}\n  \
             PUT to told         {}\n  \
             etcd alone          {}\n\
             a PUT by v3, median of {WRITES}:\n  \
             to a wait of v2     {}\n  \
             to a watch of v3    {}\n  \
             added               {added:7.2} ms, at most {MAY_ADD_MS}: {}\n  \
             v2 to v2, etcd alone{}",
            self.version,
            self.load,
            waits.watches,
            verdict(waits.watches <= MAY_WATCH),
            waits.kilobytes,
            verdict(waits.kilobytes <= MAY_HOLD_KB),
            etcd.kilobytes,
            waits.right,
            waits.others,
            verdict(right),
            Took(&waits.took),
            Took(&etcd.took),
            Took(&self.seen.by_wait),
            Took(&self.seen.by_watch),
            verdict(added <= MAY_ADD_MS),
            Took(&self.etcd_seen),
        )
    }
}
