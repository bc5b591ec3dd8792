//! The fields of a manifest: one table for the parser, the JSON Schema and the documentation.
//!
//! A field that is not in its table is unknown; one that is `later` is
//! refused with that reason, because a manifest that needs it cannot be run.

use std::fmt::Write as _;

/// One field of an object.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// As it is written.
    pub name: &'static str,
    /// What it takes, for people.
    pub kind: &'static str,
    /// What holds without it, for people; empty if nothing does.
    pub default: &'static str,
    /// What it means; of one that is `later`, what holds meanwhile.
    pub meaning: &'static str,
    /// Known, but not in this version.
    pub later: bool,
}

const fn field(
    name: &'static str,
    kind: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Field {
    Field {
        name,
        kind,
        default,
        meaning,
        later: false,
    }
}

const fn later(name: &'static str) -> Field {
    instead(name, "")
}

/// As `later`, with what holds meanwhile.
const fn instead(name: &'static str, meaning: &'static str) -> Field {
    Field {
        name,
        kind: "",
        default: "",
        meaning,
        later: true,
    }
}

/// The manifest itself.
pub const MANIFEST: &[Field] = &[
    field(
        "image",
        "string, required",
        "",
        "The image to run, as `docker pull` takes it: `[registry/]path[:tag][@digest]`.",
    ),
    field(
        "scale",
        "0 to 1000",
        "1",
        "How many instances run, each in a slot of its own.",
    ),
    field(
        "command",
        "list of strings, or one string",
        "the image's",
        "Arguments (Docker's CMD). One string is split into words as a shell does, but no shell runs it: nothing is expanded.",
    ),
    field(
        "entrypoint",
        "list of strings, or one string",
        "the image's",
        "The program (Docker's ENTRYPOINT); `[]` clears the image's.",
    ),
    field(
        "env",
        "map of name to string, number or boolean; or list of `\"NAME=value\"`",
        "none",
        "Environment variables. Under `SERVICE_`, `DOKKAA_` and `BACKENDS_` those that dokkaa sets win.",
    ),
    field(
        "links",
        "list of `service` or `app/service`, each with an optional `:alias`; at most 256",
        "none",
        "Services to reach, over TCP: links carry no UDP. Each becomes `SERVICE_<NAME>_ADDR` and `SERVICE_<NAME>_PORT`, by its alias if it has one.",
    ),
    field(
        "services",
        "map of name to port, or to an object",
        "none",
        "Named ports that it offers to others.",
    ),
    field(
        "volumes",
        "list of `source:target[:ro]`, or of objects",
        "none",
        "What is mounted. A source is an absolute path of the host, which must exist, or a volume's name; a named volume belongs to its slot and keeps it on its host.",
    ),
    field(
        "user",
        "string",
        "the image's",
        "User to run as: `user`, `uid`, `user:group` or `uid:gid`.",
    ),
    field(
        "workdir",
        "absolute path",
        "the image's",
        "Working directory.",
    ),
    field(
        "labels",
        "map of name to string, number or boolean; or list of `\"name=value\"`",
        "none",
        "Labels of the container; not under `dokkaa.`, which is dokkaa's own.",
    ),
    field(
        "stop_signal",
        "name or number of a signal",
        "the image's, else SIGTERM",
        "Signal that asks it to stop.",
    ),
    field(
        "stop_timeout",
        "duration",
        "`\"10s\"`",
        "Time between that signal and SIGKILL.",
    ),
    field(
        "pull",
        "`\"missing\"`, `\"always\"` or `\"never\"`",
        "`\"missing\"`",
        "When the registry is asked. With `always`, a PUT without any change resolves the tag anew.",
    ),
    field(
        "healthcheck",
        "object, or `\"none\"`",
        "the image's",
        "A check that says whether it is ready, in place of the image's. With `\"none\"` there is no check, and its services' ports say it.",
    ),
    field(
        "log",
        "object",
        "10 MiB, 3 files",
        "How much of its output is kept.",
    ),
    field(
        "start_timeout",
        "duration",
        "`\"60s\"`",
        "How long it may take to get ready until its start counts as failed.",
    ),
    field(
        "cpus",
        "number of processors, or that as a string; 0.01 to 1024",
        "no limit, none reserved",
        "Processors that it may use at most, such as `0.5`, and that a host must have free for it.",
    ),
    field(
        "memory",
        "size; `\"6m\"` to `\"16384g\"`",
        "no limit, none reserved",
        "Memory that it may use at most, and that a host must have free for it. One that takes more is killed.",
    ),
    field(
        "placement",
        "object",
        "any host",
        "Which hosts may run it, and how its instances are spread over them.",
    ),
    later("update"),
    later("drain_timeout"),
    later("rebalance"),
    instead("restart", "containers are always restarted"),
    later("connect_timeout"),
    later("secrets"),
    later("privileged"),
    later("network"),
    later("cap_add"),
    later("devices"),
];

/// One of `services`, as an object.
pub const SERVICE: &[Field] = &[
    field(
        "port",
        "1 to 65535, required",
        "",
        "The port inside the container.",
    ),
    field(
        "protocol",
        "`\"tcp\"` or `\"udp\"`",
        "`\"tcp\"`",
        "Its transport. Links carry TCP only; clients of a UDP service look up its DNS SRV record.",
    ),
    field(
        "role",
        "string",
        "none",
        "Free text that the container finds in `DOKKAA_ROLE_<name>`.",
    ),
    field(
        "ready",
        "`\"listening\"` or `\"started\"`",
        "`\"listening\"`",
        "What makes it ready: its port listens, or the container runs. A healthcheck goes before both.",
    ),
    field(
        "host_port",
        "1 to 65535",
        "any free port",
        "The port that it must have on its host; a host where that is taken, or is the agent's own, is not eligible.",
    ),
    field(
        "bind",
        "IP address",
        "the agent's `--host-ip`; under `dokkaa up` that is the bridge's, such as 172.17.0.1",
        "The address of the host on which `host_port` listens, and at which DNS and links find it. `0.0.0.0` is every address, open to the world, found at the agent's `--host-ip`; what is bound to loopback is not found by others.",
    ),
    later("publish"),
    later("hosts"),
    later("paths"),
    later("balance"),
    later("proxy_protocol"),
];

/// One of `volumes`, as an object.
pub const VOLUME: &[Field] = &[
    field(
        "source",
        "absolute path or name, required",
        "",
        "What is mounted.",
    ),
    field(
        "target",
        "absolute path, required",
        "",
        "Where in the container.",
    ),
    field("read_only", "boolean", "`false`", "No writing."),
    field(
        "external",
        "boolean",
        "`false`",
        "The source is an existing Docker volume of that very name, shared by whoever mounts it.",
    ),
];

/// `healthcheck`.
pub const HEALTHCHECK: &[Field] = &[
    field(
        "command",
        "list of strings, or one string, required",
        "",
        "What is run in the container; exit code 0 means healthy. One string is run by `/bin/sh -c`.",
    ),
    field(
        "interval",
        "duration",
        "Docker's, 30 s",
        "Time between two runs.",
    ),
    field("timeout", "duration", "Docker's, 30 s", "Longest run."),
    field(
        "retries",
        "1 to 1000",
        "Docker's, 3",
        "Failures in a row that make it unhealthy.",
    ),
    field(
        "start_period",
        "duration",
        "Docker's, 0 s",
        "Time after the start in which failures do not count.",
    ),
];

/// `log`.
pub const LOG: &[Field] = &[
    field(
        "max_size",
        "size",
        "`\"10m\"`",
        "Size at which a new file is begun.",
    ),
    field("max_file", "1 to 1000", "`3`", "Files that are kept."),
];

/// `placement`.
pub const PLACEMENT: &[Field] = &[
    field(
        "constraints",
        "list of `\"label==value\"` and `\"label!=value\"`; at most 100",
        "none",
        "What the labels of a host must satisfy, all of it. A host without the label satisfies `!=`.",
    ),
    field(
        "max_per_host",
        "1 to 1000",
        "no limit",
        "Most instances of it on one host.",
    ),
    field(
        "spread",
        "name of a label",
        "none",
        "The label over whose values the instances are spread evenly, such as `zone`.",
    ),
];

/// The field of that name.
pub fn find(table: &'static [Field], name: &str) -> Option<&'static Field> {
    table.iter().find(|field| field.name == name)
}

/// Longest name that is taken for a misspelt one, in bytes.
const LONGEST_GUESS: usize = 40;

/// What others call our fields.
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
    ("test", "command"),
    ("working_dir", "workdir"),
];

/// The name in `table` that somebody who wrote `name` may have meant.
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
        .filter(|field| !field.later)
        .map(|field| (strsim::damerau_levenshtein(field.name, &plain), field.name))
        .filter(|(distance, known)| *distance <= 2 && *distance * 2 < known.len())
        .min()
        .map(|(_, known)| known)
}

/// The page about the manifest, in Markdown.
pub fn markdown() -> String {
    let mut page = String::from(PAGE_HEAD);
    for (title, text, table) in [
        ("Fields", "", MANIFEST),
        (
            "A service",
            "`\"web\": 80` is short for `\"web\": {\"port\": 80}`. The name is a DNS label.\n\n",
            SERVICE,
        ),
        (
            "A volume",
            "`\"data:/var/lib/x:ro\"` is short for `{\"source\": \"data\", \"target\": \"/var/lib/x\", \"read_only\": true}`.\n\n",
            VOLUME,
        ),
        ("The healthcheck", "", HEALTHCHECK),
        ("The log", "", LOG),
        ("Placement", PLACEMENT_TEXT, PLACEMENT),
    ] {
        let _ = write!(page, "\n## {title}\n\n{text}");
        page.push_str("| field | takes | default | meaning |\n|---|---|---|---|\n");
        for field in table.iter().filter(|field| !field.later) {
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} |",
                field.name, field.kind, field.default, field.meaning
            );
        }
        let later: Vec<String> = table
            .iter()
            .filter(|field| field.later)
            .map(|field| format!("`{}`", field.name))
            .collect();
        if !later.is_empty() {
            let _ = writeln!(
                page,
                "\nNot supported yet, and refused: {}.",
                later.join(", ")
            );
        }
    }
    page
}

const PLACEMENT_TEXT: &str = "\
A host has the labels that its agent was started with (`--label zone=a`), and over them those that an
operator gave it. The name of a label has letters and digits, inside also `.`, `-`, `_` and `/`; a value is
compared as it is written.

```json
{
  \"image\": \"postgres:17\",
  \"scale\": 3,
  \"cpus\": 0.5,
  \"memory\": \"512m\",
  \"placement\": {\"constraints\": [\"disk==ssd\", \"zone!=c\"], \"max_per_host\": 1, \"spread\": \"zone\"}
}
```

";

const PAGE_HEAD: &str = "\
# The manifest

<!-- Generated from manifests/src/fields.rs: REWRITE=1 cargo test -p manifests -->

A manifest is one JSON object: strict JSON, in UTF-8, without comments. It lives under
`/apps/<app>/<container>/manifest`, where both names are DNS labels of at most 40 characters in lower
case, without `---`.

```json
{
  \"image\": \"nginx:1.27\",
  \"scale\": 2,
  \"services\": {\"web\": 80},
  \"links\": [\"db\", \"shop/cache:sessions\"],
  \"env\": {\"WORKERS\": 4},
  \"volumes\": [\"/srv/pages:/usr/share/nginx/html:ro\"]
}
```

A duration is a string such as `\"30s\"`, `\"1m30s\"` or `\"500ms\"` (units `d`, `h`, `m`, `s`, `ms`; at most 30 days).
A size is a string such as `\"512m\"`, `\"512Mi\"` or `\"10k\"` (units `b`, `k`, `m`, `g` in either case, also as `KB`
or `KiB`: all the same, each 1024 times the one before).

`dokkaa validate FILE` says what is wrong with a manifest, all at once, each with its line and column; the
API gives the same text and writes nothing. Unknown fields are errors there. A bad manifest that was
written straight into etcd stops nothing: the last good version goes on.

A change of `scale`, `placement`, `pull`, `start_timeout`, `stop_timeout` or a service's `ready` replaces no container;
a change of anything else does.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_found() {
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
    fn no_name_is_twice_in_a_table() {
        for table in [MANIFEST, SERVICE, VOLUME, HEALTHCHECK, LOG, PLACEMENT] {
            let mut names: Vec<&str> = table.iter().map(|field| field.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), table.len());
        }
    }
}
