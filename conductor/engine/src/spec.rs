//! From a manifest to a container without a choice left. Pure.

use std::collections::BTreeMap;

use manifests::manifest::{HealthcheckChoice, Volume, VolumeSource};
use manifests::{HostName, InstanceId, Manifest, SlotId};
use model::VersionId;
use model::observed::{
    LABEL_APP, LABEL_CLUSTER, LABEL_CONTAINER, LABEL_SLOT, LABELS, Ownership, PublishedPorts,
    Surroundings,
};
use uuid::Uuid;

use super::{CreateSpec, Mount, MountSource};

/// Label of a volume: its name in the manifest.
pub const LABEL_VOLUME: &str = "dokkaa.volume";
/// The name under which a container finds the ambassador.
pub const BACKENDS: &str = "backends";

/// Names with fewer than two dots are looked up below the app first: `db`, `db.blog`, `example.com`. The agent's DNS
/// server answers each of them at once.
const RESOLVER_OPTIONS: [&str; 1] = ["ndots:2"];

/// What a container is made from.
#[derive(Debug, Clone)]
pub struct SpecInput<'a> {
    /// What the user wants.
    pub manifest: &'a Manifest,
    /// What it is made from: `repository@sha256:…`, a tag or an image id.
    pub image: &'a str,
    /// The names of that image's labels.
    pub image_labels: &'a [String],
    /// Its cluster.
    pub cluster: Uuid,
    /// Its slot.
    pub slot: &'a SlotId,
    /// Which instance it is.
    pub instance: &'a InstanceId,
    /// Hash of the manifest and the decided image.
    pub manifest_hash: &'a str,
    /// This host.
    pub host: &'a HostName,
    /// What this host gives to its containers.
    pub surroundings: &'a Surroundings,
    /// Where its services are published.
    pub ports: PublishedPorts,
    /// The slot's name is still held by the container that this one replaces.
    pub beside: bool,
    /// It is what runs before the version with this key, no instance of the slot.
    pub before: Option<VersionId>,
}

/// The container for it.
pub fn spec(input: SpecInput<'_>) -> CreateSpec {
    let mounts = mounts(&input);
    let SpecInput {
        manifest,
        slot,
        surroundings,
        ports,
        ..
    } = input;
    let owner = Ownership {
        cluster: input.cluster,
        slot: slot.clone(),
        instance: input.instance.clone(),
        manifest_hash: if input.before.is_none() {
            input.manifest_hash.to_owned()
        } else {
            String::new()
        },
        host_hash: surroundings.hash(&ports),
        before: input.before,
    };
    let before = manifest.before.as_ref().filter(|_| input.before.is_some());
    let context = manifests::env::Context {
        slot,
        host: input.host,
        ambassador: surroundings.gateway,
        domain: &surroundings.domain,
    };
    let mut labels = manifest.labels.clone();
    // A label of an image can't be taken away, only be given another value.
    let of_image = input.image_labels.iter();
    let of_image = of_image.filter(|name| name.starts_with(LABELS));
    labels.extend(of_image.map(|name| (name.clone(), String::new())));
    labels.extend(owner.labels());
    CreateSpec {
        name: if input.beside || input.before.is_some() {
            owner.name_beside()
        } else {
            slot.docker_name()
        },
        image: input.image.to_owned(),
        // Another image has an entrypoint of its own.
        entrypoint: match before.and_then(|before| before.image.as_ref()) {
            Some(_) => None,
            None => manifest.entrypoint.clone(),
        },
        command: match before {
            Some(before) => Some(before.command.clone()),
            None => manifest.command.clone(),
        },
        env: manifests::env::environment(manifest, &context),
        labels,
        user: manifest.user.clone(),
        workdir: manifest.workdir.clone(),
        stop_signal: manifest.stop_signal.clone(),
        stop_timeout: manifest.stop_timeout,
        healthcheck: match before {
            Some(_) => HealthcheckChoice::Off,
            None => manifest.healthcheck.clone(),
        },
        mounts,
        ports,
        network: surroundings.network.clone(),
        hosts: BTreeMap::from([(BACKENDS.to_owned(), surroundings.gateway)]),
        dns: surroundings.dns,
        dns_search: surroundings
            .dns
            .map(|_| format!("{}.{}", slot.container.app, surroundings.domain)),
        dns_options: match surroundings.dns {
            Some(_) => RESOLVER_OPTIONS.map(str::to_owned).into(),
            None => Vec::new(),
        },
        log: manifest.log.clone(),
        cpu_millis: manifest.cpu_millis,
        memory: manifest.memory,
        ulimits: manifest.ulimits.clone(),
    }
}

fn mounts(input: &SpecInput<'_>) -> Vec<Mount> {
    let slot = input.slot;
    let id = &slot.container;
    let source = |source: &VolumeSource| match source {
        VolumeSource::HostPath(path) => MountSource::Path(path.clone()),
        VolumeSource::External(name) => MountSource::External(name.clone()),
        VolumeSource::Named(name) => MountSource::Volume {
            name: volume_name(slot, name),
            labels: [
                (LABEL_CLUSTER, input.cluster.to_string()),
                (LABEL_APP, id.app.to_string()),
                (LABEL_CONTAINER, id.container.to_string()),
                (LABEL_SLOT, slot.slot.to_string()),
                (LABEL_VOLUME, name.clone()),
            ]
            .map(|(label, value)| (label.to_owned(), value))
            .into(),
        },
    };
    // An instance may be writing to the slot's own.
    let is_given = |volume: &&Volume| {
        input.before.is_none() || !matches!(volume.source, VolumeSource::Named(_))
    };
    let volumes = input.manifest.volumes.iter().filter(is_given);
    volumes
        .map(|volume| Mount {
            source: source(&volume.source),
            target: volume.target.clone(),
            read_only: volume.read_only,
        })
        .collect()
}

/// Docker's name of a slot's volume: `<app>---<container>---<slot>---<name>`.
pub fn volume_name(slot: &SlotId, name: &str) -> String {
    slot.volume_name(name)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::time::Duration;

    use manifests::ContainerId;
    use manifests::manifest::{Protocol, Scale, Ulimit, UlimitName};
    use manifests::update::Before;
    use model::observed::ContainerPort;

    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            scale: Scale::Count(2),
            command: Some(vec!["run".to_owned()]),
            env: BTreeMap::from([("A".to_owned(), "b".to_owned())]),
            volumes: vec![
                volume(VolumeSource::HostPath("/srv/x".to_owned()), "/x"),
                volume(VolumeSource::Named("data".to_owned()), "/data"),
                volume(VolumeSource::External("shared".to_owned()), "/shared"),
            ],
            user: Some("1000".to_owned()),
            workdir: Some("/x".to_owned()),
            labels: BTreeMap::from([
                ("team".to_owned(), "blue".to_owned()),
                (LABEL_CLUSTER.to_owned(), "forged".to_owned()),
            ]),
            stop_signal: Some("SIGINT".to_owned()),
            stop_timeout: Duration::from_secs(3),
            cpu_millis: Some(500),
            memory: Some(64 << 20),
            ..Manifest::of_image("nginx:1")
        }
    }

    fn volume(source: VolumeSource, target: &str) -> Volume {
        Volume {
            source,
            target: target.to_owned(),
            read_only: false,
        }
    }

    fn make(beside: bool, dns: Option<IpAddr>) -> CreateSpec {
        make_of(&manifest(), beside, dns, None)
    }

    fn make_of(
        manifest: &Manifest,
        beside: bool,
        dns: Option<IpAddr>,
        before: Option<VersionId>,
    ) -> CreateSpec {
        let id: ContainerId = "shop/web".parse().expect("an id");
        let port = ContainerPort {
            port: 80,
            protocol: Protocol::Tcp,
        };
        spec(SpecInput {
            manifest,
            image: "nginx@sha256:1",
            image_labels: &["dokkaa.slot", "dokkaa.zzz", "maintainer"].map(str::to_owned),
            cluster: Uuid::from_u128(7),
            slot: &id.slot(1),
            instance: &"i-1".parse().expect("an instance"),
            manifest_hash: "1:aa",
            host: &"h1".parse().expect("a host"),
            surroundings: &Surroundings {
                host_ip: IpAddr::from([10, 0, 0, 1]),
                gateway: IpAddr::from([172, 17, 0, 1]),
                dns,
                domain: "skydns.local".to_owned(),
                network: "bridge".to_owned(),
            },
            ports: [(port, SocketAddr::from(([10, 0, 0, 1], 20_000)))].into(),
            beside,
            before,
        })
    }

    #[test]
    fn labels_say_whose_it_is_and_cannot_be_forged() {
        let made = make(false, None);
        let owner = Ownership::read(&made.labels).expect("ours");
        assert_eq!(owner.cluster, Uuid::from_u128(7));
        assert_eq!(owner.slot.to_string(), "shop/web/1");
        assert_eq!(made.labels.get("team").map(String::as_str), Some("blue"));
        // What an image says of itself in our name says nothing.
        assert_eq!(made.labels.get("dokkaa.zzz").map(String::as_str), Some(""));
        assert_eq!(made.labels.len(), 9);
    }

    #[test]
    fn the_name_is_the_slots_or_beside_it() {
        assert_eq!(make(false, None).name, "shop---web---1");
        assert_eq!(make(true, None).name, "shop---web---1.i-1");
    }

    #[test]
    fn volumes_are_the_slots_own_a_path_or_an_existing_one() {
        let made = make(false, None);
        let sources: Vec<&MountSource> = made.mounts.iter().map(|m| &m.source).collect();
        assert_eq!(sources[0], &MountSource::Path("/srv/x".to_owned()));
        let MountSource::Volume { name, labels } = sources[1] else {
            panic!("not a volume: {:?}", sources[1]);
        };
        assert_eq!(name, "shop---web---1---data");
        assert_eq!(labels.len(), 5);
        assert_eq!(sources[2], &MountSource::External("shared".to_owned()));
    }

    #[test]
    fn what_runs_before_a_version_has_its_own_command_and_no_volume_of_the_slot() {
        let own = |image: Option<&str>| Manifest {
            entrypoint: Some(vec!["/run".to_owned()]),
            before: Some(Before {
                command: vec!["migrate".to_owned()],
                image: image.map(str::to_owned),
                timeout: Before::TIMEOUT,
            }),
            ..manifest()
        };
        let made = make_of(&own(None), true, None, Some(VersionId(7)));
        assert_eq!(made.name, "shop---web---1.before.i-1");
        assert_eq!(made.entrypoint, Some(vec!["/run".to_owned()]));
        assert_eq!(made.command, Some(vec!["migrate".to_owned()]));
        assert_eq!(made.healthcheck, HealthcheckChoice::Off);
        assert_eq!(made.mounts.len(), 2);
        let owner = Ownership::read(&made.labels).expect("ours");
        assert_eq!(owner.before, Some(VersionId(7)));
        let other = make_of(&own(Some("tools")), true, None, Some(VersionId(7)));
        assert_eq!(other.entrypoint, None);
    }

    #[test]
    fn limits_are_the_manifests() {
        let made = make(false, None);
        assert_eq!((made.cpu_millis, made.memory), (Some(500), Some(64 << 20)));
        assert_eq!(made.ulimits, [(UlimitName::Nofile, Ulimit::NOFILE)].into());
    }

    #[test]
    fn the_agent_is_found_by_alias_and_dns() {
        let gateway = IpAddr::from([172, 17, 0, 1]);
        let made = make(false, Some(gateway));
        assert_eq!(made.hosts.get(BACKENDS), Some(&gateway));
        assert_eq!(made.dns, Some(gateway));
        assert_eq!(made.dns_search.as_deref(), Some("shop.skydns.local"));
        assert_eq!(made.dns_options, ["ndots:2"]);
        let alone = make(false, None);
        assert_eq!((alone.dns_search, alone.dns_options), (None, Vec::new()));
    }
}
