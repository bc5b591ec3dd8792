//! An agent with two hundred slots is stopped and started: what that writes and
//! what it does to its engine.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Context;
use store::kv::Event;

use crate::agents::Cluster;
use crate::verdict;

const SLOTS: usize = 200;

pub(crate) struct Restart {
    writes: i64,
    touched: usize,
    took: f64,
}

pub(crate) fn measure() -> anyhow::Result<Restart> {
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> anyhow::Result<Restart> {
    let mut cluster = Cluster::start(1).await?;
    let position = cluster.shared.position();
    cluster.put("bench/web", SLOTS).await?;
    cluster.ready(position, SLOTS).await?;
    cluster.settle().await?;
    let revision = i64::try_from(cluster.etcd.revision()?)?;
    let position = cluster.shared.position();
    let agent = cluster.agents.first_mut().context("an agent")?;
    let before = agent.engine.world(|world, _| world.list(None))?.labelled;
    let begin = Instant::now();
    agent.stop().await?;
    agent.start().await?;
    let took = begin.elapsed().as_secs_f64();
    cluster.settle().await?;
    let after = cluster.agents[0]
        .engine
        .world(|world, _| world.list(None))?;
    let written = cluster.shared.events(position);
    let newest = written.iter().map(Event::modified).max();
    Ok(Restart {
        writes: i64::try_from(cluster.etcd.revision()?)?.max(newest.unwrap_or_default()) - revision,
        touched: before
            .iter()
            .filter(|one| !after.labelled.contains(one))
            .count(),
        took,
    })
}

impl Cluster {
    /// Waits until nothing is written any more, in the watched range or outside of it.
    async fn settle(&self) -> anyhow::Result<()> {
        loop {
            let revision = self.etcd.revision()?;
            self.shared.quiet(Duration::from_secs(6)).await?;
            if self.etcd.revision()? == revision {
                return Ok(());
            }
        }
    }
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an agent that restarts with {SLOTS} slots (engine in memory):\n  \
             until it is live    {:7.2} s\n  \
             writes to etcd      {:7}, at most 2: {}\n  \
             containers touched  {:7}, none: {}",
            self.took,
            self.writes,
            verdict(self.writes <= 2),
            self.touched,
            verdict(self.touched == 0),
        )
    }
}
