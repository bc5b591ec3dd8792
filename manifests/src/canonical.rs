//! JSON of a manifest, and the hash of the part that affects its container.
//!
//! Hashed text may never change under one version number: a changed hash
//! replaces every container.

use std::fmt::Write as _;
use std::sync::LazyLock;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::manifest::Manifest;
use crate::manifest::{Ready, Service, VolumeSource};

/// Version of the hashed text.
pub const VERSION: u32 = 1;

/// Hash of the part that affects the container and the resolved image: `1:<sha256 in hex>`.
pub fn hash(manifest: &Manifest, image: &str) -> String {
    let digest = Sha256::digest(text(manifest, image).as_bytes());
    let mut hash = format!("{VERSION}:");
    for byte in digest {
        let _ = write!(hash, "{byte:02x}");
    }
    hash
}

/// Equality of everything that affects a container.
pub fn same_container(one: &Manifest, other: &Manifest) -> bool {
    container_part(one, &one.image) == container_part(other, &other.image)
}

/// The hashed text: compact JSON with sorted names, without defaults.
pub fn text(manifest: &Manifest, image: &str) -> String {
    let mut text = String::new();
    write_sorted(
        &without_defaults(&container_part(manifest, image)),
        &mut text,
    );
    text
}

/// The manifest with defaults for everything that affects no container.
pub(crate) fn container_part(manifest: &Manifest, image: &str) -> Manifest {
    let default = Manifest::of_image(image);
    let mut part = Manifest {
        image: default.image,
        scale: default.scale,
        placement: default.placement,
        pull: default.pull,
        start_timeout: default.start_timeout,
        stop_timeout: default.stop_timeout,
        stopped: default.stopped,
        update: default.update,
        image_policy: default.image_policy,
        before: default.before,
        drain_timeout: default.drain_timeout,
        rebalance: default.rebalance,
        ..manifest.clone()
    };
    for service in part.services.values_mut() {
        service.ready = Ready::default();
    }
    part
}

/// The manifest as JSON, defaults left out; it parses to the same manifest.
pub fn to_json(manifest: &Manifest) -> Value {
    let mut whole = without_defaults(manifest);
    for (service, json) in manifest.services.values().zip(services(&mut whole)) {
        if *service == Service::on_port(service.port) {
            *json = service.port.into();
        }
    }
    let volumes = whole.get_mut("volumes").and_then(Value::as_array_mut);
    let volumes = volumes.into_iter().flatten();
    for (volume, json) in manifest.volumes.iter().zip(volumes) {
        let (source, target) = (volume.source.as_str(), &volume.target);
        let has_short_form = !matches!(volume.source, VolumeSource::External(_))
            && !source.contains(':')
            && !target.contains(':');
        if has_short_form {
            let option = if volume.read_only { ":ro" } else { "" };
            *json = format!("{source}:{target}{option}").into();
        }
    }
    whole
}

fn services(manifest: &mut Value) -> impl Iterator<Item = &mut Value> {
    let services = manifest.get_mut("services").and_then(Value::as_object_mut);
    services
        .into_iter()
        .flat_map(|services| services.values_mut())
}

fn without_defaults(manifest: &Manifest) -> Value {
    static DEFAULTS: LazyLock<(Value, Value)> =
        LazyLock::new(|| (json!(Manifest::of_image("")), json!(Service::on_port(0))));
    let (default, service) = &*DEFAULTS;
    let mut whole = json!(manifest);
    services(&mut whole).for_each(|json| remove_defaults(json, service));
    remove_defaults(&mut whole, default);
    whole
}

/// Removes properties that are null, as in `default`, or left empty by this.
fn remove_defaults(value: &mut Value, default: &Value) {
    let Value::Object(properties) = value else {
        return;
    };
    properties.retain(|name, value| {
        let default = &default[name];
        remove_defaults(value, default);
        let is_empty = value.as_object().is_some_and(serde_json::Map::is_empty);
        !value.is_null() && value != default && !is_empty
    });
}

/// Compact JSON with sorted names, whatever order serde_json's map has.
fn write_sorted(value: &Value, out: &mut String) {
    match value {
        Value::Array(elements) => {
            out.push('[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_sorted(element, out);
            }
            out.push(']');
        }
        Value::Object(properties) => {
            let mut properties: Vec<(&String, &Value)> = properties.iter().collect();
            properties.sort_unstable_by_key(|(name, _)| *name);
            out.push('{');
            for (index, (name, value)) in properties.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                let _ = write!(out, "{}:", Value::String(name.clone()));
                write_sorted(value, out);
            }
            out.push('}');
        }
        scalar => {
            let _ = write!(out, "{scalar}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn manifest(text: &str) -> Manifest {
        parse::strict(text.as_bytes()).expect(text).manifest
    }

    #[test]
    fn what_does_not_affect_the_container_is_not_hashed() {
        let plain = manifest(r#"{"image": "a", "services": {"web": 80}}"#);
        let other = manifest(
            r#"{"image": "a", "scale": 7, "pull": "always", "start_timeout": "5s", "stop_timeout": "1s",
                "stopped": true, "image_policy": {"check": "1m"}, "drain_timeout": "0s", "rebalance": "off", "update": {"parallelism": "50%", "order": "stop-first"},
                "placement": {"constraints": ["disk==ssd"], "max_per_host": 1, "spread": "zone"},
                "services": {"web": {"port": 80, "protocol": "tcp", "ready": "started"}},
                "env": {}, "links": [], "volumes": [], "log": {"max_size": "10240k"},
                "ulimits": {"nofile": {"soft": 1048576, "hard": 1048576}}}"#,
        );
        assert_eq!(
            text(&plain, "a"),
            r#"{"image":"a","services":{"web":{"port":80}}}"#
        );
        assert_eq!(hash(&plain, "a@x"), hash(&other, "a@x"));
        assert!(same_container(&plain, &other));
        let global = manifest(r#"{"image": "a", "scale": "global", "services": {"web": 80}}"#);
        assert_eq!(hash(&plain, "a@x"), hash(&global, "a@x"));
    }

    #[test]
    fn everything_else_is() {
        let plain = manifest(r#"{"image": "a"}"#);
        let mut hashes = vec![hash(&plain, "a@x"), hash(&plain, "a@y")];
        for field in [
            r#""command": ["x"]"#,
            r#""entrypoint": ["x"]"#,
            r#""entrypoint": []"#,
            r#""env": {"A": "1"}"#,
            r#""env": {"A": "2"}"#,
            r#""links": ["x"]"#,
            r#""links": ["x", "y"]"#,
            r#""links": ["y", "x"]"#,
            r#""links": ["x:y"]"#,
            r#""links": ["y/x"]"#,
            r#""services": {"web": 80}"#,
            r#""services": {"web": 81}"#,
            r#""services": {"web": {"port": 80, "protocol": "udp"}}"#,
            r#""services": {"web": {"port": 80, "role": "r"}}"#,
            r#""services": {"web": {"port": 80, "host_port": 80}}"#,
            r#""services": {"web": {"port": 80, "host_port": 80, "bind": "127.0.0.1"}}"#,
            r#""volumes": ["a:/b"]"#,
            r#""volumes": ["a:/b:ro"]"#,
            r#""volumes": [{"source": "a", "target": "/b", "external": true}]"#,
            r#""user": "x""#,
            r#""workdir": "/x""#,
            r#""labels": {"x": "y"}"#,
            r#""stop_signal": "INT""#,
            r#""healthcheck": "none""#,
            r#""healthcheck": {"command": "x"}"#,
            r#""healthcheck": {"command": "x", "interval": "5s"}"#,
            r#""healthcheck": {"command": "x", "timeout": "5s"}"#,
            r#""healthcheck": {"command": "x", "start_period": "5s"}"#,
            r#""healthcheck": {"command": "x", "retries": 5}"#,
            r#""log": {"max_file": 1}"#,
            r#""log": {"max_size": "1m"}"#,
            r#""cpus": 1"#,
            r#""cpus": 0.5"#,
            r#""memory": "512m""#,
            r#""restarted_at": "2026-01-01T00:00:00Z""#,
            r#""ulimits": {"nproc": 512}"#,
            r#""ulimits": {"nofile": 512}"#,
            r#""ulimits": {"nofile": {"soft": 512, "hard": 1048576}}"#,
        ] {
            let changed = manifest(&format!(r#"{{"image": "a", {field}}}"#));
            assert!(!same_container(&plain, &changed), "{field}");
            hashes.push(hash(&changed, "a@x"));
        }
        let count = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
        assert!(!same_container(&plain, &manifest(r#"{"image": "b"}"#)));
    }
}
