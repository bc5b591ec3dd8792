//! The rules of a manifest: each field read, checked and given its default.
//!
//! A field with a problem keeps its default; the manifest is thrown away then.

mod before;
mod image_policy;
mod pairs;
mod placement;
mod services;
mod ulimits;
mod update;
mod volumes;

use std::time::Duration;

use super::node::{Node, on_one_line, quoted};
use super::reader::Reader;
use crate::image::Reference;
use crate::manifest::{Healthcheck, HealthcheckChoice, Log, Manifest, Scale};
use crate::update::Rebalance;
use crate::{fields, signals, words};

const MAX_SCALE: u32 = 1000;
const LONGEST: Duration = Duration::from_secs(720 * 3600);
const LONGEST_DRAIN: Duration = Duration::from_secs(3600);
/// Docker's shortest interval of a healthcheck.
const SHORTEST: Duration = Duration::from_millis(1);
const SMALLEST_LOG: u64 = 1 << 10;
const LARGEST_LOG: u64 = 1 << 40;
/// Docker's smallest CPU limit, in thousandths.
const FEWEST_CPUS: u32 = 10;
const MOST_CPUS: u32 = 1_024_000;
/// Docker's smallest memory limit.
const LEAST_MEMORY: u64 = 6 << 20;
const MOST_MEMORY: u64 = 16 << 40;

pub(super) fn manifest(r: &mut Reader, root: &Node<'_>) -> Manifest {
    const EXPECTED: &str = "an object such as {\"image\": \"nginx\"}";
    let mut m = Manifest::of_image("");
    let Some(f) = &r.object(root, fields::MANIFEST, EXPECTED) else {
        return m;
    };
    let image = r.need(root, f, "image", "the image to run, such as \"nginx\"");
    if let Some(image) = image.and_then(|node| self::image(r, node)) {
        m.image = image;
    }
    r.set(f, "scale", &mut m.scale, scale);
    r.set(f, "command", &mut m.command, command);
    r.set(f, "entrypoint", &mut m.entrypoint, arguments);
    r.set(f, "env", &mut m.env, pairs::env);
    r.set(f, "links", &mut m.links, services::links);
    r.set(f, "services", &mut m.services, services::services);
    r.set(f, "volumes", &mut m.volumes, volumes::volumes);
    r.set(f, "labels", &mut m.labels, pairs::labels);
    r.set(f, "user", &mut m.user, user);
    r.set(f, "workdir", &mut m.workdir, workdir);
    r.set(f, "stop_signal", &mut m.stop_signal, stop_signal);
    r.set(f, "pull", &mut m.pull, Reader::choice);
    r.set(f, "healthcheck", &mut m.healthcheck, health);
    r.set(f, "log", &mut m.log, log);
    r.set(f, "stop_timeout", &mut m.stop_timeout, |r, node| {
        r.duration(node, Duration::ZERO..=LONGEST)
    });
    r.set(f, "start_timeout", &mut m.start_timeout, |r, node| {
        r.duration(node, SHORTEST..=LONGEST)
    });
    r.set(f, "cpus", &mut m.cpu_millis, |r, node| {
        r.cpus(node, FEWEST_CPUS..=MOST_CPUS)
    });
    r.set(f, "memory", &mut m.memory, |r, node| {
        r.size(node, LEAST_MEMORY..=MOST_MEMORY)
    });
    if let Some(node) = f.get("ulimits") {
        ulimits::ulimits(r, node, &mut m.ulimits);
    }
    r.set(f, "placement", &mut m.placement, |r, node| {
        placement::placement(r, node, m.scale)
    });
    r.set(f, "before", &mut m.before, before::before);
    r.set(f, "drain_timeout", &mut m.drain_timeout, |r, node| {
        r.duration(node, Duration::ZERO..=LONGEST_DRAIN)
    });
    r.set(f, "rebalance", &mut m.rebalance, Reader::choice);
    r.set(f, "stopped", &mut m.stopped, Reader::boolean);
    r.set(f, "restarted_at", &mut m.restarted_at, |r, node| {
        r.text(node, "any text, such as a time").map(str::to_owned)
    });
    if let Some(node) = f.get("update") {
        update::update(r, node, &mut m);
    }
    if let Some(node) = f.get("image_policy") {
        image_policy::image_policy(r, node, &mut m);
    }
    if let Some(node) = f.get("rebalance")
        && m.rebalance == Rebalance::Auto
    {
        not_global(r, node, m.scale);
    }
    m
}

/// A choice among hosts, which there is none where each has one.
fn not_global(r: &mut Reader, node: &Node<'_>, scale: Scale) {
    if scale == Scale::Global {
        let wrong = "has no meaning where `scale` is \"global\"";
        r.wrong(node, wrong, "one of the two");
    }
}

fn image(r: &mut Reader, node: &Node<'_>) -> Option<String> {
    const EXPECTED: &str =
        "an image such as \"nginx\", \"nginx:1.27\" or \"registry.example.com/team/app:v2\"";
    let text = r.text(node, EXPECTED)?;
    if let Err(error) = text.parse::<Reference>() {
        r.wrong(node, on_one_line(&error.to_string(), 150), EXPECTED);
        return None;
    }
    Some(text.to_owned())
}

fn scale(r: &mut Reader, node: &Node<'_>) -> Option<Scale> {
    const EXPECTED: &str = "a whole number from 0 to 1000, or \"global\"";
    if node.as_str() == Some(Scale::GLOBAL) {
        return Some(Scale::Global);
    }
    let count = r.whole(node, 0..=MAX_SCALE.into(), EXPECTED)?;
    u32::try_from(count).ok().map(Scale::Count)
}

fn command(r: &mut Reader, node: &Node<'_>) -> Option<Vec<String>> {
    let command = arguments(r, node)?;
    if command.is_empty() {
        r.wrong(
            node,
            "is empty",
            "at least one word, or no such field for the image's own",
        );
    }
    Some(command)
}

/// Words, as a list or as one string.
fn arguments(r: &mut Reader, node: &Node<'_>) -> Option<Vec<String>> {
    const EXPECTED: &str = "a list of strings, or one string";
    let Some(text) = node.as_str() else {
        return r.strings(node, EXPECTED);
    };
    r.string(node, EXPECTED)?;
    words::split(text)
        .map_err(|error| r.wrong(node, error, "words quoted as for a shell"))
        .ok()
}

fn user(r: &mut Reader, node: &Node<'_>) -> Option<String> {
    let text = r.text(node, "a string such as \"www-data\" or \"1000:1000\"")?;
    Some(text.to_owned())
}

fn workdir(r: &mut Reader, node: &Node<'_>) -> Option<String> {
    const EXPECTED: &str = "an absolute path such as \"/srv\"";
    let text = r.text(node, EXPECTED)?;
    if !text.starts_with('/') {
        r.wrong(
            node,
            format_args!("{} is not absolute", quoted(text)),
            EXPECTED,
        );
        return None;
    }
    Some(text.to_owned())
}

fn stop_signal(r: &mut Reader, node: &Node<'_>) -> Option<String> {
    const EXPECTED: &str = "a signal such as \"SIGTERM\", \"INT\" or 15";
    if node.as_number().is_some() {
        return r.integer(node, 1..=64).map(|number| number.to_string());
    }
    let text = r.string(node, EXPECTED)?;
    let signal = signals::parse(text);
    if signal.is_none() {
        r.wrong(
            node,
            format_args!("{} is not a signal", quoted(text)),
            EXPECTED,
        );
    }
    signal
}

fn health(r: &mut Reader, node: &Node<'_>) -> Option<HealthcheckChoice> {
    const EXPECTED: &str = "\"none\", or an object such as {\"command\": \"curl -f localhost\"}";
    match node.as_str() {
        None => healthcheck(r, node, EXPECTED).map(HealthcheckChoice::Own),
        Some("none") => Some(HealthcheckChoice::Off),
        Some(other) => {
            r.wrong(node, format_args!("is {}", quoted(other)), EXPECTED);
            None
        }
    }
}

fn healthcheck(r: &mut Reader, node: &Node<'_>, expected: &str) -> Option<Healthcheck> {
    let f = &r.object(node, fields::HEALTHCHECK, expected)?;
    let command = r.need(
        node,
        f,
        "command",
        "the program that is run in the container",
    );
    let command = command.and_then(|node| health_command(r, node));
    let mut check = Healthcheck {
        command: Vec::new(),
        interval: None,
        timeout: None,
        retries: None,
        start_period: None,
    };
    for (name, place, shortest) in [
        ("interval", &mut check.interval, SHORTEST),
        ("timeout", &mut check.timeout, SHORTEST),
        ("start_period", &mut check.start_period, Duration::ZERO),
    ] {
        r.set(f, name, place, |r, node| {
            r.duration(node, shortest..=LONGEST)
        });
    }
    r.set(f, "retries", &mut check.retries, Reader::count);
    check.command = command?;
    Some(check)
}

/// A string is a line for a shell; Docker's own markers are not part of a list.
fn health_command(r: &mut Reader, node: &Node<'_>) -> Option<Vec<String>> {
    const EXPECTED: &str = "a list of strings, or one string for /bin/sh";
    if node.as_str().is_some() {
        let text = r.text(node, EXPECTED)?;
        return Some(["/bin/sh", "-c", text].map(str::to_owned).to_vec());
    }
    let command = r.strings(node, EXPECTED)?;
    match command.first().map(String::as_str) {
        None | Some("") => r.wrong(node, "is empty", "at least the name of a program"),
        Some(marker @ ("CMD" | "CMD-SHELL" | "NONE")) => r.wrong(
            node,
            format_args!("begins with Docker's `{marker}`"),
            "the command alone; a string for a line that a shell runs",
        ),
        Some(_) => return Some(command),
    }
    None
}

fn log(r: &mut Reader, node: &Node<'_>) -> Option<Log> {
    let expected = "an object such as {\"max_size\": \"10m\"}";
    let f = &r.object(node, fields::LOG, expected)?;
    let mut log = Log::default();
    r.set(f, "max_size", &mut log.max_size, |r, node| {
        r.size(node, SMALLEST_LOG..=LARGEST_LOG)
    });
    r.set(f, "max_file", &mut log.max_file, Reader::count);
    Some(log)
}
