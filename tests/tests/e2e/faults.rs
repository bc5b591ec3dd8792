//! A script of random faults on three real hosts with an etcd of three members,
//! while a user goes on changing what runs. Whatever happened, in the end
//! everything is as the user last wanted it and nothing is left over.
//!
//! `FAULTS_SEED` and `FAULTS` say which script and how long. What was done is
//! printed as it is done; the same seed does the same again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::str::FromStr;
use std::time::{Duration, Instant};

use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::etcd::Etcd;
use dokkaa_tests::host::Host;
use dokkaa_tests::{Lab, LabOptions, try_wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::report;

const APP: &str = "stormy";
/// How many faults between two looks whether everything is as wanted again.
const ROUND: usize = 8;
/// A lost host is noticed when its lease has ended.
const NOTICED: Duration = Duration::from_secs(30);
/// A mass-failure pause of half a minute, and the back-off of what was killed often.
const CONVERGED: Duration = Duration::from_secs(240);

#[test]
fn random_faults_leave_everything_as_wanted() {
    let seed = number("FAULTS_SEED", 7);
    let faults = number("FAULTS", 12);
    let lab = Lab::start(&LabOptions {
        members: 3,
        ..LabOptions::default()
    })
    .expect("a lab");
    let mut storm = Storm::new(&lab, seed);
    if let Err(error) = storm.rage(faults) {
        panic!(
            "FAULTS_SEED={seed} FAULTS={faults}: {error:#}\n{}",
            storm.diagnosis()
        );
    }
    storm.say("everything is as wanted");
}

fn number<T: FromStr>(variable: &str, usual: T) -> T {
    std::env::var(variable).map_or(usual, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number"))
    })
}

/// What is to be made good again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    AgentKilled(usize),
    EngineKilled(usize),
    EngineFrozen(usize),
    CableOut(usize),
    PowerOff(usize),
    MemberKilled(usize),
    MemberFrozen(usize),
    EtcdKilled,
}

impl Fault {
    fn host(self) -> Option<usize> {
        match self {
            Self::AgentKilled(host)
            | Self::EngineKilled(host)
            | Self::EngineFrozen(host)
            | Self::CableOut(host)
            | Self::PowerOff(host) => Some(host),
            Self::MemberKilled(_) | Self::MemberFrozen(_) | Self::EtcdKilled => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AgentKilled(host) => write!(f, "the agent of h{host} is killed"),
            Self::EngineKilled(host) => write!(f, "dockerd of h{host} is killed"),
            Self::EngineFrozen(host) => write!(f, "dockerd of h{host} is frozen"),
            Self::CableOut(host) => write!(f, "the cable of h{host} is out"),
            Self::PowerOff(host) => write!(f, "h{host} is without power"),
            Self::MemberKilled(member) => write!(f, "etcd m{member} is killed"),
            Self::MemberFrozen(member) => write!(f, "etcd m{member} is frozen"),
            Self::EtcdKilled => write!(f, "all of etcd is killed"),
        }
    }
}

/// What the user wants: per container its scale, and the version of all.
#[derive(Debug, Clone)]
struct Wanted {
    scales: BTreeMap<&'static str, u32>,
    version: u32,
}

struct Storm<'a> {
    lab: &'a Lab,
    began: Instant,
    random: Random,
    wanted: Wanted,
    faults: Vec<Fault>,
    done: usize,
}

impl<'a> Storm<'a> {
    fn new(lab: &'a Lab, seed: u64) -> Self {
        Self {
            lab,
            began: Instant::now(),
            random: Random(seed),
            wanted: Wanted {
                scales: [("web", 4), ("asker", 3), ("extra", 2)].into(),
                version: 1,
            },
            faults: Vec::new(),
            done: 0,
        }
    }

    fn say(&self, what: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        report(&format!("[{seconds:7.1} s] {:3}: {what}", self.done));
    }

    fn rage(&mut self, faults: usize) -> anyhow::Result<()> {
        for container in ["web", "asker", "extra"] {
            self.put(container)?;
        }
        self.converge()?;
        while self.done < faults {
            self.done += 1;
            // At most two troubles at a time, so that there is mostly a way on.
            if self.faults.len() > 1 || (!self.faults.is_empty() && self.random.below(3) == 0) {
                let which = self.random.below(self.faults.len());
                let fault = self.faults.remove(which);
                self.mend(fault)?;
            }
            self.strike()?;
            if self.done.is_multiple_of(ROUND) {
                self.calm_down()?;
            }
        }
        self.calm_down()
    }

    // === faults ===

    fn strike(&mut self) -> anyhow::Result<()> {
        let host = 1 + self.random.below(3);
        let member = 1 + self.random.below(3);
        let kind = self.random.below(14);
        let notice = self.random.below(2) == 0;
        let free = !self.faults.iter().any(|fault| fault.host() == Some(host));
        let etcd_whole = self.faults.iter().all(|fault| fault.host().is_some());
        let fault = match kind {
            0 if free => Fault::AgentKilled(host),
            1 if free => Fault::EngineKilled(host),
            2 if free => Fault::EngineFrozen(host),
            3 if free => Fault::CableOut(host),
            4 if free => Fault::PowerOff(host),
            5 if etcd_whole => Fault::MemberKilled(member),
            6 if etcd_whole => Fault::MemberFrozen(member),
            7 if etcd_whole => Fault::EtcdKilled,
            8 if free => return self.restart(host),
            9 if etcd_whole => return self.compact(),
            10 | 11 if free => return self.by_hand(host, kind == 10),
            _ => return self.user(),
        };
        self.say(&format!(
            "{fault}{}",
            if notice { ", until it is noticed" } else { "" }
        ));
        let at = |host: usize| self.lab.host(host);
        let etcd = |member: usize| &self.lab.members()[member - 1];
        match fault {
            Fault::AgentKilled(host) => at(host).kill_agent()?,
            Fault::EngineKilled(host) => at(host).engine().kill()?,
            Fault::EngineFrozen(host) => at(host).engine().signal(Signal::STOP)?,
            Fault::CableOut(host) => at(host).unplug()?,
            Fault::PowerOff(host) => at(host).power_off()?,
            Fault::MemberKilled(member) => etcd(member).kill()?,
            Fault::MemberFrozen(member) => etcd(member).signal(Signal::STOP)?,
            Fault::EtcdKilled => self.lab.members().iter().try_for_each(Etcd::kill)?,
        }
        self.faults.push(fault);
        if notice { self.notice(fault) } else { Ok(()) }
    }

    /// Waits until the cluster has seen the fault. Which is the first to be seen
    /// may depend on the other faults, so what is not seen is no failure.
    fn notice(&self, fault: Fault) -> anyhow::Result<()> {
        let lost = match fault {
            Fault::AgentKilled(host) | Fault::CableOut(host) | Fault::PowerOff(host) => {
                format!("/hosts/h{host}/record")
            }
            _ => return Ok(()),
        };
        if !self.has_majority() {
            return Ok(());
        }
        try_wait_for(&format!("the end of {lost}"), NOTICED, || {
            match self.healthy_member().get(&lost) {
                Ok(None) => Ok(()),
                Ok(Some(record)) => Err(record),
                Err(error) => Err(format!("{error:#}")),
            }
        })
    }

    fn mend(&mut self, fault: Fault) -> anyhow::Result<()> {
        let live_restore = self.random.below(2) == 0;
        self.say(&format!("no more: {fault}"));
        let options = AgentOptions::default();
        match fault {
            Fault::AgentKilled(host) => self.lab.host(host).launch_agent(&options),
            Fault::EngineKilled(host) => {
                let more: &[&str] = if live_restore {
                    &["--live-restore"]
                } else {
                    &[]
                };
                self.lab.host(host).engine().start_again(more)
            }
            Fault::EngineFrozen(host) => self.lab.host(host).engine().signal(Signal::CONT),
            Fault::CableOut(host) => self.lab.host(host).plug(),
            Fault::PowerOff(host) => {
                self.lab.host(host).power_on()?;
                self.lab.host(host).launch_agent(&options)
            }
            Fault::MemberKilled(member) => {
                let member = &self.lab.members()[member - 1];
                member.start_again()?;
                member.wait_serving()
            }
            Fault::MemberFrozen(member) => self.lab.members()[member - 1].signal(Signal::CONT),
            Fault::EtcdKilled => {
                let mut members = self.lab.members().iter();
                members.clone().try_for_each(Etcd::start_again)?;
                members.try_for_each(Etcd::wait_serving)
            }
        }
    }

    fn restart(&mut self, host: usize) -> anyhow::Result<()> {
        self.say(&format!("the agent of h{host} is restarted"));
        self.lab.host(host).stop_agent()?;
        self.lab.host(host).launch_agent(&AgentOptions::default())
    }

    fn compact(&mut self) -> anyhow::Result<()> {
        self.say("etcd is compacted");
        self.lab.etcd().compact()
    }

    /// Somebody kills or removes a container of ours.
    fn by_hand(&mut self, host: usize, remove: bool) -> anyhow::Result<()> {
        let all = self.lab.host(host).containers(APP)?;
        let which = self.random.below(all.len().max(1));
        let Some(one) = all.get(which).filter(|one| one.runs()) else {
            return self.user();
        };
        let words: &[&str] = if remove {
            &["rm", "--force"]
        } else {
            &["kill"]
        };
        self.say(&format!(
            "docker {} {} on h{host}",
            words.join(" "),
            one.name
        ));
        // It may have gone by itself meanwhile.
        self.lab
            .host(host)
            .run(&[&["docker"], words, &[&one.id]].concat())?;
        Ok(())
    }

    // === the user ===

    fn user(&mut self) -> anyhow::Result<()> {
        let what = self.random.below(4);
        let scale = self.random.below(6);
        if !self.has_majority() {
            self.say("the user finds etcd away");
            return Ok(());
        }
        match what {
            0 | 1 => {
                self.wanted.scales.insert("web", 1 + scale as u32);
                self.say(&format!("web is scaled to {}", 1 + scale));
                self.put("web")
            }
            2 => {
                self.wanted.version += 1;
                self.say(&format!(
                    "web is updated to version {}",
                    self.wanted.version
                ));
                self.put("web")
            }
            _ => {
                self.say("extra is deleted and written again");
                self.api(|host| host.delete(APP, "extra"), &[200, 404])?;
                self.wanted.scales.insert("extra", 1 + scale as u32 % 3);
                self.put("extra")
            }
        }
    }

    fn put(&self, container: &'static str) -> anyhow::Result<()> {
        let manifest = self.manifest(container).to_string();
        self.api(|host| host.put(APP, container, &manifest), &[200, 201])
    }

    /// Asks the hosts until one accepts it.
    fn api(
        &self,
        ask: impl Fn(&Host) -> anyhow::Result<dokkaa_tests::http::Answer>,
        taken: &[u16],
    ) -> anyhow::Result<()> {
        try_wait_for("a host that accepts it", NOTICED, || {
            let mut refusals = Vec::new();
            for host in self.lab.hosts() {
                match ask(host) {
                    Ok(answer) if taken.contains(&answer.status) => return Ok(()),
                    Ok(answer) => refusals.push(format!("{}: {answer:?}", host.name())),
                    Err(error) => refusals.push(format!("{}: {error:#}", host.name())),
                }
            }
            Err(refusals.join("\n"))
        })
    }

    fn manifest(&self, container: &'static str) -> Value {
        let scale = self.wanted.scales[container];
        let mut manifest = match container {
            "asker" => super::client("web", "WEB"),
            _ => super::web("x"),
        };
        manifest["scale"] = json!(scale);
        if container == "web" {
            manifest["env"] = json!({ "VERSION": self.wanted.version.to_string() });
            let page =
                "mkdir -p /w && echo version $VERSION >/w/index.html && exec httpd -f -p 80 -h /w";
            manifest["command"] = json!(["sh", "-c", page]);
        } else if container == "extra" {
            manifest["services"] = json!({ "extra": 80 });
        }
        manifest
    }

    // === what there is ===

    fn has_majority(&self) -> bool {
        !self.faults.contains(&Fault::EtcdKilled)
    }

    fn healthy_member(&self) -> &Etcd {
        let members = self.lab.members().iter().zip(1..);
        members
            .filter(|(_, member)| {
                !self.faults.contains(&Fault::MemberKilled(*member))
                    && !self.faults.contains(&Fault::MemberFrozen(*member))
            })
            .map(|(etcd, _)| etcd)
            .next()
            .expect("at most one member has a fault")
    }

    /// Ends all faults and waits until everything is as wanted.
    fn calm_down(&mut self) -> anyhow::Result<()> {
        while let Some(fault) = self.faults.pop() {
            self.mend(fault)?;
        }
        self.converge()
    }

    fn converge(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let rollout = format!("/claims/{APP}/web/rollout");
        let is_halted = |text: &str| {
            let rollout = serde_json::from_str::<Value>(text);
            rollout.is_ok_and(|rollout| rollout["failed"] == true)
        };
        try_wait_for("everything to be as wanted", CONVERGED, || {
            // What was killed while it was updated gives the update up: the
            // user has another try.
            match self.lab.etcd().get(&rollout) {
                Ok(Some(text)) if is_halted(&text) => {
                    self.wanted.version += 1;
                    self.say(&format!(
                        "given up; again as version {}",
                        self.wanted.version
                    ));
                    self.put("web").map_err(|error| format!("{error:#}"))?;
                    Err("the update was given up".to_owned())
                }
                Ok(_) => self.is_as_wanted(),
                Err(error) => Err(format!("{error:#}")),
            }
        })?;
        let took = began.elapsed().as_secs_f64();
        self.say(&format!("as wanted after {took:.1} s"));
        Ok(())
    }

    fn is_as_wanted(&self) -> Result<(), String> {
        let keys: BTreeMap<String, String> = ["/claims/", "/hosts/", "/status/"]
            .iter()
            .map(|prefix| self.lab.etcd().list(prefix))
            .collect::<anyhow::Result<Vec<_>>>()
            .map_err(|error| format!("{error:#}"))?
            .into_iter()
            .flatten()
            .collect();
        let value = |key: &str| -> Value {
            let text = keys.get(key).map_or("null", String::as_str);
            serde_json::from_str(text).unwrap_or_default()
        };
        for host in self.lab.hosts() {
            let record = value(&format!("/hosts/{}/record", host.name()));
            if record["state"] != "up" || record["engine"] == false {
                return Err(format!("{}: {record}", host.name()));
            }
        }
        // Each wanted slot has one owner that says it is ready …
        let mut owners = BTreeMap::new();
        for (container, scale) in &self.wanted.scales {
            for slot in 0..*scale {
                let key = format!("/claims/{APP}/{container}/slots/{slot}");
                let (claim, state) = (value(&key), value(&format!("{key}.state")));
                if state["state"] != "ready" || state["instance"] != claim["instance"] {
                    return Err(format!("{key}: {claim} {state}"));
                }
                let text = |field: &str| claim[field].as_str().unwrap_or_default().to_owned();
                owners.insert(
                    text("instance"),
                    (text("host"), (*container).to_owned(), slot),
                );
            }
        }
        // … nothing else is claimed or told of …
        let surplus = keys.keys().find(|key| {
            let parts: Vec<&str> = key.split('/').collect();
            match parts.as_slice() {
                ["", "claims", _, container, "slots", slot] => {
                    let slot = slot.trim_end_matches(".state").parse().unwrap_or(u32::MAX);
                    slot >= self.wanted.scales.get(container).copied().unwrap_or(0)
                }
                ["", "status", _, container, slot] => {
                    let slot = slot.parse().unwrap_or(u32::MAX);
                    slot >= self.wanted.scales.get(container).copied().unwrap_or(0)
                }
                ["", "claims", _, _, "updating", _] => true,
                _ => false,
            }
        });
        if let Some(key) = surplus {
            return Err(format!("{key} is left"));
        }
        // … and the engines have that and nothing else, in the last version.
        let mut running = BTreeSet::new();
        for host in self.lab.hosts() {
            let ours = host
                .engine()
                .containers(&["dokkaa.cluster"])
                .map_err(|error| format!("{error:#}"))?;
            for one in ours {
                let instance = one.label("instance").to_owned();
                let slot = (
                    host.name().to_owned(),
                    one.label("container").to_owned(),
                    one.label("slot").parse().unwrap_or(u32::MAX),
                );
                if one.runs() && owners.get(&instance) == Some(&slot) {
                    if slot.1 == "web" {
                        self.is_last_version(host, &one.id)?;
                    }
                    running.insert(instance);
                } else if one.state != "exited" || !owners.values().any(|owner| *owner == slot) {
                    // The last one that ended is kept for its log.
                    return Err(format!("{} has {one:?}", host.name()));
                }
            }
        }
        if running.len() != owners.len() {
            return Err(format!("{running:?} of {owners:#?} run"));
        }
        self.is_reached()
    }

    fn is_last_version(&self, host: &Host, id: &str) -> Result<(), String> {
        let seen = host
            .engine()
            .inspect(id)
            .map_err(|error| format!("{error:#}"))?;
        let wanted = format!("VERSION={}", self.wanted.version);
        let variables = seen["Config"]["Env"].as_array();
        if variables.is_some_and(|all| all.iter().any(|one| *one == wanted.as_str())) {
            Ok(())
        } else {
            Err(format!("{id} has not {wanted}: {}", seen["Config"]["Env"]))
        }
    }

    /// Each client gets a page of the last version, every time.
    fn is_reached(&self) -> Result<(), String> {
        let page = format!("version {}", self.wanted.version);
        for (host, one) in self
            .lab
            .containers(APP)
            .map_err(|error| format!("{error:#}"))?
        {
            if one.label("container") != "asker" || !one.runs() {
                continue;
            }
            let script = "for i in 1 2 3 4 5 6; do \
                timeout 2 wget -q -O - http://$SERVICE_WEB_ADDR:$SERVICE_WEB_PORT/ || exit 1; done";
            let got = host
                .docker(&["exec", &one.id, "sh", "-c", script])
                .map_err(|error| format!("{error:#}"))?;
            if got.lines().any(|line| line != page) {
                return Err(format!("{got} instead of {page}"));
            }
        }
        Ok(())
    }

    fn diagnosis(&self) -> String {
        let mut text = format!("faults: {:?}; wanted: {:?}\n", self.faults, self.wanted);
        for prefix in ["/claims/", "/hosts/", "/status/", "/dokkaa/"] {
            for (key, value) in self.lab.etcd().list(prefix).unwrap_or_default() {
                writeln!(text, "{key} {value}").ok();
            }
        }
        for host in self.lab.hosts() {
            writeln!(text, "--- {} ---", host.name()).ok();
            if let Ok(ran) = host.dokkaa(&["ps"]) {
                text += &ran.stdout;
            }
            text += &dokkaa_tests::process::tail(&host.agent_log(), 60);
            text.push('\n');
        }
        text
    }
}

/// Numbers that follow from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }
}
