//! Whether a running instance takes traffic: when to look at it, and what the looks say.
//!
//! `Watch` is a pure state machine for one process of one instance: it says
//! what to look at and when, and is told what was seen. `look` is the reader.
//! A process that was started anew gets a new watch. Nobody is connected to.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use manifests::Manifest;
use manifests::manifest::Ready;
use model::Millis;
use model::backoff::Exponential;
use model::observed::{Check, ContainerPort, Health, ObservedContainer, Readiness, Running};

use engine::{Engine, EngineError};

/// Between probes of sockets.
const SOCKETS: Exponential = Exponential::new(Duration::from_millis(100), Duration::from_secs(5));
/// Between runs of the healthcheck while Docker has no verdict.
const HEALTH: Exponential = Exponential::new(Duration::from_secs(1), Duration::from_secs(10));
/// A container without a check and without services is ready when it has run for so long.
const SETTLED: Duration = Duration::from_secs(1);
/// Pause between the looks that take readiness away.
const DOUBT: Duration = Duration::from_secs(1);
/// So many looks in a row must say no to take readiness away.
const LOOKS: u8 = 3;
/// So many looks in a row must fail to be worth a word in the log.
const FAILURES: u8 = 3;

/// What makes an instance ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Criterion {
    /// Docker's verdict on the healthcheck, or before it has one a run of our own.
    Health(Check),
    /// These ports listen.
    Listening(BTreeSet<ContainerPort>),
    /// It has run for a second.
    Settled,
}

impl Criterion {
    /// What makes this container ready.
    pub fn of(container: &ObservedContainer, manifest: &Manifest) -> Self {
        if let Some(check) = &container.check {
            return Self::Health(check.clone());
        }
        let ports: BTreeSet<ContainerPort> = manifest
            .services
            .values()
            .filter(|service| service.ready == Ready::Listening)
            .map(|service| ContainerPort {
                port: service.port,
                protocol: service.protocol,
            })
            .collect();
        if ports.is_empty() {
            Self::Settled
        } else {
            Self::Listening(ports)
        }
    }
}

/// What one look saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// It takes traffic.
    Yes,
    /// It does not; why, for people.
    No(String),
}

/// The readiness of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    criterion: Criterion,
    /// Which process: a new start is a new watch.
    started_at: i64,
    readiness: Readiness,
    /// The last look that said no, since one said yes.
    doubt: Option<String>,
    noes: u8,
    /// Looks in a row that failed.
    failures: u8,
    pause: Exponential,
    next: Millis,
}

impl Watch {
    /// Of this process, seen at `now` for the first time.
    pub fn new(criterion: Criterion, running: &Running, now: Millis) -> Self {
        Self {
            pause: pause(&criterion),
            criterion,
            started_at: running.started_at,
            readiness: Readiness::Starting,
            doubt: None,
            noes: 0,
            failures: 0,
            next: now,
        }
    }

    /// It is about this process.
    pub fn is_of(&self, running: &Running) -> bool {
        self.started_at == running.started_at
    }

    /// What is looked at.
    pub fn criterion(&self) -> &Criterion {
        &self.criterion
    }

    /// Looks at this from now on. What is known stays until a look says otherwise.
    pub fn judge_by(&mut self, criterion: Criterion, now: Millis) {
        if self.criterion != criterion {
            self.pause = pause(&criterion);
            self.criterion = criterion;
            self.noes = 0;
            self.look_now(now);
        }
    }

    /// What the looks said so far.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Why it is not ready, as far as the looks said.
    pub fn reason(&self) -> Option<&str> {
        match &self.readiness {
            Readiness::Ready => None,
            Readiness::Starting | Readiness::Unready(_) => self.doubt.as_deref(),
        }
    }

    /// When to look next.
    pub fn next_look(&self) -> Millis {
        self.next
    }

    /// Look at once: Docker said something new.
    pub fn look_now(&mut self, now: Millis) {
        self.next = self.next.min(now);
    }

    /// Takes in a look of `now`; whether the readiness changed by it.
    pub fn looked(&mut self, look: Look, now: Millis) -> bool {
        let before = std::mem::discriminant(&self.readiness);
        self.failures = 0;
        match look {
            Look::Yes => {
                self.readiness = Readiness::Ready;
                self.doubt = None;
                self.noes = 0;
                self.pause.reset();
                self.next = together(now, self.pause.longest());
            }
            Look::No(why) => {
                self.noes = self.noes.saturating_add(1);
                if self.readiness == Readiness::Ready && self.noes < LOOKS {
                    self.next = now + DOUBT;
                } else {
                    if self.readiness != Readiness::Starting {
                        self.readiness = Readiness::Unready(why.clone());
                    }
                    self.next = now + self.pause.next_wait();
                }
                self.doubt = Some(why);
            }
        }
        before != std::mem::discriminant(&self.readiness)
    }

    /// A look of `now` saw nothing, because it failed: that says nothing about the process. Whether it has failed so
    /// often now that it is worth a word in the log.
    pub fn failed(&mut self, why: String, now: Millis) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.next = now + self.pause.next_wait();
        if self.readiness == Readiness::Starting {
            self.doubt = Some(format!("it can't be looked at: {why}"));
        }
        self.failures == FAILURES
    }

    /// It can take no traffic, whatever the looks said before: so until the next of them says yes.
    pub fn cut_off(&mut self, why: &str) {
        self.readiness = Readiness::Unready(why.to_owned());
        self.doubt = Some(why.to_owned());
        self.noes = 0;
        self.pause.reset();
    }
}

/// The next multiple of the pause: all instances that are ready are looked at in one wake-up of the processor.
fn together(now: Millis, pause: Duration) -> Millis {
    let pause = pause.as_millis() as u64;
    Millis((now.0 / pause + 1) * pause)
}

fn pause(criterion: &Criterion) -> Exponential {
    match criterion {
        Criterion::Health(_) => HEALTH,
        Criterion::Listening(_) => SOCKETS,
        // Nothing but its end can change it, and that is no probe.
        Criterion::Settled => Exponential::new(SETTLED, Duration::from_secs(3600)),
    }
}

/// Looks once. `wall` is the time in Unix milliseconds, by the clock that the engine has too.
pub async fn look(
    engine: &dyn Engine,
    container: &ObservedContainer,
    criterion: &Criterion,
    wall: i64,
) -> Result<Look, EngineError> {
    if let Some(why) = container.cut_off() {
        return Ok(Look::No(why.to_owned()));
    }
    let Some(running) = container.running() else {
        return Ok(Look::No("it does not run".to_owned()));
    };
    match criterion {
        Criterion::Health(check) => health(engine, container, running, check).await,
        Criterion::Listening(wanted) => {
            let listening = engine.listening(running.pid, wanted).await?;
            Ok(ports(wanted, &listening.ports))
        }
        Criterion::Settled => {
            let age = wall.saturating_sub(running.started_at);
            // A clock that was set back must not keep it waiting.
            Ok(if age < 0 || age >= SETTLED.as_millis() as i64 {
                Look::Yes
            } else {
                Look::No("it has run for less than a second".to_owned())
            })
        }
    }
}

async fn health(
    engine: &dyn Engine,
    container: &ObservedContainer,
    running: &Running,
    check: &Check,
) -> Result<Look, EngineError> {
    match running.health {
        Some(Health::Healthy) => Ok(Look::Yes),
        Some(Health::Unhealthy) => Ok(Look::No("its healthcheck fails".to_owned())),
        // Docker's first run comes after a whole interval.
        Some(Health::Starting) | None => {
            let run = engine
                .exec(&container.docker_id, &check.command, check.timeout)
                .await;
            let run = match run {
                // There is no such command in it.
                Err(EngineError::BadRequest(why)) => {
                    return Ok(Look::No(format!("its healthcheck can't be run: {why}")));
                }
                run => run?,
            };
            Ok(match run.code {
                Some(0) => Look::Yes,
                Some(code) => {
                    let said = String::from_utf8_lossy(&run.output);
                    let line = said.lines().map(str::trim).rfind(|line| !line.is_empty());
                    let line = line.map(|line| format!(": {line}")).unwrap_or_default();
                    Look::No(format!("its healthcheck ends with {code}{line}"))
                }
                None => Look::No(format!(
                    "its healthcheck takes longer than {} s",
                    check.timeout.as_secs_f32()
                )),
            })
        }
    }
}

fn ports(wanted: &BTreeSet<ContainerPort>, listening: &BTreeSet<ContainerPort>) -> Look {
    let silent: Vec<String> = wanted
        .difference(listening)
        .map(ToString::to_string)
        .collect();
    if silent.is_empty() {
        Look::Yes
    } else {
        Look::No(format!(
            "nothing listens on {} (on an address other than loopback)",
            silent.join(", ")
        ))
    }
}
