//! The rules of a manifest: each field read, checked and given its default.
//!
//! A field with a problem gets its default here; the manifest is thrown away then.

mod pairs;
mod resources;
mod services;
mod volumes;

use std::time::Duration;

use super::reader::{Node, Reader, on_one_line, quoted};
use crate::image::Reference;
use crate::manifest::{Healthcheck, HealthcheckChoice, Log, Manifest, Pull};
use crate::{fields, signals, words};

/// Most slots of a container.
const MAX_SCALE: u32 = 1000;
/// Most of the things that are counted in small numbers.
const MAX_COUNT: u32 = 1000;

const LONGEST: Duration = Duration::from_secs(720 * 3600);
/// Docker counts no shorter one in a healthcheck.
const SHORTEST: Duration = Duration::from_millis(1);
const SMALLEST_LOG: u64 = 1 << 10;
const LARGEST_LOG: u64 = 1 << 40;

/// The whole manifest.
pub(super) fn manifest(r: &mut Reader, root: &Node<'_>) -> Manifest {
    let mut manifest = Manifest::of_image("");
    let Some(fields) = r.object(
        root,
        fields::MANIFEST,
        "an object such as {\"image\": \"nginx\"}",
    ) else {
        return manifest;
    };
    if let Some(image) = r
        .need(
            root,
            &fields,
            "image",
            "the image to run, such as \"nginx\"",
        )
        .and_then(|node| image(r, node))
    {
        manifest.image = image;
    }
    if let Some(node) = fields.get("scale") {
        if node.as_str() == Some("global") {
            r.wrong(
                node,
                "\"global\" is not supported yet",
                format_args!("a whole number from 0 to {MAX_SCALE}"),
            );
        } else if let Some(scale) = r.integer(node, 0..=MAX_SCALE) {
            manifest.scale = scale;
        }
    }
    manifest.command = fields.get("command").and_then(|node| {
        let command = arguments(r, node)?;
        if command.is_empty() {
            r.wrong(
                node,
                "is empty",
                "at least one word, or no such field for the image's own",
            );
        }
        Some(command)
    });
    manifest.entrypoint = fields.get("entrypoint").and_then(|node| arguments(r, node));
    if let Some(node) = fields.get("env") {
        manifest.env = pairs::env(r, node);
    }
    if let Some(node) = fields.get("links") {
        manifest.links = services::links(r, node);
    }
    if let Some(node) = fields.get("services") {
        manifest.services = services::services(r, node);
    }
    if let Some(node) = fields.get("volumes") {
        manifest.volumes = volumes::volumes(r, node);
    }
    if let Some(node) = fields.get("labels") {
        manifest.labels = pairs::labels(r, node);
    }
    manifest.user = fields
        .get("user")
        .and_then(|node| r.text(node, "a string such as \"www-data\" or \"1000:1000\""))
        .map(str::to_owned);
    manifest.workdir = fields
        .get("workdir")
        .and_then(|node| absolute_path(r, node, "an absolute path such as \"/srv\""));
    manifest.stop_signal = fields
        .get("stop_signal")
        .and_then(|node| stop_signal(r, node));
    if let Some(node) = fields.get("pull")
        && let Some(pull) = r.choice(
            node,
            &[
                ("missing", Pull::Missing),
                ("always", Pull::Always),
                ("never", Pull::Never),
            ],
        )
    {
        manifest.pull = pull;
    }
    if let Some(health) = fields.get("healthcheck").and_then(|node| health(r, node)) {
        manifest.healthcheck = health;
    }
    if let Some(node) = fields.get("log") {
        manifest.log = log(r, node);
    }
    if let Some(timeout) = fields
        .get("stop_timeout")
        .and_then(|node| r.duration(node, Duration::ZERO..=LONGEST))
    {
        manifest.stop_timeout = timeout;
    }
    if let Some(timeout) = fields
        .get("start_timeout")
        .and_then(|node| r.duration(node, SHORTEST..=LONGEST))
    {
        manifest.start_timeout = timeout;
    }
    manifest.cpu_millis = fields.get("cpus").and_then(|node| resources::cpus(r, node));
    manifest.memory = fields
        .get("memory")
        .and_then(|node| resources::memory(r, node));
    if let Some(node) = fields.get("placement") {
        manifest.placement = resources::placement(r, node);
    }
    manifest
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

/// Words, as a list or as one string.
fn arguments(r: &mut Reader, node: &Node<'_>) -> Option<Vec<String>> {
    const EXPECTED: &str = "a list of strings, or one string";
    if let Some(text) = node.as_str() {
        r.string(node, EXPECTED)?;
        return match words::split(text) {
            Ok(words) => Some(words),
            Err(error) => {
                r.wrong(node, error, "words quoted as for a shell");
                None
            }
        };
    }
    strings(r, node, EXPECTED)
}

fn strings(r: &mut Reader, node: &Node<'_>, expected: &str) -> Option<Vec<String>> {
    let elements = r.list(node, expected)?;
    let mut words = Vec::with_capacity(elements.len());
    for element in &elements {
        words.push(r.string(element, "a string")?.to_owned());
    }
    Some(words)
}

fn absolute_path(r: &mut Reader, node: &Node<'_>, expected: &str) -> Option<String> {
    let text = r.text(node, expected)?;
    if !text.starts_with('/') {
        r.wrong(
            node,
            format_args!("{} is not absolute", quoted(text)),
            expected,
        );
        return None;
    }
    Some(text.to_owned())
}

fn stop_signal(r: &mut Reader, node: &Node<'_>) -> Option<String> {
    const EXPECTED: &str = "a signal such as \"SIGTERM\", \"INT\" or 15";
    if node.is_number() {
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
    let fields = r.object(node, fields::HEALTHCHECK, expected)?;
    let command = r
        .need(
            node,
            &fields,
            "command",
            "the program that is run in the container",
        )
        .and_then(|node| health_command(r, node));
    let duration = |r: &mut Reader, name: &str, shortest: Duration| {
        fields
            .get(name)
            .and_then(|node| r.duration(node, shortest..=LONGEST))
    };
    let interval = duration(r, "interval", SHORTEST);
    let timeout = duration(r, "timeout", SHORTEST);
    let start_period = duration(r, "start_period", Duration::ZERO);
    let retries = fields
        .get("retries")
        .and_then(|node| r.integer(node, 1..=MAX_COUNT));
    Some(Healthcheck {
        command: command?,
        interval,
        timeout,
        retries,
        start_period,
    })
}

/// A string is a line for a shell; Docker's own markers are not part of a list.
fn health_command(r: &mut Reader, node: &Node<'_>) -> Option<Vec<String>> {
    const EXPECTED: &str = "a list of strings, or one string for /bin/sh";
    if node.as_str().is_some() {
        let text = r.text(node, EXPECTED)?;
        return Some(["/bin/sh", "-c", text].map(str::to_owned).to_vec());
    }
    let command = strings(r, node, EXPECTED)?;
    match command.first().map(String::as_str) {
        None | Some("") => {
            r.wrong(node, "is empty", "at least the name of a program");
            None
        }
        Some(marker @ ("CMD" | "CMD-SHELL" | "NONE")) => {
            r.wrong(
                node,
                format_args!("begins with Docker's `{marker}`"),
                "the command alone; a string for a line that a shell runs",
            );
            None
        }
        Some(_) => Some(command),
    }
}

fn log(r: &mut Reader, node: &Node<'_>) -> Log {
    let mut log = Log::default();
    let Some(fields) = r.object(
        node,
        fields::LOG,
        "an object such as {\"max_size\": \"10m\"}",
    ) else {
        return log;
    };
    if let Some(size) = fields
        .get("max_size")
        .and_then(|node| r.size(node, SMALLEST_LOG..=LARGEST_LOG))
    {
        log.max_size = size;
    }
    if let Some(files) = fields
        .get("max_file")
        .and_then(|node| r.integer(node, 1..=MAX_COUNT))
    {
        log.max_file = files;
    }
    log
}
