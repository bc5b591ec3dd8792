//! The rules of a manifest: each field read, checked and given its default.
//!
//! A field with a problem gets its default here; the manifest is thrown away then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::reader::{Entry, Fields, Node, Reader, on_one_line, quoted, shortened};
use crate::env::{MAX_LINKS, RESERVED_PREFIXES, link_variable_name};
use crate::image::Reference;
use crate::manifest::{
    Healthcheck, Link, Log, Manifest, Protocol, Pull, Ready, Service, Volume, VolumeSource,
};
use crate::names::{NameError, ServiceName};
use crate::{fields, signals, words};

/// Most slots of a container.
pub(crate) const MAX_SCALE: u32 = 1000;
/// Most of the things that are counted in small numbers.
pub(crate) const MAX_COUNT: u32 = 1000;
/// Longest name of a volume, in characters; Docker's name of it has 90 more.
pub(crate) const MAX_VOLUME_NAME: usize = 128;
/// Prefix of the labels that are ours.
const OUR_LABELS: &str = "dokkaa.";

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
    match fields.get("image") {
        Some(node) => manifest.image = image(r, node).unwrap_or_default(),
        None => r.missing(root, "image", "the image to run, such as \"nginx\""),
    }
    if let Some(node) = fields.get("scale") {
        if node.as_str() == Some("global") {
            r.wrong(
                node,
                "\"global\" is not in this version",
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
        manifest.env = pairs(r, node, &env_name, "NAME=value");
    }
    if let Some(node) = fields.get("links") {
        manifest.links = links(r, node);
    }
    if let Some(node) = fields.get("services") {
        manifest.services = services(r, node);
    }
    if let Some(node) = fields.get("volumes") {
        manifest.volumes = volumes(r, node);
    }
    if let Some(node) = fields.get("labels") {
        manifest.labels = pairs(r, node, &label_name, "name=value");
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
    manifest.healthcheck = fields
        .get("healthcheck")
        .and_then(|node| healthcheck(r, node));
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

/// What is said of a name, if it is wrong; and whether that is only odd.
enum Verdict {
    Good,
    Odd(String),
    Wrong(String),
}

/// Names with values: a map, or a list of `name=value`.
fn pairs(
    r: &mut Reader,
    node: &Node<'_>,
    judge: &dyn Fn(&str) -> Verdict,
    shape: &str,
) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    if node.is_list() {
        let element_shape = format!("a string such as \"{shape}\"");
        for element in r.list(node, "a list").unwrap_or_default() {
            let Some(text) = r.string(&element, &element_shape) else {
                continue;
            };
            let Some((name, value)) = text.split_once('=') else {
                r.wrong(
                    &element,
                    format_args!("{} has no `=`", quoted(text)),
                    &element_shape,
                );
                continue;
            };
            match judge(name) {
                Verdict::Good => {}
                Verdict::Odd(what) => r.warn(&element, what),
                Verdict::Wrong(what) => r.says(&element, what),
            }
            if pairs.insert(name.to_owned(), value.to_owned()).is_some() {
                r.wrong(
                    &element,
                    format_args!("`{}` is there twice", shortened(name)),
                    "each name once",
                );
            }
        }
    } else {
        let expected = format!("a map of names to values, or a list of \"{shape}\"");
        for entry in r.entries(node, expected).unwrap_or_default() {
            match judge(entry.name) {
                Verdict::Good => {}
                Verdict::Odd(what) => r.warn_name(&entry, what),
                Verdict::Wrong(what) => r.wrong_name(&entry, what),
            }
            if let Some(value) = r.scalar(&entry.node) {
                pairs.insert(entry.name.to_owned(), value);
            }
        }
    }
    pairs
}

fn env_name(name: &str) -> Verdict {
    let first = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '.' | '-');
    let legal = name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit());
    if !legal {
        return Verdict::Wrong(format!(
            "`{}` is not the name of a variable; expected letters, digits, `_`, `.` and `-`, no digit first",
            shortened(name)
        ));
    }
    match RESERVED_PREFIXES
        .iter()
        .find(|prefix| name.starts_with(**prefix))
    {
        Some(prefix) => Verdict::Odd(format!(
            "`{}` begins with `{prefix}`; a variable of that name that dokkaa sets wins",
            shortened(name)
        )),
        None => Verdict::Good,
    }
}

fn label_name(name: &str) -> Verdict {
    if name.is_empty() || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        Verdict::Wrong(format!(
            "{} is not the name of a label; expected a name without blanks such as `com.example.team`",
            quoted(name)
        ))
    } else if name.starts_with(OUR_LABELS) {
        Verdict::Wrong(format!(
            "`{}` is one of dokkaa's own; expected a name that does not begin with `{OUR_LABELS}`",
            shortened(name)
        ))
    } else {
        Verdict::Good
    }
}

fn links(r: &mut Reader, node: &Node<'_>) -> Vec<Link> {
    const EXPECTED: &str = "a list of services such as [\"db\", \"shop/cache:sessions\"]";
    let elements = r.list(node, EXPECTED).unwrap_or_default();
    if elements.len() > MAX_LINKS {
        r.wrong(
            node,
            format_args!("has {} links", elements.len()),
            format_args!("at most {MAX_LINKS}"),
        );
        return Vec::new();
    }
    let mut links: Vec<Link> = Vec::new();
    let mut by_variable: BTreeMap<String, String> = BTreeMap::new();
    for element in elements {
        let Some(text) = r.string(&element, "a string such as \"db\" or \"shop/db:alias\"") else {
            continue;
        };
        let link: Link = match text.parse() {
            Ok(link) => link,
            Err(error) => {
                r.says(&element, error);
                continue;
            }
        };
        let variable = link_variable_name(&link);
        if let Some(earlier) = by_variable.get(&variable) {
            r.wrong(
                &element,
                format_args!("gives SERVICE_{variable}_ADDR, as \"{earlier}\" does"),
                format_args!(
                    "another name by an alias, such as \"{}:other\"",
                    without_alias(&link)
                ),
            );
        }
        by_variable.insert(variable, link.to_string());
        links.push(link);
    }
    links
}

fn without_alias(link: &Link) -> Link {
    Link {
        alias: None,
        ..link.clone()
    }
}

fn services(r: &mut Reader, node: &Node<'_>) -> BTreeMap<ServiceName, Service> {
    let mut services = BTreeMap::new();
    let mut host_ports: BTreeMap<(u16, Protocol), String> = BTreeMap::new();
    let entries = r
        .entries(node, "a map of names to ports such as {\"web\": 80}")
        .unwrap_or_default();
    for entry in entries {
        let name: Result<ServiceName, NameError> = entry.name.parse();
        if let Err(error) = &name {
            r.wrong_name(&entry, error);
        }
        let Some(service) = service(r, &entry, &mut host_ports) else {
            continue;
        };
        if let Ok(name) = name {
            services.insert(name, service);
        }
    }
    services
}

fn service(
    r: &mut Reader,
    entry: &Entry<'_>,
    host_ports: &mut BTreeMap<(u16, Protocol), String>,
) -> Option<Service> {
    let node = &entry.node;
    if node.is_number() {
        return port(r, node).map(Service::on_port);
    }
    let fields = r.object(
        node,
        fields::SERVICE,
        "a port, or an object such as {\"port\": 80}",
    )?;
    let mut service = Service::on_port(0);
    match fields.get("port") {
        Some(node) => service.port = port(r, node).unwrap_or_default(),
        None => r.missing(node, "port", "the port inside the container, such as 80"),
    }
    if let Some(protocol) = fields
        .get("protocol")
        .and_then(|node| r.choice(node, &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]))
    {
        service.protocol = protocol;
    }
    service.role = fields
        .get("role")
        .and_then(|node| r.string(node, "a string"))
        .map(str::to_owned);
    if let Some(ready) = fields.get("ready").and_then(|node| {
        r.choice(
            node,
            &[("listening", Ready::Listening), ("started", Ready::Started)],
        )
    }) {
        service.ready = ready;
    }
    if let Some(node) = fields.get("host_port") {
        service.host_port = port(r, node);
        if let Some(port) = service.host_port
            && let Some(other) = host_ports.insert((port, service.protocol), shortened(entry.name))
        {
            r.wrong(
                node,
                format_args!("{port} is the host_port of `{other}` too"),
                "a port of its own for each protocol",
            );
        }
    }
    service.bind = fields.get("bind").and_then(|node| bind(r, node, &fields));
    Some(service)
}

fn bind(r: &mut Reader, node: &Node<'_>, fields: &Fields<'_>) -> Option<std::net::IpAddr> {
    let text = r.string(node, "an IP address")?;
    if fields.get("host_port").is_none() {
        r.wrong(node, "means nothing without `host_port`", "both or neither");
    }
    let address = text.parse().ok();
    if address.is_none() {
        r.wrong(
            node,
            format_args!("{} is not an IP address", quoted(text)),
            "one such as \"127.0.0.1\"",
        );
    }
    address
}

fn port(r: &mut Reader, node: &Node<'_>) -> Option<u16> {
    r.integer(node, 1..=u32::from(u16::MAX))
        .and_then(|port| u16::try_from(port).ok())
}

fn volumes(r: &mut Reader, node: &Node<'_>) -> Vec<Volume> {
    let elements = r
        .list(node, "a list such as [\"data:/var/lib/data\"]")
        .unwrap_or_default();
    let mut volumes = Vec::new();
    let mut targets = BTreeSet::new();
    for element in elements {
        let Some(volume) = volume(r, &element) else {
            continue;
        };
        if !targets.insert(path_parts(&volume.target).join("/")) {
            r.wrong(
                &element,
                format_args!("`{}` is a target already", shortened(&volume.target)),
                "another target",
            );
        }
        volumes.push(volume);
    }
    volumes
}

fn volume(r: &mut Reader, node: &Node<'_>) -> Option<Volume> {
    const EXPECTED: &str = "\"source:target\", \"source:target:ro\" or an object";
    if node.is_object() {
        let fields = r.object(node, fields::VOLUME, EXPECTED)?;
        let flag = |r: &mut Reader, name: &str| {
            fields
                .get(name)
                .and_then(|node| r.boolean(node))
                .unwrap_or(false)
        };
        let read_only = flag(r, "read_only");
        let external = flag(r, "external");
        let source = match fields.get("source") {
            Some(node) => {
                let text = r.string(node, "an absolute path or a name")?;
                volume_source(r, node, text, external)
            }
            None => {
                r.missing(node, "source", "an absolute path of the host or a name");
                None
            }
        };
        let target = match fields.get("target") {
            Some(node) => {
                let text = r.string(node, "an absolute path")?;
                volume_target(r, node, text)
            }
            None => {
                r.missing(node, "target", "an absolute path in the container");
                None
            }
        };
        return Some(Volume {
            source: source?,
            target: target?,
            read_only,
        });
    }
    let text = r.string(node, EXPECTED)?;
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, read_only) = match parts.as_slice() {
        [source, target] | [source, target, "rw"] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        [_, _, option] => {
            r.wrong(
                node,
                format_args!("`{}` is not an option of a volume", shortened(option)),
                EXPECTED,
            );
            return None;
        }
        _ => {
            r.wrong(
                node,
                format_args!("{} is not a source and a target", quoted(text)),
                EXPECTED,
            );
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
            format_args!("source {} is no absolute path and no name", quoted(text)),
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

/// What tells one target from another.
fn path_parts(path: &str) -> Vec<&str> {
    path.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect()
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

fn healthcheck(r: &mut Reader, node: &Node<'_>) -> Option<Healthcheck> {
    let fields = r.object(
        node,
        fields::HEALTHCHECK,
        "an object such as {\"command\": \"curl -f localhost\"}",
    )?;
    let command = match fields.get("command") {
        Some(node) => health_command(r, node),
        None => {
            r.missing(node, "command", "what is run in the container");
            None
        }
    };
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
