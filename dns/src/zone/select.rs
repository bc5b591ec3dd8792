//! Which instances a name of the zone means.

use std::collections::BTreeMap;
use std::fmt;

use manifests::{ContainerId, HostName, SlotId};
use model::directory::{self, Directory, Endpoint, Endpoints, ServiceId};
use model::records::Phase;
use model::skydns::WILDCARDS;

/// Label of the endpoints, ready or not.
pub(super) const ALL: &str = "all";
/// A name that means several services stands for those with the first so many services and instances: more don't
/// fit a message, and no query is to take long.
pub(super) const MOST: usize = 1_000;

/// The labels of a name of services or instances.
#[derive(Debug)]
pub(super) struct Pattern<'a> {
    app: Label<'a>,
    service: Label<'a>,
    /// Also instances that are not ready.
    pub(super) all: bool,
    one: One<'a>,
}

/// A label of an app or a service.
#[derive(Debug)]
enum Label<'a> {
    Any,
    Is(&'a str),
}

/// The label of instances.
#[derive(Debug)]
enum One<'a> {
    Any,
    Slot(u32),
    Of(&'a str, u32),
}

/// What a name means; its instances in the order of the answer.
#[derive(Debug)]
pub(super) struct Selected<'a> {
    pub(super) instances: Vec<Instance<'a>>,
    /// So many of them are on live hosts: the first ones.
    pub(super) live: usize,
}

/// An instance of a service.
#[derive(Debug)]
pub(super) struct Instance<'a> {
    pub(super) service: &'a ServiceId,
    pub(super) endpoint: &'a Endpoint,
    /// No other container of the service has this slot.
    pub(super) alone: bool,
}

/// An instance that is in no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its slot.
    pub slot: SlotId,
    /// Its host.
    pub host: HostName,
    /// Why it is left out.
    pub reason: &'static str,
}

/// The slots that a name means, be it one that has no records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    labels: Vec<String>,
}

impl Slots {
    /// Those of the labels below the domain, if that is what they mean.
    pub(super) fn of(labels: &[&str]) -> Option<Self> {
        Pattern::parse(labels)?;
        let labels = labels.iter().map(ToString::to_string).collect();
        Some(Self { labels })
    }

    /// This slot is one of them, as an instance of that service.
    pub fn has(&self, service: &ServiceId, slot: &SlotId) -> bool {
        let labels: Vec<&str> = self.labels.iter().map(String::as_str).collect();
        Pattern::parse(&labels).is_some_and(|pattern| pattern.has(service, slot))
    }
}

type Offered<'a> = (&'a ServiceId, &'a Endpoints);

impl<'a> Pattern<'a> {
    /// From the labels below the domain, in lower case.
    pub(super) fn parse(labels: &[&'a str]) -> Option<Self> {
        let (one, all, service, app) = match *labels {
            [app] => (None, false, "*", app),
            [service, app] => (None, false, service, app),
            [ALL, service, app] => (None, true, service, app),
            [one, service, app] => (Some(one), false, service, app),
            [one, ALL, service, app] => (Some(one), true, service, app),
            _ => return None,
        };
        Some(Self {
            app: Label::parse(app),
            service: Label::parse(service),
            all,
            one: one.map_or(Some(One::Any), One::parse)?,
        })
    }

    /// The instances of that name; none if it does not exist. `turn` rotates them.
    pub(super) fn select<'d>(&self, directory: &'d Directory, turn: usize) -> Option<Selected<'d>> {
        let mut exists = false;
        let mut instances = Vec::new();
        let mut visited = 0;
        for (service, known) in self.services(directory)? {
            if visited >= MOST {
                break;
            }
            visited += 1 + known.size();
            if !self.one.is_among(known) {
                continue;
            }
            exists = true;
            let serving = if self.all {
                present(known)
            } else {
                directory::serving(known)
            };
            let chosen = serving.into_iter().filter(|e| self.one.is(e));
            let shared = shared_slots(known);
            instances.extend(chosen.map(|endpoint| Instance {
                service,
                endpoint,
                alone: !shared.contains_key(&endpoint.slot),
            }));
        }
        exists.then(|| Selected::new(instances, turn))
    }

    /// Instances of that name that are in no answer, and why.
    pub(super) fn left_out(&self, directory: &Directory) -> Vec<LeftOut> {
        let mut left_out = Vec::new();
        let selected = self.select(directory, 0);
        let Some((selected, services)) = selected.zip(self.services(directory)) else {
            return left_out;
        };
        for (service, known) in services.take(MOST) {
            for endpoint in known.values().filter(|endpoint| self.one.is(endpoint)) {
                let mut shown = selected.instances.iter();
                if left_out.len() == MOST || shown.any(|one| std::ptr::eq(one.endpoint, endpoint)) {
                    continue;
                }
                let container = ContainerId::new(service.app.clone(), endpoint.container.clone());
                left_out.push(LeftOut {
                    slot: container.slot(endpoint.slot),
                    host: endpoint.host.clone(),
                    reason: match endpoint.phase {
                        Phase::Stopped => "it is stopped",
                        Phase::Leaving if !self.all => "it is leaving",
                        Phase::Unready if !self.all => "it is not ready",
                        _ if !endpoint.live => "its host is missing, and others are there",
                        _ => "an answer has no more room",
                    },
                });
            }
        }
        left_out
    }

    /// The name means this slot, whether anything of it can be served or not.
    fn has(&self, service: &ServiceId, slot: &SlotId) -> bool {
        self.app.is(service.app.as_str())
            && self.service.is(service.service.as_str())
            && self.one.names(slot.container.container.as_str(), slot.slot)
    }

    /// The services that the name means. A wildcard takes those that are looked up by the other label.
    fn services<'d>(
        &self,
        directory: &'d Directory,
    ) -> Option<Box<dyn Iterator<Item = Offered<'d>> + 'd>> {
        Some(match (&self.app, &self.service) {
            (Label::Is(app), Label::Is(service)) => {
                let id = ServiceId {
                    app: app.parse().ok()?,
                    service: service.parse().ok()?,
                };
                Box::new(directory.service(&id).into_iter())
            }
            (Label::Is(app), Label::Any) => Box::new(directory.services_of(&app.parse().ok()?)),
            (Label::Any, Label::Is(service)) => {
                Box::new(directory.services_named(&service.parse().ok()?))
            }
            (Label::Any, Label::Any) => Box::new(directory.services()),
        })
    }
}

impl fmt::Display for Pattern<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.one, self.all) {
            (One::Any, false) => f.write_str("the ready instances of ")?,
            (One::Any, true) => f.write_str("all instances of ")?,
            (One::Slot(slot), false) => write!(f, "slot {slot}, while it is ready, of ")?,
            (One::Slot(slot), true) => write!(f, "slot {slot} of ")?,
            (One::Of(container, slot), false) => {
                write!(
                    f,
                    "slot {slot} of container {container}, while it is ready, of "
                )?;
            }
            (One::Of(container, slot), true) => {
                write!(f, "slot {slot} of container {container} of ")?;
            }
        }
        match self.service {
            Label::Any => f.write_str("all services")?,
            Label::Is(service) => write!(f, "service {service}")?,
        }
        match self.app {
            Label::Any => f.write_str(" of all apps"),
            Label::Is(app) => write!(f, " of app {app}"),
        }
    }
}

impl<'a> Label<'a> {
    fn parse(label: &'a str) -> Self {
        if WILDCARDS.contains(&label) {
            Self::Any
        } else {
            Self::Is(label)
        }
    }

    fn is(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Is(label) => *label == name,
        }
    }
}

impl<'a> One<'a> {
    fn parse(label: &'a str) -> Option<Self> {
        if WILDCARDS.contains(&label) {
            return Some(Self::Any);
        }
        match label.rsplit_once('-') {
            Some((container, slot)) => Some(Self::Of(container, number(slot)?)),
            None => Some(Self::Slot(number(label)?)),
        }
    }

    fn is(&self, endpoint: &Endpoint) -> bool {
        self.names(endpoint.container.as_str(), endpoint.slot)
    }

    fn names(&self, container: &str, slot: u32) -> bool {
        match self {
            Self::Any => true,
            Self::Slot(number) => *number == slot,
            Self::Of(name, number) => *number == slot && *name == container,
        }
    }

    /// Without a label for it, a service exists also where no instance of it runs.
    fn is_among(&self, known: &Endpoints) -> bool {
        matches!(self, Self::Any) || known.values().any(|endpoint| self.is(endpoint))
    }
}

impl<'a> Selected<'a> {
    /// Those of missing hosts come last.
    fn new(mut instances: Vec<Instance<'a>>, turn: usize) -> Self {
        instances.sort_by_key(|instance| !instance.endpoint.live);
        let live = instances.partition_point(|instance| instance.endpoint.live);
        let (first, last) = instances.split_at_mut(live);
        for part in [first, last] {
            part.rotate_left(turn % part.len().max(1));
        }
        Self { instances, live }
    }
}

/// Endpoints, ready or not, on live hosts; without one, those on missing hosts.
fn present(known: &Endpoints) -> Vec<&Endpoint> {
    let there = || known.values().filter(|e| e.phase != Phase::Stopped);
    let live: Vec<&Endpoint> = there().filter(|e| e.live).collect();
    if live.is_empty() {
        there().collect()
    } else {
        live
    }
}

/// Slots that several containers of a service have.
pub(super) fn shared_slots(known: &Endpoints) -> BTreeMap<u32, usize> {
    let mut slots = BTreeMap::new();
    let ends = known.first().zip(known.last());
    if ends.is_some_and(|(((first, _), _), ((last, _), _))| first != last) {
        for endpoint in known.values() {
            *slots.entry(endpoint.slot).or_default() += 1;
        }
        slots.retain(|_, count| *count > 1);
    }
    slots
}

/// A slot in its canonical spelling.
fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
