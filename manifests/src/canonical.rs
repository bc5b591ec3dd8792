//! A manifest as JSON, and the part of it that affects its container with its hash.
//!
//! Two spellings with two purposes: `to_json` is for people and reads back as
//! the same manifest; `text` is what is hashed, and may never change under one
//! version number, because a changed hash replaces every container.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::Manifest;
use crate::manifest::{
    Healthcheck, HealthcheckChoice, Log, Placement, Protocol, Pull, Ready, Service, Volume,
    VolumeSource,
};
use crate::units::{format_duration, format_size};

/// Version of the spelling that is hashed.
pub const VERSION: u32 = 1;

/// Hash of the part that affects the container and the decided image: `1:<sha256 in hex>`.
pub fn hash(manifest: &Manifest, image: &str) -> String {
    let digest = Sha256::digest(text(manifest, image).as_bytes());
    let mut hash = format!("{VERSION}:");
    for byte in digest {
        let _ = write!(hash, "{byte:02x}");
    }
    hash
}

/// The two differ in nothing that affects a container.
pub fn same_container(one: &Manifest, other: &Manifest) -> bool {
    text(one, &one.image) == text(other, &other.image)
}

/// What is hashed: canonical JSON of the part that affects the container, defaults left out.
///
/// Not in it: `scale`, `placement`, `pull`, `start_timeout`, `stop_timeout`, a service's `ready`.
pub fn text(manifest: &Manifest, image: &str) -> String {
    let mut part = Map::new();
    part.insert("image".to_owned(), image.into());
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            part.insert(name.to_owned(), value);
        }
    };
    put("command", manifest.command.as_ref().map(|c| json!(c)));
    put("entrypoint", manifest.entrypoint.as_ref().map(|e| json!(e)));
    put("env", filled(json!(manifest.env)));
    put("links", filled(links(manifest)));
    let services = manifest
        .services
        .iter()
        .map(|(name, service)| (name.to_string(), service_part(service)));
    put("services", filled(Value::Object(services.collect())));
    let volumes = manifest.volumes.iter().map(volume_object).collect();
    put("volumes", filled(Value::Array(volumes)));
    put("user", manifest.user.as_ref().map(|u| json!(u)));
    put("workdir", manifest.workdir.as_ref().map(|w| json!(w)));
    put("labels", filled(json!(manifest.labels)));
    put(
        "stop_signal",
        manifest.stop_signal.as_ref().map(|s| json!(s)),
    );
    put("healthcheck", health(&manifest.healthcheck));
    put("log", filled(log(&manifest.log)));
    put("cpus", manifest.cpu_millis.map(cpus));
    put("memory", manifest.memory.map(|m| json!(format_size(m))));
    let mut text = String::new();
    write_sorted(&Value::Object(part), &mut text);
    text
}

/// The whole manifest as JSON, defaults left out; it parses to the same manifest.
pub fn to_json(manifest: &Manifest) -> Value {
    let default = Manifest::of_image(&manifest.image);
    let mut whole = Map::new();
    whole.insert("image".to_owned(), json!(manifest.image));
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            whole.insert(name.to_owned(), value);
        }
    };
    put(
        "scale",
        differs(&manifest.scale, &default.scale).map(|s| json!(s)),
    );
    put("command", manifest.command.as_ref().map(|c| json!(c)));
    put("entrypoint", manifest.entrypoint.as_ref().map(|e| json!(e)));
    put("env", filled(json!(manifest.env)));
    put("links", filled(links(manifest)));
    let services = manifest
        .services
        .iter()
        .map(|(name, service)| (name.to_string(), service_short(service)));
    put("services", filled(Value::Object(services.collect())));
    let volumes = manifest.volumes.iter().map(volume_short).collect();
    put("volumes", filled(Value::Array(volumes)));
    put("user", manifest.user.as_ref().map(|u| json!(u)));
    put("workdir", manifest.workdir.as_ref().map(|w| json!(w)));
    put("labels", filled(json!(manifest.labels)));
    put(
        "stop_signal",
        manifest.stop_signal.as_ref().map(|s| json!(s)),
    );
    put(
        "stop_timeout",
        differs(&manifest.stop_timeout, &default.stop_timeout).map(|t| json!(format_duration(*t))),
    );
    put(
        "pull",
        match manifest.pull {
            Pull::Missing => None,
            Pull::Always => Some(json!("always")),
            Pull::Never => Some(json!("never")),
        },
    );
    put("healthcheck", health(&manifest.healthcheck));
    put("log", filled(log(&manifest.log)));
    put(
        "start_timeout",
        differs(&manifest.start_timeout, &default.start_timeout)
            .map(|t| json!(format_duration(*t))),
    );
    put("cpus", manifest.cpu_millis.map(cpus));
    put("memory", manifest.memory.map(|m| json!(format_size(m))));
    put("placement", filled(placement(&manifest.placement)));
    Value::Object(whole)
}

fn differs<'a, T: PartialEq>(value: &'a T, default: &T) -> Option<&'a T> {
    (value != default).then_some(value)
}

/// Nothing for an empty list or object.
fn filled(value: Value) -> Option<Value> {
    let empty = match &value {
        Value::Array(elements) => elements.is_empty(),
        Value::Object(properties) => properties.is_empty(),
        _ => false,
    };
    (!empty).then_some(value)
}

fn links(manifest: &Manifest) -> Value {
    manifest.links.iter().map(ToString::to_string).collect()
}

/// Without `ready`, which affects no container.
fn service_part(service: &Service) -> Value {
    let mut object = Map::new();
    object.insert("port".to_owned(), service.port.into());
    if service.protocol == Protocol::Udp {
        object.insert("protocol".to_owned(), "udp".into());
    }
    if let Some(role) = &service.role {
        object.insert("role".to_owned(), role.as_str().into());
    }
    if let Some(port) = service.host_port {
        object.insert("host_port".to_owned(), port.into());
    }
    if let Some(bind) = service.bind {
        object.insert("bind".to_owned(), bind.to_string().into());
    }
    Value::Object(object)
}

fn service_short(service: &Service) -> Value {
    if *service == Service::on_port(service.port) {
        return service.port.into();
    }
    let mut object = service_part(service);
    if service.ready == Ready::Started {
        object["ready"] = "started".into();
    }
    object
}

fn volume_object(volume: &Volume) -> Value {
    let (source, external) = match &volume.source {
        VolumeSource::HostPath(source) | VolumeSource::Named(source) => (source, false),
        VolumeSource::External(source) => (source, true),
    };
    let mut object = Map::new();
    object.insert("source".to_owned(), source.as_str().into());
    object.insert("target".to_owned(), volume.target.as_str().into());
    if volume.read_only {
        object.insert("read_only".to_owned(), true.into());
    }
    if external {
        object.insert("external".to_owned(), true.into());
    }
    Value::Object(object)
}

fn volume_short(volume: &Volume) -> Value {
    let source = match &volume.source {
        VolumeSource::HostPath(source) | VolumeSource::Named(source) => source,
        VolumeSource::External(_) => return volume_object(volume),
    };
    if source.contains(':') || volume.target.contains(':') {
        return volume_object(volume);
    }
    let option = if volume.read_only { ":ro" } else { "" };
    format!("{source}:{}{option}", volume.target).into()
}

fn health(health: &HealthcheckChoice) -> Option<Value> {
    match health {
        HealthcheckChoice::Image => None,
        HealthcheckChoice::Off => Some("none".into()),
        HealthcheckChoice::Own(check) => Some(healthcheck(check)),
    }
}

fn healthcheck(check: &Healthcheck) -> Value {
    let mut object = Map::new();
    object.insert("command".to_owned(), json!(check.command));
    for (name, duration) in [
        ("interval", check.interval),
        ("timeout", check.timeout),
        ("start_period", check.start_period),
    ] {
        if let Some(duration) = duration {
            object.insert(name.to_owned(), format_duration(duration).into());
        }
    }
    if let Some(retries) = check.retries {
        object.insert("retries".to_owned(), retries.into());
    }
    Value::Object(object)
}

fn log(log: &Log) -> Value {
    let default = Log::default();
    let mut object = Map::new();
    if log.max_size != default.max_size {
        object.insert("max_size".to_owned(), format_size(log.max_size).into());
    }
    if log.max_file != default.max_file {
        object.insert("max_file".to_owned(), log.max_file.into());
    }
    Value::Object(object)
}

/// A number with as few digits as it needs.
fn cpus(millis: u32) -> Value {
    if millis.is_multiple_of(1000) {
        (millis / 1000).into()
    } else {
        (f64::from(millis) / 1000.0).into()
    }
}

fn placement(placement: &Placement) -> Value {
    let mut object = Map::new();
    let constraints = placement.constraints.iter().map(ToString::to_string);
    if let Some(constraints) = filled(constraints.collect()) {
        object.insert("constraints".to_owned(), constraints);
    }
    if let Some(max) = placement.max_per_host {
        object.insert("max_per_host".to_owned(), max.into());
    }
    if let Some(label) = &placement.spread {
        object.insert("spread".to_owned(), label.as_str().into());
    }
    Value::Object(object)
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
                "placement": {"constraints": ["disk==ssd"], "max_per_host": 1, "spread": "zone"},
                "services": {"web": {"port": 80, "protocol": "tcp", "ready": "started"}},
                "env": {}, "links": [], "volumes": [], "log": {"max_size": "10240k"}}"#,
        );
        assert_eq!(
            text(&plain, "a"),
            r#"{"image":"a","services":{"web":{"port":80}}}"#
        );
        assert_eq!(hash(&plain, "a@x"), hash(&other, "a@x"));
        assert!(same_container(&plain, &other));
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
