//! `docs/manifest.md`, generated from the tables of fields.

use std::fmt::Write as _;

use manifests::fields::{
    BEFORE, HEALTHCHECK, IMAGE_POLICY, LOG, MANIFEST, PLACEMENT, SERVICE, ULIMIT, UPDATE, VOLUME,
};
use manifests::schema::Field;

use super::same_as_file;

#[test]
fn the_page_is_up_to_date() {
    same_as_file("../docs/manifest.md", &markdown());
}

fn kind(field: &Field) -> String {
    let required = if field.required { ", required" } else { "" };
    format!("{}{required}", field.kind)
}

fn markdown() -> String {
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
        ("A ulimit", ULIMIT_TEXT, ULIMIT),
        ("The healthcheck", "", HEALTHCHECK),
        ("The log", "", LOG),
        ("Placement", PLACEMENT_TEXT, PLACEMENT),
        ("The update", UPDATE_TEXT, UPDATE),
        ("Newer images", IMAGE_POLICY_TEXT, IMAGE_POLICY),
        ("Before", BEFORE_TEXT, BEFORE),
    ] {
        let _ = write!(page, "\n## {title}\n\n{text}");
        page.push_str("| field | takes | default | meaning |\n|---|---|---|---|\n");
        for field in table.iter().filter(|field| field.is_supported()) {
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} |",
                field.name,
                kind(field),
                field.default,
                field.meaning
            );
        }
        let later: Vec<String> = table
            .iter()
            .filter(|field| !field.is_supported())
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

const ULIMIT_TEXT: &str = "\
`\"nofile\": 65536` is short for `\"nofile\": {\"soft\": 65536, \"hard\": 65536}`. The names are Docker's: `core`, `cpu`,
`data`, `fsize`, `locks`, `memlock`, `msgqueue`, `nice`, `nofile`, `nproc`, `rss`, `rtprio`, `rttime`, `sigpending`,
`stack`. Without `nofile` it is 1048576 on every engine, or what the host can give if that is less. A limit of the
manifest that a host can't give (`nofile` above its `fs.nr_open`) is a failed start: the slot goes to another host, and
`dokkaa why` says so.

";

const IMAGE_POLICY_TEXT: &str = "\
The registry is asked with the credentials of the host that asks, one that runs an instance;
how such an update goes, and what follows when it fails: [newer-images.md](newer-images.md).

```json
{
  \"image\": \"registry.example.com/shop/web:1.27.0\",
  \"image_policy\": {\"check\": \"5m\", \"match\": \"1.27.*\"}
}
```

";

const UPDATE_TEXT: &str = "\
What replaces containers, and how an update goes: [updates.md](updates.md).

```json
{
  \"image\": \"shop/web:2\",
  \"scale\": 10,
  \"services\": {\"web\": 80},
  \"update\": {\"parallelism\": \"20%\", \"monitor\": \"10s\", \"on_failure\": \"rollback\"}
}
```

";

const BEFORE_TEXT: &str = "\
When it runs, and what follows when it fails: [migrations.md](migrations.md).

```json
{
  \"image\": \"shop/web:2\",
  \"links\": [\"db\"],
  \"before\": {\"command\": [\"./manage.py\", \"migrate\"], \"timeout\": \"5m\"}
}
```

";

const PLACEMENT_TEXT: &str = "\
A host has the labels of its agent's `--label` flags (`--label zone=a`), overridden by those that an operator
set. The name of a label has letters and digits, inside also `.`, `-`, `_` and `/`; values are compared exactly.

```json
{
  \"image\": \"postgres:17\",
  \"scale\": 3,
  \"cpus\": 0.5,
  \"memory\": \"512m\",
  \"placement\": {\"constraints\": [\"disk==ssd\", \"zone!=c\"], \"max_per_host\": 1, \"spread\": \"zone\"}
}
```

With `\"scale\": \"global\"` every host that satisfies the constraints has one instance, such as a proxy on a `host_port` or
what collects logs. A host that joins, or gets a label that is asked for, gets its own; one that no longer satisfies the
constraints, is drained, leaves or is forgotten (`dokkaa hosts rm`) loses it, and no other host takes it instead. A host that
is paused keeps its own; that of a host that is missing waits for it. Nothing of it is
moved: `max_per_host`, `spread` and `\"rebalance\": \"auto\"` are refused. From a number to `\"global\"` and back, hosts keep what they run as far as that goes: each
the one that it has had for longest, and of the numbers those below `scale`.

```json
{
  \"image\": \"traefik:3\",
  \"scale\": \"global\",
  \"services\": {\"http\": {\"port\": 80, \"host_port\": 80}},
  \"update\": {\"parallelism\": \"25%\"}
}
```

";

const PAGE_HEAD: &str = "\
# The manifest

<!-- Generated from manifests/src/fields.rs and tests/suite/docs.rs: REWRITE=1 cargo test -p manifests -->

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

`dokkaa validate FILE` lists the errors of a manifest, 20 at most, each with its line and column; the API refuses it with
the same text. Unknown fields are errors there. An invalid manifest that was written straight into etcd stops
nothing: the last valid version keeps running.

A change of `scale`, `stopped`, `placement`, `pull`, `update`, `image_policy`, `before`,
`rebalance`, `start_timeout`, `stop_timeout`, `drain_timeout` or a service's `ready` replaces no container; a change of anything else does.
";
