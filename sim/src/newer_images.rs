//! Images are pushed to the registry, some of which never get ready; hosts ask for them, and somebody goes back from one.

use std::time::Duration;

use agent::Input;
use engine::memory::Published;
use manifests::keys::Key;
use manifests::{ContainerId, Manifest};
use model::VersionId;
use model::images::{ImageAnswer, ImageQuestion, NoAnswer, RegistryImage};
use model::records::FoundImage;
use model::snapshot::{ContainerView, Snapshot};
use planner::image_policy;
use planner::rollout::Target;
use store::kv::{Event as Told, Op};

use crate::engine::digest;
use crate::registry::REPOSITORY;
use crate::world::{Event, World};

impl World {
    /// Somebody pushes an image: under a new tag, or one that is there. Every third one never gets ready.
    pub fn push(&mut self) {
        self.registry.pushes += 1;
        let number = 1_000 + self.registry.pushes;
        let tag = if self.dice.one_in(3) {
            self.registry.images.len() as u64
        } else {
            1 + self.dice.below(3)
        };
        let name = format!("{REPOSITORY}{tag}");
        let digest = digest(number);
        let image = Published {
            id: format!("sha256:{:064x}", 10_000 + number),
            digest: digest.clone(),
            ..Published::default()
        };
        let is_bad = self.dice.one_in(3);
        for machine in &mut self.machines {
            let registry = &mut machine.engine.twin.registry;
            // What a tag meant before is still there, by its digest.
            if let Some(before) = registry.insert(name.clone(), image.clone()) {
                registry.insert(format!("{REPOSITORY}before-{number}"), before);
            }
            if is_bad {
                machine.engine.bad.insert(digest.clone());
            }
        }
        self.trace.say(self.now, "fault", || {
            let bad = if is_bad {
                ", which never gets ready"
            } else {
                ""
            };
            format!("{name} is {digest}{bad}")
        });
        self.registry.images.insert(name, digest);
    }

    /// Somebody goes back to the image of an earlier version.
    pub fn go_back(&mut self, id: &str) {
        let Ok(id) = id.parse::<ContainerId>() else {
            return;
        };
        let Some(view) = self.truth.now.containers.get(&id).cloned() else {
            return;
        };
        let versions: Vec<VersionId> = view.versions.keys().copied().collect();
        let back = self.dice.of(&versions).copied();
        if let Some(back) = back.and_then(|to| image_policy::went_back(&view, to)) {
            self.write(vec![Op::put_json(Key::FoundImage(id), &back)]);
        }
    }

    /// An agent asks.
    pub fn ask_registry(&mut self, machine: usize, question: ImageQuestion) {
        let most = if self.stormy { 3_000 } else { 50 };
        let wait = Duration::from_millis(1 + self.dice.below(most));
        self.later(machine, wait, Event::Ask(question));
    }

    /// The registry answers, if the host reaches it.
    pub fn registry_answers(&mut self, machine: usize, question: ImageQuestion) {
        let is_away = self.machines[machine].engine.twin.registry_away;
        let policy = Manifest {
            image_policy: Some(manifests::image_policy::ImagePolicy {
                tags: question.tags.clone(),
                ..Default::default()
            }),
            ..Manifest::of_image(&question.image)
        };
        let newest = self.registry.newest(&policy, &question.image);
        let said = newest
            .filter(|_| !is_away)
            .map(|(image, digest)| RegistryImage {
                image,
                digest,
                at: 0,
            });
        let answer = ImageAnswer {
            container: question.container,
            version: question.version,
            said: said.ok_or_else(|| NoAnswer {
                reason: "the registry is away".to_owned(),
                retry_after: None,
            }),
        };
        self.feed(machine, Input::ImageAnswer(answer));
    }

    /// A container that is to run a newer image than it does.
    pub fn lacks_image(&self, id: &ContainerId, container: &ContainerView) -> Option<String> {
        let truth = &self.truth.now;
        let manifest = container.wanted().filter(|manifest| !manifest.stopped)?;
        manifest.image_policy.as_ref()?;
        let mut claims = container.slots.values().filter_map(|s| s.claim.as_ref());
        // Who has a slot asks.
        claims.find(|claim| truth.is_live(&claim.host))?;
        let target = Target::of(container)?;
        let Target::Decided { version, .. } = &target else {
            // What a user's manifest names could not be had, and the update to it was given up: it is the user's turn.
            let is_given_up = target.was_given_up(container);
            return (!is_given_up).then(|| format!("nobody has decided the image of {id}"));
        };
        let present = version.version.found.as_ref().unwrap_or(&manifest.image);
        let (image, digest) = self.registry.newest(manifest, present)?;
        let is_skipped = container.found().is_some_and(|found| found.skips(&digest));
        (digest != version.version.image && !is_skipped)
            .then(|| format!("{image} is {digest} in the registry, and {id} does not run it"))
    }
}

/// What an agent has found, judged: nothing twice, nothing that is skipped, and no skipped image forgotten.
pub fn found(before: &Snapshot, now: &Snapshot, told: &[Told]) -> Option<String> {
    told.iter().find_map(|event| {
        let Told::Put { .. } = event else { return None };
        let Some(Key::FoundImage(id)) = Key::parse(event.key()) else {
            return None;
        };
        let container = now.containers.get(&id)?;
        let is = container.last_found.as_ref()?;
        let was = before.containers.get(&id)?.last_found.as_ref()?;
        // Who deletes a manifest and writes it again begins anew.
        let manifest = container.manifest.as_ref();
        let counts = manifest.is_some_and(|manifest| was.modified > manifest.created);
        (counts && is.of == was.of)
            .then(|| harm(was, is))?
            .map(|harm| format!("{id}: {harm}"))
    })
}

fn harm(was: &FoundImage, is: &FoundImage) -> Option<String> {
    if was.skips(&is.digest) {
        return Some(format!("{} is run again, which is skipped", is.digest));
    }
    if was.digest == is.digest {
        return Some(format!("{} is found twice", is.digest));
    }
    let forgotten = was.skipped.iter().find(|one| !is.skips(&one.digest));
    forgotten.map(|one| format!("it is forgotten that {} is skipped", one.digest))
}
