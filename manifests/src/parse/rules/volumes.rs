//! `volumes`, as strings or objects.

use std::collections::BTreeSet;

use super::super::node::{Node, quoted, shortened};
use super::super::reader::Reader;
use crate::fields;
use crate::manifest::{Volume, VolumeSource};

/// Longest name of a volume, in characters; Docker's name of it has 90 more.
const MAX_VOLUME_NAME: usize = 128;

/// The mounts, each target once.
pub(super) fn volumes(r: &mut Reader, node: &Node<'_>) -> Option<Vec<Volume>> {
    let mut volumes = Vec::new();
    let mut targets = BTreeSet::new();
    for element in r.list(node, "a list such as [\"data:/var/lib/data\"]")? {
        let Some(volume) = volume(r, &element) else {
            continue;
        };
        if !targets.insert(path_parts(&volume.target).join("/")) {
            let duplicate = format_args!("duplicate mount point `{}`", shortened(&volume.target));
            r.wrong(&element, duplicate, "another target");
        }
        volumes.push(volume);
    }
    Some(volumes)
}

fn volume(r: &mut Reader, node: &Node<'_>) -> Option<Volume> {
    const EXPECTED: &str = "\"source:target\", \"source:target:ro\" or an object";
    if node.is_object() {
        return volume_object(r, node, EXPECTED);
    }
    let text = r.string(node, EXPECTED)?;
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, read_only) = match parts.as_slice() {
        [source, target] | [source, target, "rw"] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        [_, _, option] => {
            let option = shortened(option);
            r.wrong(
                node,
                format_args!("unknown volume option `{option}`"),
                EXPECTED,
            );
            return None;
        }
        _ => {
            let wrong = format_args!("{} is not a source and a target", quoted(text));
            r.wrong(node, wrong, EXPECTED);
            return None;
        }
    };
    let source = volume_source(r, node, source, false);
    let target = volume_target(r, node, target);
    Some(Volume {
        source: source?,
        target: target?,
        read_only,
    })
}

fn volume_object(r: &mut Reader, node: &Node<'_>, expected: &str) -> Option<Volume> {
    let f = &r.object(node, fields::VOLUME, expected)?;
    let (mut read_only, mut external) = (false, false);
    r.set(f, "read_only", &mut read_only, Reader::boolean);
    r.set(f, "external", &mut external, Reader::boolean);
    let source = r.need(node, f, "source", "an absolute path of the host or a name");
    let source = source.and_then(|node| {
        let text = r.string(node, "an absolute path or a name")?;
        volume_source(r, node, text, external)
    });
    let target = r.need(node, f, "target", "an absolute path in the container");
    let target = target.and_then(|node| {
        let text = r.string(node, "an absolute path")?;
        volume_target(r, node, text)
    });
    Some(Volume {
        source: source?,
        target: target?,
        read_only,
    })
}

fn volume_source(
    r: &mut Reader,
    node: &Node<'_>,
    text: &str,
    external: bool,
) -> Option<VolumeSource> {
    if text.starts_with('/') {
        if external {
            r.wrong(
                node,
                format_args!("{} is a path, but `external` is true", quoted(text)),
                "the name of a Docker volume",
            );
            return None;
        }
        return Some(VolumeSource::HostPath(text.to_owned()));
    }
    if !is_volume_name(text) {
        r.wrong(
            node,
            format_args!("source {} is neither an absolute path nor a volume name", quoted(text)),
            format_args!(
                "a path such as \"/srv/data\", or a name of at most {MAX_VOLUME_NAME} letters, digits, `_`, `.` and `-`"
            ),
        );
        return None;
    }
    Some(if external {
        VolumeSource::External(text.to_owned())
    } else {
        VolumeSource::Named(text.to_owned())
    })
}

fn is_volume_name(text: &str) -> bool {
    text.len() <= MAX_VOLUME_NAME
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn volume_target(r: &mut Reader, node: &Node<'_>, text: &str) -> Option<String> {
    let parts = path_parts(text);
    let wrong = if !text.starts_with('/') {
        "is not absolute"
    } else if parts.is_empty() {
        "is the container's root"
    } else if parts.contains(&"..") {
        "contains `..`"
    } else {
        return Some(text.to_owned());
    };
    r.wrong(
        node,
        format_args!("target {} {wrong}", quoted(text)),
        "an absolute path in the container such as \"/var/lib/data\"",
    );
    None
}

/// Components of a path; targets with the same ones are the same.
fn path_parts(path: &str) -> Vec<&str> {
    path.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect()
}
