//! The conductor: plans and carries out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use conductor::Setup;
use conductor::actions::Actions;
use conductor::allocation::Allocation;
use conductor::images::{Images, PullSettings, RECORD, SpoolPlace, collect};
use conductor::instances::Instances;
use conductor::orphans::Orphans;
use model::Host;
use store::view::Updates;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::dataplane::Dataplane;
use super::error::Misconfigured;
use super::parts::{Parts, Tasks};

/// Pulls at a time: more share one line.
const PULLS_AT_ONCE: usize = 3;
/// All hosts pull a new version's image at the same moment.
const PULL_JITTER: Duration = Duration::from_millis(500);

/// The images of this host's engine.
pub(super) fn images(parts: &Parts) -> Images {
    Images::new(
        parts.engine.clone(),
        PullSettings {
            docker_config: parts.config.docker_config.clone(),
            at_once: PULLS_AT_ONCE,
            jitter: PULL_JITTER,
            record: Some(parts.dir.path().join(RECORD)),
            spool: Some(SpoolPlace {
                folder: parts.dir.path().to_owned(),
                limits: parts.config.disk_limits,
            }),
        },
    )
}

/// `listening` is where the agent itself listens.
pub(super) fn start(
    parts: &Parts,
    images: Images,
    dataplane: Dataplane,
    updates: Updates,
    mut listening: Vec<SocketAddr>,
    work: CancellationToken,
    tasks: &mut Tasks,
) -> anyhow::Result<JoinHandle<()>> {
    let (config, dir, engine) = (&parts.config, parts.dir.path(), &parts.engine);
    let this = Host {
        name: parts.host.name().clone(),
        id: parts.dir.machine(),
        surroundings: dataplane.surroundings.borrow().clone(),
    };
    let record = parts.host.clone();
    let tell = move |disk: model::disk::DiskReport| {
        record.update_record(|record| {
            record.disk = disk.percent;
            record.disk_full = disk.full;
        });
    };
    let (collected, published) = (images.clone(), parts.published.clone());
    let (limits, told) = (config.disk_limits, parts.disk);
    tasks.spawn(|stop| collect::run(collected, published, limits, told, tell, stop));
    let range = config.port_range.clone();
    listening.extend(&dataplane.dns);
    let ports = Allocation::open(range, dir, parts.published.clone(), listening);
    let (ports, cluster) = (Arc::new(ports), parts.cluster);
    let actions = Actions::new(engine.clone(), images, ports, this.clone(), cluster);
    let setup = Setup {
        surroundings: dataplane.surroundings,
        host: this,
        cluster,
        engine: engine.clone(),
        kv: parts.kv.clone(),
        updates,
        published: parts.published.clone(),
        actions,
        look_again: dataplane.look_again,
        record: parts.host.clone(),
        orphans: Orphans::open(dir).map_err(Misconfigured::by)?,
        instances: Instances::open(dir).context("cannot read instances.json")?,
    };
    Ok(tokio::spawn(conductor::run(setup, work)))
}
