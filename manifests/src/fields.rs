//! The fields of a manifest: one table for the parser, the JSON Schema and the documentation.
//!
//! A field that is not in its table is unknown. One that is not supported yet
//! is refused as such, because a manifest that needs it cannot be run.

use serde_json::{Value, json};
use strum::VariantNames as _;

use crate::env::MAX_LINKS;
use crate::manifest::{Protocol, Pull, Ready, Scale, UlimitName};
use crate::names::MAX_NAME;
use crate::placement::{MAX_CONSTRAINTS, MAX_LABEL};
use crate::schema::{
    Field, boolean, command, count, duration, field, later, limit, object, pairs, pattern, port,
    required, strings, text,
};
use crate::update::{OnFailure, Order, Rebalance};

const SIZE: &str = "^[0-9]+([bB]|[kKmMgG][iI]?[bB]?)$";
const LABEL: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";
const LINK: &str = "^([a-z0-9-]+/)?[a-z0-9-]+(:[a-z0-9-]+)?$";
const SIGNAL: &str = r"^([1-9][0-9]?|([Ss][Ii][Gg])?[A-Za-z]+[0-9]?([+-][0-9]{1,2})?)$";
const LABEL_NAME: &str = "^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$";
const CONSTRAINT: &str = r"^\s*[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?\s*[=!]=\s*[^=\s]";
const CPUS: &str = r"^\+?[0-9]*\.?[0-9]*([eE][+-]?[0-9]+)?$";
const TAG_PATTERN: &str = r"^[A-Za-z0-9_*][A-Za-z0-9_.*-]*$";
const VOLUME_STRING: &str = "^[^:]+:/[^:]*(:(ro|rw))?$";

/// The manifest itself.
pub const MANIFEST: &[Field] = &[
    required(
        "image",
        "string",
        "The image to run, as `docker pull` takes it: `[registry/]path[:tag][@digest]`.",
        || json!({"type": "string", "pattern": r"^\S+$"}),
    ),
    field(
        "scale",
        "0 to 1000, or `\"global\"`",
        "`1`",
        "Number of instances, each in its own slot; or one on each host that may have it.",
        || {
            let count = json!({"type": "integer", "minimum": 0, "maximum": 1000});
            json!({"anyOf": [count, {"const": Scale::GLOBAL}]})
        },
    ),
    field(
        "command",
        "list of strings, or one string",
        "the image's",
        "Arguments (Docker's CMD). One string is split into words as a shell does, but no shell runs it: nothing is expanded.",
        command,
    ),
    field(
        "entrypoint",
        "list of strings, or one string",
        "the image's",
        "The program (Docker's ENTRYPOINT); `[]` clears the image's.",
        || strings(0),
    ),
    field(
        "env",
        "map of name to string, number or boolean; or list of `\"NAME=value\"`",
        "none",
        "Environment variables. Those that dokkaa sets (`SERVICE_`, `DOKKAA_`, `BACKENDS_`) take precedence.",
        || pairs("^[A-Za-z_.-][A-Za-z0-9_.-]*", "$", "="),
    ),
    field(
        "links",
        "list of `service` or `app/service`, each with an optional `:alias`; at most 256",
        "none",
        "Services to connect to, TCP only. Each sets `SERVICE_<NAME>_ADDR` and `SERVICE_<NAME>_PORT`, named by its alias if it has one.",
        || json!({"type": "array", "items": {"type": "string", "pattern": LINK}, "maxItems": MAX_LINKS}),
    ),
    field(
        "services",
        "map of name to port, or to an object",
        "none",
        "Named ports offered to other containers.",
        || {
            json!({
                "type": "object",
                "propertyNames": {"pattern": LABEL, "maxLength": MAX_NAME, "not": {"pattern": "---"}},
                "additionalProperties": {"anyOf": [port(), object(SERVICE)]},
            })
        },
    ),
    field(
        "volumes",
        "list of `source:target[:ro]`, or of objects",
        "none",
        "Mounts. A source is an absolute path of the host, which must exist, or a volume name; a named volume belongs to its slot and keeps it on its host.",
        || {
            let short = json!({"type": "string", "pattern": VOLUME_STRING});
            json!({"type": "array", "items": {"anyOf": [short, object(VOLUME)]}})
        },
    ),
    field(
        "user",
        "string",
        "the image's",
        "User to run as: `user`, `uid`, `user:group` or `uid:gid`.",
        text,
    ),
    field(
        "workdir",
        "absolute path",
        "the image's",
        "Working directory.",
        || pattern("^/"),
    ),
    field(
        "labels",
        "map of name to string, number or boolean; or list of `\"name=value\"`",
        "none",
        "Labels of the container; the prefix `dokkaa.` is reserved.",
        || pairs(r"^[^\s=]", "", "[^=]*="),
    ),
    field(
        "stop_signal",
        "name or number of a signal",
        "the image's, else SIGTERM",
        "Signal that asks it to stop.",
        || {
            let number = json!({"type": "integer", "minimum": 1, "maximum": 64});
            json!({"anyOf": [pattern(SIGNAL), number]})
        },
    ),
    field(
        "stop_timeout",
        "duration",
        "`\"10s\"`",
        "Time between that signal and SIGKILL.",
        duration,
    ),
    field(
        "pull",
        "`\"missing\"`, `\"always\"` or `\"never\"`",
        "`\"missing\"`",
        "Pull policy, where the image is decided: `missing` asks the other hosts for an image of no registry, then the registry; `always` asks the registry first, and a PUT without changes resolves the tag again; `never` asks no registry, but another host may have it.",
        || json!({"enum": Pull::VARIANTS}),
    ),
    field(
        "healthcheck",
        "object, or `\"none\"`",
        "the image's",
        "Healthcheck in place of the image's. With `\"none\"`, readiness follows its services' ports.",
        || json!({"anyOf": [{"const": "none"}, object(HEALTHCHECK)]}),
    ),
    field(
        "log",
        "object",
        "10 MiB, 3 files",
        "Limits of the kept output.",
        || object(LOG),
    ),
    field(
        "start_timeout",
        "duration",
        "`\"60s\"`",
        "Time to become ready, after which its start counts as failed.",
        duration,
    ),
    field(
        "cpus",
        "number of CPUs, or that as a string; 0.01 to 1024",
        "no limit, none reserved",
        "CPU limit, such as `0.5`; a host must have as much unreserved.",
        || {
            let number = json!({"type": "number", "minimum": 0.01, "maximum": 1024});
            json!({"anyOf": [number, pattern(CPUS)]})
        },
    ),
    field(
        "memory",
        "size; `\"6m\"` to `\"16384g\"`",
        "no limit, none reserved",
        "Memory limit; a host must have as much unreserved. A container above it is killed.",
        || pattern(SIZE),
    ),
    field(
        "ulimits",
        "map of name to number, or to an object",
        "`{\"nofile\": 1048576}`",
        "Limits of its processes; those not named here are the engine's. A host that can't give one is not eligible.",
        || {
            json!({
                "type": "object",
                "propertyNames": {"enum": UlimitName::VARIANTS},
                "additionalProperties": {"anyOf": [limit(), object(ULIMIT)]},
            })
        },
    ),
    field(
        "placement",
        "object",
        "any host",
        "Hosts that may run it, and the spread of its instances over them.",
        || object(PLACEMENT),
    ),
    field(
        "update",
        "object",
        "one slot after the other",
        "How another version takes the place of the present one.",
        || object(UPDATE),
    ),
    field(
        "image_policy",
        "object",
        "off",
        "Asks the registry now and then for a newer image, and updates to it: see docs/newer-images.md.",
        || object(IMAGE_POLICY),
    ),
    field(
        "before",
        "object",
        "nothing",
        "A command that runs once for each new version, on one host, before any instance of it starts: a migration. While it runs and when it fails, the present instances stay.",
        || object(BEFORE),
    ),
    field(
        "drain_timeout",
        "duration; at most `\"1h\"`",
        "`\"10s\"`",
        "Longest time for which open connections are waited for before an instance that leaves is asked to stop.",
        duration,
    ),
    field(
        "rebalance",
        "`\"auto\"` or `\"off\"`",
        "`\"auto\"`",
        "Whether an instance may move to a host that has fewer containers when nothing else is under way. One that writes to a volume never does.",
        || json!({"enum": Rebalance::VARIANTS}),
    ),
    field(
        "stopped",
        "boolean",
        "`false`",
        "Runs nothing, and keeps the manifest with its scale: `dokkaa stop` and `dokkaa start` write it.",
        boolean,
    ),
    field(
        "restarted_at",
        "string",
        "none",
        "Any text. Another one replaces every instance, as an update does: `dokkaa restart` writes the time.",
        text,
    ),
    later("restart", "containers are always restarted"),
    later("connect_timeout", ""),
    later("secrets", ""),
    later("privileged", ""),
    later("network", ""),
    later("cap_add", ""),
    later("devices", ""),
];

/// One of `services`, as an object.
pub const SERVICE: &[Field] = &[
    required("port", "1 to 65535", "The port inside the container.", port),
    field(
        "protocol",
        "`\"tcp\"` or `\"udp\"`",
        "`\"tcp\"`",
        "Transport. Links are TCP only; clients of a UDP service look up its DNS SRV record.",
        || json!({"enum": Protocol::VARIANTS}),
    ),
    field(
        "role",
        "string",
        "none",
        "Free text, in the container's `DOKKAA_ROLE_<name>`.",
        || json!({"type": "string"}),
    ),
    field(
        "ready",
        "`\"listening\"` or `\"started\"`",
        "`\"listening\"`",
        "Condition of readiness: its port listens, or the container runs. A healthcheck takes precedence over both.",
        || json!({"enum": Ready::VARIANTS}),
    ),
    field(
        "host_port",
        "1 to 65535",
        "any free port",
        "Fixed port on its host; a host where it is taken, or used by the agent, is not eligible. One for each port inside.",
        port,
    ),
    field(
        "bind",
        "IP address",
        "the agent's `--host-ip`; under `dokkaa up` that is the bridge's, such as 172.17.0.1",
        "Address of the host on which `host_port` listens, and at which DNS and links announce it. `0.0.0.0` is every address, open to the world, announced at the agent's `--host-ip`; a loopback address is not announced.",
        || json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
    ),
    later("publish", ""),
    later("hosts", ""),
    later("paths", ""),
    later("balance", ""),
    later("proxy_protocol", ""),
];

/// One of `volumes`, as an object.
pub const VOLUME: &[Field] = &[
    required(
        "source",
        "absolute path or name",
        "Source of the mount.",
        text,
    ),
    required("target", "absolute path", "Path in the container.", || {
        pattern("^/.")
    }),
    field(
        "read_only",
        "boolean",
        "`false`",
        "Mounted read-only.",
        boolean,
    ),
    field(
        "external",
        "boolean",
        "`false`",
        "The source is an existing Docker volume of that very name, shared by all that mount it.",
        boolean,
    ),
];

/// One of `ulimits`, as an object.
pub const ULIMIT: &[Field] = &[
    required(
        "soft",
        "-1 (unlimited) to 1125899906842624",
        "The limit that holds.",
        limit,
    ),
    required(
        "hard",
        "-1 (unlimited) to 1125899906842624",
        "Up to which a process may raise it; not below `soft`.",
        limit,
    ),
];

/// `healthcheck`.
pub const HEALTHCHECK: &[Field] = &[
    required(
        "command",
        "list of strings, or one string",
        "Command run in the container; exit code 0 means healthy. One string is run by `/bin/sh -c`.",
        command,
    ),
    field(
        "interval",
        "duration",
        "Docker's, 30 s",
        "Time between two runs.",
        duration,
    ),
    field(
        "timeout",
        "duration",
        "Docker's, 30 s",
        "Time-out of a run.",
        duration,
    ),
    field(
        "retries",
        "1 to 1000",
        "Docker's, 3",
        "Consecutive failures that make it unhealthy.",
        count,
    ),
    field(
        "start_period",
        "duration",
        "Docker's, 0 s",
        "Time after the start in which failures do not count.",
        duration,
    ),
];

/// `log`.
pub const LOG: &[Field] = &[
    field(
        "max_size",
        "size",
        "`\"10m\"`",
        "Size at which a file is rotated.",
        || pattern(SIZE),
    ),
    field("max_file", "1 to 1000", "`3`", "Number of files.", count),
];

/// `placement`.
pub const PLACEMENT: &[Field] = &[
    field(
        "constraints",
        "list of `\"label==value\"` and `\"label!=value\"`; at most 100",
        "none",
        "Conditions on the labels of a host; all must hold. A host without the label satisfies `!=`.",
        || {
            let constraint = pattern(CONSTRAINT);
            json!({"type": "array", "items": constraint, "maxItems": MAX_CONSTRAINTS})
        },
    ),
    field(
        "max_per_host",
        "1 to 1000",
        "no limit",
        "Most instances on one host.",
        count,
    ),
    field(
        "spread",
        "name of a label",
        "none",
        "Label over whose values the instances are spread evenly, such as `zone`.",
        || json!({"type": "string", "pattern": LABEL_NAME, "maxLength": MAX_LABEL}),
    ),
];

/// `update`.
pub const UPDATE: &[Field] = &[
    field(
        "parallelism",
        "1 to 1000, or a percentage of `scale` such as `\"25%\"`",
        "`1`",
        "Most slots that are updated at once; more than `scale` is all of them. A percentage is one of the hosts where that is `\"global\"`.",
        || json!({"anyOf": [count(), pattern("^[0-9]{1,3}%$")]}),
    ),
    field(
        "order",
        "`\"start-first\"` or `\"stop-first\"`",
        "`\"start-first\"`; `\"stop-first\"` where it writes to a volume or has a `host_port`",
        "Whether the new instance is ready before the old one is asked to stop, or starts after it has ended.",
        || json!({"enum": Order::VARIANTS}),
    ),
    field(
        "monitor",
        "duration",
        "`\"5s\"`",
        "Time for which a new instance must stay ready before the next slot is updated. One that ends earlier has failed.",
        duration,
    ),
    field(
        "delay",
        "duration",
        "`\"0s\"`",
        "Time between that and the next slot.",
        duration,
    ),
    field(
        "max_failures",
        "0 to 1000",
        "`0`",
        "Slots that may fail before the update is halted.",
        || json!({"type": "integer", "minimum": 0, "maximum": 1000}),
    ),
    field(
        "on_failure",
        "`\"pause\"`, `\"rollback\"` or `\"continue\"`",
        "`\"pause\"`",
        "What follows when more have failed: the other slots keep what they run, all go back to the last good version, or the update goes on.",
        || json!({"enum": OnFailure::VARIANTS}),
    ),
];

/// `image_policy`.
pub const IMAGE_POLICY: &[Field] = &[
    field(
        "check",
        "duration; at least `\"10s\"`",
        "`\"5m\"`",
        "Time between two questions to the registry; after one that it did not answer, longer.",
        duration,
    ),
    field(
        "match",
        "a tag with `*` in it",
        "the tag of `image`, whose digest is followed",
        "Runs the newest tag of this shape. Each `*` stands for one whole number, everything else for itself, and the tag with the higher numbers from left to right is newer: `1.27.*` matches 1.27.10, which is newer than 1.27.9, and not `1.28.0-rc1`; `1.28.*-rc*` does. `image` must have such a tag.",
        || pattern(TAG_PATTERN),
    ),
];

/// `before`.
pub const BEFORE: &[Field] = &[
    required(
        "command",
        "list of strings, or one string",
        "Arguments in place of `command`, for the same entrypoint; exit code 0 means that it is done. Environment, links, user and limits are those of an instance; volumes that belong to a slot are not mounted.",
        command,
    ),
    field(
        "image",
        "string",
        "the container's, as decided for the version",
        "Another image to run it, with its own entrypoint.",
        || json!({"type": "string", "pattern": r"^\S+$"}),
    ),
    field(
        "timeout",
        "duration; `\"1s\"` to `\"24h\"`",
        "`\"10m\"`",
        "Time after which it has failed, and is stopped.",
        duration,
    ),
];

/// JSON Schema, draft 2020-12, of a manifest.
pub fn json_schema() -> Value {
    let mut schema = object(MANIFEST);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("dokkaa manifest");
    schema
}

/// The field of that name.
pub fn find(table: &'static [Field], name: &str) -> Option<&'static Field> {
    table.iter().find(|field| field.name == name)
}

/// Names of the supported fields.
pub(crate) fn names(table: &'static [Field]) -> Vec<&'static str> {
    let supported = table.iter().filter(|field| field.is_supported());
    supported.map(|field| field.name).collect()
}

/// Longest unknown name that a suggestion is searched for, in bytes.
const LONGEST_GUESS: usize = 40;

/// Names of our fields in Docker, Compose, Kubernetes and Nomad.
const SYNONYMS: &[(&str, &str)] = &[
    ("args", "command"),
    ("cmd", "command"),
    ("cpu", "cpus"),
    ("depends_on", "links"),
    ("environment", "env"),
    ("instances", "scale"),
    ("logging", "log"),
    ("mem", "memory"),
    ("mem_limit", "memory"),
    ("mounts", "volumes"),
    ("ports", "services"),
    ("pull_policy", "pull"),
    ("replicas", "scale"),
    ("stop_grace_period", "stop_timeout"),
    ("rolling_update", "update"),
    ("test", "command"),
    ("update_config", "update"),
    ("failure_action", "on_failure"),
    ("max_parallel", "parallelism"),
    ("working_dir", "workdir"),
];

/// The name in `table` most like `name`, for a suggestion.
pub fn nearest(table: &'static [Field], name: &str) -> Option<&'static str> {
    // The distance to a text of a megabyte would cost a gigabyte.
    if name.len() > LONGEST_GUESS {
        return None;
    }
    let plain = name.to_ascii_lowercase().replace('-', "_");
    if let Some((_, ours)) = SYNONYMS
        .iter()
        .find(|(theirs, ours)| *theirs == plain && find(table, ours).is_some())
    {
        return Some(ours);
    }
    table
        .iter()
        .filter(|field| field.is_supported())
        .map(|field| (strsim::damerau_levenshtein(field.name, &plain), field.name))
        .filter(|(distance, known)| *distance <= 2 && *distance * 2 < known.len())
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested() {
        for (written, meant) in [
            ("link", Some("links")),
            ("Image", Some("image")),
            ("start-timeout", Some("start_timeout")),
            ("comand", Some("command")),
            ("environment", Some("env")),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(MANIFEST, written), meant, "{written}");
        }
    }

    #[test]
    fn names_in_a_table_are_unique() {
        for table in [
            MANIFEST,
            SERVICE,
            VOLUME,
            ULIMIT,
            HEALTHCHECK,
            LOG,
            PLACEMENT,
            UPDATE,
            IMAGE_POLICY,
            BEFORE,
        ] {
            let mut names: Vec<&str> = table.iter().map(|field| field.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), table.len());
        }
    }
}
