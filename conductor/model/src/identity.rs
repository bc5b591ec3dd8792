//! Which containers are this host's own.
//!
//! Labels are copied along with images (`docker commit` of a container of ours,
//! and `docker run` of that for debugging), so they say whose a container says
//! it is, not whose it is. An instance is the one container that this host made
//! or took over for it: the container whose Docker id is noted. Every other one
//! with its labels is a copy, and left alone.
//!
//! What is to be made is noted before the engine is asked to make it: between
//! that and the note of its id the agent may be killed.

use std::collections::BTreeMap;

use manifests::InstanceId;
use serde::{Deserialize, Serialize};

use crate::observed::ObservedContainer;

/// What is to be made and is not there after so long will not be, in milliseconds.
const MAKING: i64 = 10 * 60 * 1_000;
/// So long after its note a container that is not there is forgotten: the engine may have been started on another disk
/// for a while.
const KEPT: i64 = 30 * 24 * 60 * 60 * 1_000;

/// What is noted of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// Docker's id of its container; none while that is to be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    /// When this was noted, in Unix milliseconds by this host's clock.
    at: i64,
}

/// The containers that this host has made, or was about to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    instances: BTreeMap<InstanceId, Note>,
    /// Nothing is known of what was made before: the state directory is new, or lost, or of an agent that noted nothing.
    #[serde(skip)]
    adopts: bool,
}

impl Default for Notes {
    /// Of a host that has noted nothing so far.
    fn default() -> Self {
        Self {
            instances: BTreeMap::new(),
            adopts: true,
        }
    }
}

impl Notes {
    /// An instance is about to be made.
    pub fn intend(&mut self, instance: &InstanceId, at: i64) {
        if self.container(instance).is_none() {
            let container = None;
            self.instances
                .insert(instance.clone(), Note { container, at });
        }
    }

    /// This host has made its container, or takes it for that; whether that is news.
    pub fn made(&mut self, instance: &InstanceId, docker_id: &str, at: i64) -> bool {
        if self.container(instance) == Some(docker_id) {
            return false;
        }
        let container = Some(docker_id.to_owned());
        self.instances
            .insert(instance.clone(), Note { container, at });
        true
    }

    /// Docker's id of its container, if that is noted.
    pub fn container(&self, instance: &InstanceId) -> Option<&str> {
        self.instances.get(instance)?.container.as_deref()
    }

    /// A container is gone, and with it its instance; whether one was noted.
    pub fn gone(&mut self, instance: &InstanceId, docker_id: &str) -> bool {
        let noted = self.container(instance) == Some(docker_id);
        if noted {
            self.instances.remove(instance);
        }
        noted
    }

    /// All that the engine had when this host noted nothing is noted: from now on what is not noted is not ours. Whether
    /// that is news.
    pub fn adopted(&mut self) -> bool {
        std::mem::take(&mut self.adopts)
    }

    /// Forgets what has not been there for long; whether there was any. `is_there` tells of Docker ids.
    pub fn forget(&mut self, is_there: impl Fn(&str) -> bool, now: i64) -> bool {
        let before = self.instances.len();
        self.instances.retain(|_, note| {
            let (there, longest) = match &note.container {
                Some(id) => (is_there(id), KEPT),
                None => (false, MAKING),
            };
            there || now.saturating_sub(note.at) < longest
        });
        self.instances.len() != before
    }

    /// Of the containers with its labels, the one that is this instance. While its id is not noted, that is the oldest
    /// one with a name that this host would have given it.
    pub fn own<'a>(
        &self,
        instance: &InstanceId,
        labelled: impl IntoIterator<Item = &'a ObservedContainer>,
    ) -> Option<&'a ObservedContainer> {
        match self.instances.get(instance) {
            Some(Note {
                container: Some(id),
                ..
            }) => labelled.into_iter().find(|c| c.docker_id == *id),
            Some(Note {
                container: None, ..
            }) => oldest_by_name(instance, labelled),
            None if self.adopts => oldest_by_name(instance, labelled),
            None => None,
        }
    }

    /// Of all containers with labels of ours, those that are ours.
    pub fn all_own(&self, labelled: &[ObservedContainer]) -> Vec<ObservedContainer> {
        let mut instances: BTreeMap<&InstanceId, Vec<&ObservedContainer>> = BTreeMap::new();
        for container in labelled {
            let of = instances.entry(&container.owner.instance).or_default();
            of.push(container);
        }
        instances
            .into_iter()
            .filter_map(|(instance, of)| self.own(instance, of).cloned())
            .collect()
    }
}

/// Of the containers with an instance's labels, the oldest one with a name that a host gives to it.
pub fn oldest_by_name<'a>(
    instance: &InstanceId,
    labelled: impl IntoIterator<Item = &'a ObservedContainer>,
) -> Option<&'a ObservedContainer> {
    labelled
        .into_iter()
        .filter(|c| c.owner.instance == *instance && c.has_own_name())
        .min_by_key(|c| (c.created_at, &c.docker_id))
}

#[cfg(test)]
mod tests;
