//! A thousand hosts and twenty thousand slots: what one agent takes.
//!
//! The other 999 hosts are keys that the bench writes. One agent runs in a
//! process of its own, for its memory; what an event and a plan take is measured
//! here, on the view and the plan that it is made of.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use manifests::keys::Key;
use manifests::{ContainerId, InstanceId, SlotId};
use model::observed::Surroundings;
use model::records::{Claim, Cluster, Member, Phase, SlotState, Version};
use model::snapshot::Snapshot;
use model::{Directory, Extent, Host, Millis, Observed, Rules, Trust};
use planner::{AgentMemory, Inputs, plan};
use store::kv::{Kv, Op, Range, Txn, Watch};
use store::view::{Answer, FirstRead, Step, View, ViewOptions, ViewUpdate};
use uuid::Uuid;

use crate::agents::{Agent, CAP, IMAGE, client, host_name, record, watched};
use crate::idle::resident_mb;
use crate::{median, verdict};

const HOSTS: u16 = 1_000;
const SLOTS: u32 = 20_000;
/// Slots of the large containers, and of the small ones.
const LARGE: (u32, u32) = (10, 1_000);
const SMALL: (u32, u32) = (500, 20);
const EVENTS: usize = 500;
const PLANS: usize = 20;
const MAY_TAKE_EVENT_MS: f64 = 1.0;
const MAY_TAKE_PLAN_MS: f64 = 200.0;
const MAY_HOLD_MB: f64 = 100.0;

pub(crate) struct Size {
    large: Vec<f64>,
    small: Vec<f64>,
    record: Vec<f64>,
    plan: Vec<f64>,
    /// With slots to be taken over from a lost host.
    takeover: Vec<f64>,
    list: f64,
    resident: f64,
}

pub(crate) fn measure() -> anyhow::Result<Size> {
    tokio::runtime::Runtime::new()?.block_on(run())
}

/// The process whose memory is measured: one agent, until the end of its input.
pub(crate) fn agent(words: &[String]) -> anyhow::Result<()> {
    let [url, disk] = words else {
        bail!("an agent needs an etcd and a folder");
    };
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut agent = Agent::new(0, Arc::new(client(url)?), PathBuf::from(disk))?;
        agent.start().await?;
        crate::say("ready")?;
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
        agent.stop().await
    })
}

async fn run() -> anyhow::Result<Size> {
    let etcd = dokkaa_tests::etcd::Etcd::start(&dokkaa_tests::etcd::EtcdOptions::default())?;
    let kv = client(&etcd.url())?;
    let cluster = Cluster {
        id: Uuid::new_v4(),
        epoch: 0,
    };
    fill(&kv, &cluster).await?;
    let resident = memory(&etcd.url(), &kv).await?;

    let begin = Instant::now();
    let mut follower = Follower::start(&kv, &cluster).await?;
    let list = begin.elapsed().as_secs_f64();
    let large = follower.slot_events(&kv, "large/c0").await?;
    let small = follower.slot_events(&kv, "small/c0").await?;
    let record = follower.record_events(&kv).await?;
    let me = this_host()?;
    let plan = plans(&follower.snapshot, &me)?;
    let lost = Op::delete(Key::HostRecord(host_name(2)?));
    follower.event(&kv, lost).await?;
    let takeover = plans(&follower.snapshot, &me)?;
    Ok(Size {
        large,
        small,
        record,
        plan,
        takeover,
        list,
        resident,
    })
}

/// Writes the cluster: every slot is ready, and none is the first host's.
async fn fill(kv: &dyn Kv, cluster: &Cluster) -> anyhow::Result<()> {
    let mut ops = vec![Op::put_json(Key::Cluster, cluster)];
    for number in 1..HOSTS {
        let (name, id) = (host_name(number)?, Uuid::new_v4());
        ops.push(Op::put_json(Key::Member(name.clone()), &Member { id }));
        let record = record(id, address(number));
        ops.push(Op::put_json(Key::HostRecord(name), &record));
    }
    write(kv, ops).await?;
    let of = |app: &'static str, (containers, slots): (u32, u32)| {
        (0..containers).map(move |n| (format!("{app}/c{n}"), slots))
    };
    let mut host = 0;
    for (id, slots) in of("large", LARGE).chain(of("small", SMALL)) {
        let id: ContainerId = id.parse()?;
        let manifest = serde_json::json!({"image": IMAGE, "scale": slots, "services": {"web": 80}});
        let put = Op::put(Key::Manifest(id.clone()), manifest.to_string());
        let rev = write(kv, vec![put]).await?;
        let version = version(manifest);
        let mut ops = vec![Op::put_json(Key::Version(id.clone(), rev), &version)];
        for number in 0..slots {
            host = host % (HOSTS - 1) + 1;
            let slot = id.slot(number);
            let claim = Claim {
                host: host_name(host)?,
                instance: instance(&slot)?,
                version: model::VersionId(rev),
            };
            ops.push(Op::put_json(Key::Claim(slot.clone()), &claim));
            let state = state(&slot, address(host), Phase::Ready)?;
            ops.push(Op::put_json(Key::State(slot), &state));
        }
        write(kv, ops).await?;
    }
    Ok(())
}

async fn write(kv: &dyn Kv, ops: Vec<Op>) -> anyhow::Result<i64> {
    let mut revision = 0;
    for part in ops.chunks(100) {
        revision = kv.txn(Txn::new(vec![], part.to_vec())).await?.revision;
    }
    Ok(revision)
}

pub(crate) fn version(manifest: serde_json::Value) -> Version {
    Version {
        manifest: manifest.into(),
        image: format!("sha256:{:064x}", 2),
        content: None,
        good: true,
        prepared: false,
        volumes: Vec::new(),
        found: None,
    }
}

pub(crate) fn address(host: u16) -> IpAddr {
    let [high, low] = host.to_be_bytes();
    Ipv4Addr::new(10, 0, high, low).into()
}

pub(crate) fn instance(slot: &SlotId) -> anyhow::Result<InstanceId> {
    let text = slot.to_string();
    let bytes: [u8; 16] = std::array::from_fn(|n| text.as_bytes().get(n).copied().unwrap_or(b'.'));
    let number = Uuid::from_bytes(bytes).as_u128() ^ u128::from(slot.slot);
    Ok(Uuid::from_u128(number).to_string().parse()?)
}

pub(crate) fn state(slot: &SlotId, addr: IpAddr, state: Phase) -> anyhow::Result<SlotState> {
    Ok(SlotState {
        instance: instance(slot)?,
        state,
        addr,
        ports: [("web".parse()?, 20_000 + (slot.slot % 1_000) as u16)].into(),
    })
}

/// Starts an agent of its own and measures its memory when it has done its first work.
async fn memory(url: &str, kv: &dyn Kv) -> anyhow::Result<f64> {
    let disk = tempfile::Builder::new().prefix("dokkaa-bench-").tempdir()?;
    let mut process = Command::new(std::env::current_exe()?)
        .args(["agent", url])
        .arg(disk.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let input = process.stdin.take();
    let mut said = String::new();
    BufReader::new(process.stdout.take().context("its output")?).read_line(&mut said)?;
    if said.trim() != "ready" {
        bail!("the agent ended");
    }
    // Work of its own, which it alone gets: all others have more.
    let id: ContainerId = "own/web".parse()?;
    let manifest = serde_json::json!({"image": IMAGE, "scale": 20, "services": {"web": 80}});
    let put = Op::put(Key::Manifest(id.clone()), manifest.to_string());
    write(kv, vec![put]).await?;
    let ended = Instant::now() + CAP;
    for number in 0..20 {
        let key = Key::State(id.slot(number));
        while kv.range(Range::key(&key)).await?.kvs.is_empty() {
            if Instant::now() > ended {
                bail!("the agent does not start its slots");
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    let resident = resident_mb(process.id())?;
    if let Some(mut input) = input {
        input.write_all(b"\n")?;
    }
    process.wait()?;
    Ok(resident)
}

fn this_host() -> anyhow::Result<Host> {
    Ok(Host {
        name: host_name(1)?,
        id: Uuid::new_v4(),
        surroundings: Surroundings {
            host_ip: address(1),
            gateway: IpAddr::from([172, 17, 0, 1]),
            dns: None,
            domain: "skydns.local".to_owned(),
            network: "bridge".to_owned(),
        },
    })
}

/// How long a whole plan takes, each in milliseconds.
fn plans(snapshot: &Snapshot, host: &Host) -> anyhow::Result<Vec<f64>> {
    let (mut memory, now) = (AgentMemory::default(), Millis(60_000));
    memory.see(snapshot, false, now);
    let observed = Observed::new(Vec::new(), 0);
    let name: InstanceId = Uuid::new_v4().to_string().parse()?;
    let mut took = Vec::new();
    for _ in 0..PLANS {
        let begin = Instant::now();
        let planned = plan(
            Inputs {
                snapshot,
                observed: &observed,
                memory: &memory,
                host,
                trust: Trust::Full,
                rules: Rules::default(),
                extent: Extent::Whole,
                now,
            },
            &mut || name.clone(),
        );
        took.push(begin.elapsed().as_secs_f64() * 1e3);
        drop(planned);
    }
    Ok(took)
}

/// A view that follows etcd, and the directory made from it.
struct Follower {
    view: View,
    watch: Watch,
    snapshot: Snapshot,
    directory: Directory,
    begun: Instant,
}

impl Follower {
    async fn start(kv: &dyn Kv, cluster: &Cluster) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let now = || Millis(begun.elapsed().as_millis() as u64);
        let mut view = View::new(&ViewOptions::new(cluster.clone(), None, None), now());
        let mut opened = None;
        let watch = loop {
            let answer = match view.step() {
                Step::Read { .. } => {
                    let read = kv.range(Range::key(Key::Cluster)).await?;
                    Answer::Read(FirstRead {
                        cluster: Some(cluster.clone()),
                        revision: read.revision,
                    })
                }
                Step::Range(range) => Answer::Page(kv.range(range).await?),
                Step::Watch { from } => {
                    opened = Some(kv.watch(watched(), from, false).await?);
                    Answer::Opened
                }
                Step::Follow => break opened.context("it follows no watch")?,
            };
            view.answer(answer, now());
        };
        let first = view.take_update().context("a first view")?;
        Ok(Self {
            view,
            watch,
            directory: Directory::new(&first.snapshot),
            snapshot: first.snapshot,
            begun,
        })
    }

    /// Writes, and gives how long it takes to take in what the watch says of it, in milliseconds.
    async fn event(&mut self, kv: &dyn Kv, op: Op) -> anyhow::Result<f64> {
        let revision = write(kv, vec![op]).await?;
        let mut took = 0.0;
        while self.snapshot.revision < revision {
            let said = self.watch.replies.recv().await.context("the watch ended")?;
            let begin = Instant::now();
            let now = Millis(self.begun.elapsed().as_millis() as u64);
            self.view.answer(Answer::Reply(said), now);
            if let Some(update) = self.view.take_update() {
                self.take(update);
            }
            took += begin.elapsed().as_secs_f64() * 1e3;
        }
        Ok(took)
    }

    fn take(&mut self, update: ViewUpdate) {
        self.directory.update(&update.snapshot, &update.touched);
        self.snapshot = update.snapshot;
    }

    /// Slots of one container come and go.
    async fn slot_events(&mut self, kv: &dyn Kv, container: &str) -> anyhow::Result<Vec<f64>> {
        let id: ContainerId = container.parse()?;
        let known = self.snapshot.containers.get(&id).context("a container")?;
        let scale = known.scale().context("a scale")?;
        let mut took = Vec::new();
        for number in 0..EVENTS {
            let slot = id.slot(number as u32 % scale);
            let phase = [Phase::Unready, Phase::Ready][number % 2];
            let put = Op::put_json(Key::State(slot.clone()), &state(&slot, address(1), phase)?);
            took.push(self.event(kv, put).await?);
        }
        Ok(took)
    }

    /// Hosts change what they say of themselves.
    async fn record_events(&mut self, kv: &dyn Kv) -> anyhow::Result<Vec<f64>> {
        let mut took = Vec::new();
        for number in 0..EVENTS {
            let name = host_name(number as u16 % (HOSTS - 1) + 1)?;
            let known = self.snapshot.record(&name).context("a record")?;
            let mut record = known.value.clone();
            record.foreign += 1;
            let put = Op::put_json(Key::HostRecord(name), &record);
            took.push(self.event(kv, put).await?);
        }
        Ok(took)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = |f: &mut fmt::Formatter<'_>, what: &str, took: &[f64]| {
            let took = median(took);
            let verdict = verdict(took < MAY_TAKE_EVENT_MS);
            write!(
                f,
                "\n  {what} {took:7.3} ms, under {MAY_TAKE_EVENT_MS}: {verdict}"
            )
        };
        write!(
            f,
            "one agent beside {} other hosts with {SLOTS} slots; medians of {EVENTS} events (view and directory) and {PLANS} plans:",
            HOSTS - 1
        )?;
        event(f, "a slot of 1,000    ", &self.large)?;
        event(f, "a slot of 20       ", &self.small)?;
        event(f, "a host's record    ", &self.record)?;
        for (what, took) in [
            ("a whole plan       ", &self.plan),
            ("… with a lost host ", &self.takeover),
        ] {
            let took = median(took);
            let verdict = verdict(took < MAY_TAKE_PLAN_MS);
            write!(
                f,
                "\n  {what} {took:7.1} ms, under {MAY_TAKE_PLAN_MS}: {verdict}"
            )?;
        }
        write!(
            f,
            "\n  list, until it follows {:.2} s\n  \
             resident            {:7.1} MB, under {MAY_HOLD_MB}: {}",
            self.list,
            self.resident,
            verdict(self.resident < MAY_HOLD_MB),
        )
    }
}
