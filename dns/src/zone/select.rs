//! Which instances a name of the zone means.

use std::collections::BTreeMap;

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

impl<'a> Label<'a> {
    fn parse(label: &'a str) -> Self {
        if WILDCARDS.contains(&label) {
            Self::Any
        } else {
            Self::Is(label)
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
        match self {
            Self::Any => true,
            Self::Slot(slot) => *slot == endpoint.slot,
            Self::Of(container, slot) => {
                *slot == endpoint.slot && *container == endpoint.container.as_str()
            }
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
fn shared_slots(known: &Endpoints) -> BTreeMap<u32, usize> {
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
