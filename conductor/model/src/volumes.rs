//! The local volumes of a slot: what is noted of them, and whether those on an engine may be used.
//!
//! A slot's pin says on which machine its volumes are, and which of them exist:
//! a container with them was made there, or somebody has adopted them. One that
//! exists and that the engine lacks is lost data, never a new volume.

use crate::revision::ModRev;
use std::collections::BTreeMap;

use manifests::manifest::VolumeSource;
use manifests::{Manifest, SlotId};
use uuid::Uuid;

use crate::host::Host;
use crate::observed::{LABEL_CLUSTER, ObservedContainer};
use crate::records::Data;
use crate::snapshot::{SlotView, mod_rev};

/// The labels of a volume.
pub type Labels = BTreeMap<String, String>;

/// The volumes of a manifest that pin its slots to a host, by their names there.
pub fn local(manifest: &Manifest) -> Vec<String> {
    manifest
        .volumes
        .iter()
        .filter_map(|v| match &v.source {
            VolumeSource::Named(name) => Some(name.clone()),
            VolumeSource::HostPath(_) | VolumeSource::External(_) => None,
        })
        .collect()
}

/// Those of the paths at which an image declares volumes that the manifest mounts nothing at. Docker gives each container
/// a volume of its own there, which goes with it.
pub fn unnamed<'a>(declared: &'a [String], manifest: &Manifest) -> Vec<&'a str> {
    let plain = |path: &'a str| path.trim_end_matches('/');
    let is_mounted = |path: &str| {
        let mut mounts = manifest.volumes.iter();
        mounts.any(|volume| volume.target.trim_end_matches('/') == path)
    };
    declared
        .iter()
        .map(|path| plain(path))
        .filter(|path| !is_mounted(path))
        .collect()
}

/// Pin of a slot that this host takes, and the revision of the present one; none if it need not be written.
pub fn pin(host: &Host, view: Option<&SlotView>, manifest: &Manifest) -> Option<(Data, ModRev)> {
    let had = existing(host, view);
    let driver = driver(host, view);
    note(host, view, manifest, |volume| had.contains(volume), driver)
}

/// Pin of a slot of which this container was created here, so that its volumes exist.
pub fn made(
    host: &Host,
    view: &SlotView,
    manifest: &Manifest,
    container: &ObservedContainer,
) -> Option<(Data, ModRev)> {
    let driver = Some(container.driver.as_str()).filter(|driver| !driver.is_empty());
    note(host, Some(view), manifest, |_| true, driver)
}

/// The volumes that the slot has on this machine.
pub fn existing<'a>(host: &Host, view: Option<&'a SlotView>) -> &'a [String] {
    here(host, view).map_or(&[], |data| &data.existing)
}

/// Docker's storage driver when a container with them was made on this machine last.
pub fn driver<'a>(host: &Host, view: Option<&'a SlotView>) -> Option<&'a str> {
    here(host, view)?.driver.as_deref()
}

fn here<'a>(host: &Host, view: Option<&'a SlotView>) -> Option<&'a Data> {
    let data = view?.data.as_ref()?;
    (data.host_id == host.id).then_some(&data.value)
}

fn note(
    host: &Host,
    view: Option<&SlotView>,
    manifest: &Manifest,
    exists: impl Fn(&String) -> bool,
    driver: Option<&str>,
) -> Option<(Data, ModRev)> {
    let volumes = local(manifest);
    if volumes.is_empty() {
        return None;
    }
    let data = Data {
        host: host.name.clone(),
        host_id: host.id,
        existing: volumes.iter().filter(|v| exists(v)).cloned().collect(),
        volumes,
        driver: driver.map(ToOwned::to_owned),
    };
    match view.and_then(|v| v.data.as_ref()) {
        Some(noted) if noted.value == data => None,
        noted => Some((data, mod_rev(noted))),
    }
}

/// Why a slot's volumes may still be in use, for people: its container was made with the storage driver `made_with`, and
/// Docker shows only what it keeps with the present one.
pub fn hidden(slot: &SlotId, made_with: Option<&str>, driver: &str) -> Option<String> {
    let made_with = made_with.filter(|made_with| *made_with != driver)?;
    Some(format!(
        "Docker's storage driver has changed from {made_with} to {driver} and hides its container, which may still run \
         on its volumes (live-restore): see that it does not (`ctr -n moby tasks ls`), then `dokkaa volumes adopt {slot}` \
         starts it anew; or go back to {made_with}"
    ))
}

/// Why a slot may not use its volume as the engine has it (none: it has no such volume), for people. `exists` is what
/// the pin says.
pub fn refusal(
    slot: &SlotId,
    volume: &str,
    exists: bool,
    found: Option<&Labels>,
    cluster: Uuid,
) -> Option<String> {
    let name = slot.volume_name(volume);
    let Some(labels) = found else {
        return exists.then(|| {
            format!(
                "its volume {name}, which it had on this host, is gone: restore it, or begin with an empty one \
                 after `dokkaa volumes release {slot}`"
            )
        });
    };
    let of = labels.get(LABEL_CLUSTER);
    if exists || of.is_some_and(|of| *of == cluster.to_string()) {
        return None;
    }
    let whose = match of {
        Some(of) => format!("belongs to another cluster ({of})"),
        None => "was not made by dokkaa".to_owned(),
    };
    Some(format!(
        "the volume {name} on this host {whose}: `dokkaa volumes adopt {slot}` uses it, \
         `docker volume rm {name}` removes it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(exists: bool, found: Option<&[(&str, &str)]>) -> Option<String> {
        let slot = "shop/db".parse::<manifests::ContainerId>().expect("an id");
        let labels = found.map(|labels| {
            let owned = labels
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            owned.collect::<Labels>()
        });
        refusal(
            &slot.slot(0),
            "data",
            exists,
            labels.as_ref(),
            Uuid::from_u128(7),
        )
    }

    #[test]
    fn what_is_new_is_made_and_what_is_ours_is_used() {
        let ours = Uuid::from_u128(7).to_string();
        assert_eq!(refused(false, None), None);
        assert_eq!(refused(false, Some(&[(LABEL_CLUSTER, &ours)])), None);
        assert_eq!(refused(true, Some(&[(LABEL_CLUSTER, &ours)])), None);
    }

    #[test]
    fn a_volume_that_existed_and_is_gone_is_not_made_anew() {
        assert_eq!(
            refused(true, None).as_deref(),
            Some(
                "its volume shop---db---0---data, which it had on this host, is gone: restore it, or begin with an \
                 empty one after `dokkaa volumes release shop/db/0`"
            )
        );
    }

    #[test]
    fn another_cluster_s_volume_waits_until_it_is_adopted_or_removed() {
        let other = Uuid::from_u128(8).to_string();
        let theirs: &[(&str, &str)] = &[(LABEL_CLUSTER, &other)];
        assert_eq!(
            refused(false, Some(theirs)).as_deref(),
            Some(
                "the volume shop---db---0---data on this host belongs to another cluster \
                 (00000000-0000-0000-0000-000000000008): `dokkaa volumes adopt shop/db/0` uses it, \
                 `docker volume rm shop---db---0---data` removes it"
            )
        );
        // Adopted, or restored by hand under its name.
        assert_eq!(refused(true, Some(theirs)), None);
        assert_eq!(refused(true, Some(&[])), None);
    }

    #[test]
    fn what_an_image_declares_and_nothing_is_mounted_at_is_unnamed() {
        let text = br#"{"image": "db", "volumes": ["data:/var/lib/db", "/srv:/log/"]}"#;
        let manifest = manifests::parse::strict(text).expect("a manifest").manifest;
        let declared = ["/var/lib/db/", "/log", "/var/lib/db/wal"].map(str::to_owned);
        assert_eq!(unnamed(&declared, &manifest), ["/var/lib/db/wal"]);
    }

    #[test]
    fn what_another_storage_driver_hides_may_still_run() {
        let slot = "shop/db".parse::<manifests::ContainerId>().expect("an id");
        let hidden = |made_with| hidden(&slot.slot(0), made_with, "overlayfs");
        assert_eq!((hidden(None), hidden(Some("overlayfs"))), (None, None));
        let why = hidden(Some("overlay2")).expect("a reason");
        assert!(why.contains("from overlay2 to overlayfs"), "{why}");
        assert!(why.contains("`dokkaa volumes adopt shop/db/0`"), "{why}");
    }

    #[test]
    fn a_volume_made_by_hand_waits_too() {
        let why = refused(false, Some(&[])).expect("a refusal");
        assert!(why.contains("was not made by dokkaa"), "{why}");
    }
}
