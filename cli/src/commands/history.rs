//! `history` and `rollback`: the versions of a container, and the way back.

use gateway::v1::types::{FoundRow, History, VersionRow, WantedImage};
use hyper::Method;
use manifests::changes::{self, FieldChange};
use manifests::{Manifest, canonical, parse};
use serde_json::Value;

use super::apply::{put, wait_for, warn_of};
use super::client::{Client, Refusal};
use super::error::CommandError;
use super::files::{self, Source};
use super::output;
use super::stage::halted;
use super::table::{Column, Shown, table};
use super::wait::seen;
use crate::args::{Format, GlobalArgs, HistoryArgs, RollbackArgs, Selection};

const HISTORY: &[Column] = &[
    Column("", Shown::Always),
    Column("VERSION", Shown::Always),
    Column("IMAGE", Shown::IfFits(2)),
    Column("DIGEST", Shown::IfFits(1)),
    Column("GOOD", Shown::Always),
    Column("SLOTS", Shown::Always),
    Column("CHANGED", Shown::Text),
];

pub(super) async fn history(args: &HistoryArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let history: History = client.get(&format!("versions/{}", args.container)).await?;
    if let Some(versions) = &args.diff {
        let differences = between(&history, versions).map_err(CommandError::Failed)?;
        if global.output == Format::Json {
            return output::json(&differences);
        }
        if differences.is_empty() {
            output::note("nothing differs");
        }
        return output::print(&lines(&differences, ""));
    }
    if global.output == Format::Json {
        return output::json(&history);
    }
    let older = history.versions.iter().skip(1).map(Some).chain([None]);
    let rows = history.versions.iter().zip(older);
    let rows = rows.map(|(row, older)| cells(&history, row, older, global.output));
    output::print(&table(HISTORY, global.output, rows))?;
    if let Some(update) = history.update.as_ref().filter(|update| update.halted) {
        output::note(&format!(
            "{}: the update to version {} is {}",
            history.id(),
            update.version,
            halted(update)
        ));
    }
    Ok(())
}

fn cells(
    history: &History,
    row: &VersionRow,
    older: Option<&VersionRow>,
    format: Format,
) -> Vec<String> {
    let mark = if history.wanted == Some(row.version) {
        "*"
    } else {
        ""
    };
    let digest = match (&row.digest, format) {
        (None, _) => "not decided yet".to_owned(),
        (Some(digest), Format::Wide) => digest.clone(),
        (Some(digest), _) => output::short_digests(digest),
    };
    let slots: Vec<String> = row.slots.iter().map(ToString::to_string).collect();
    let changed = older.map(|older| {
        let mut names: Vec<String> = Vec::new();
        for difference in differ(older, row) {
            let name = difference.field.split('.').next().unwrap_or_default();
            if names.last().is_none_or(|last| last != name) {
                names.push(name.to_owned());
            }
        }
        names.join(", ")
    });
    vec![
        mark.to_owned(),
        row.version.to_string(),
        output::short_digests(&row.image),
        digest,
        if row.good { "yes" } else { "-" }.to_owned(),
        if slots.is_empty() {
            "-".to_owned()
        } else {
            slots.join(",")
        },
        changed.unwrap_or_default(),
    ]
}

pub(super) async fn rollback(args: &RollbackArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let id = &args.container;
    let client = Client::new(global)?;
    let history: History = client.get(&format!("versions/{id}")).await?;
    let to = choose(&history, args.to).map_err(CommandError::Failed)?;
    let before = history.manifest.as_ref().unwrap_or(&Value::Null);
    if follows(&history) && is_restart(history.manifest.as_ref(), &to.manifest) {
        return image_back(&client, &history, to, args.wait, global).await;
    }
    let manifest = at_present_scale(to.manifest.clone(), before);
    let text = format!("{manifest:#}\n").into_bytes();
    files::check(&Source {
        name: format!("{id} version {}", to.version),
        text: text.clone(),
    })?;
    // Not tried again: what is before the wanted version is another one after somebody else's change.
    let written = match put(&client, id, Some(history.revision), text).await {
        Ok(written) => written,
        Err(Refusal::Conflict) => {
            return Err(CommandError::Failed(format!(
                "{id} was changed by somebody else at the same time, so nothing was written; look at `dokkaa history {id}`, \
                 then try again"
            )));
        }
        Err(refusal) => return Err(refusal.into()),
    };
    let changes = differences(before, &manifest);
    output::print(&format!(
        "{id} goes back to version {} (revision {})\n{}",
        to.version,
        written.revision,
        lines(&changes, "  ")
    ))?;
    warn_of(id, &written.warnings);
    if !to.good {
        output::note(&format!(
            "{id}: version {} has never stayed ready",
            to.version
        ));
    }
    let written = [(id.clone(), written.revision)];
    wait_for(args.wait, &client, global, &written).await
}

/// The manifest stays as it is, and the image that it meant in an earlier version is run again.
async fn image_back(
    client: &Client,
    history: &History,
    to: &VersionRow,
    wait: bool,
    global: &GlobalArgs,
) -> Result<(), CommandError> {
    let id = history.id();
    let wanted = WantedImage {
        version: to.version,
        revision: history.revision,
    };
    let path = format!("image/{id}");
    let back: FoundRow = client.send_json(Method::PUT, &path, &wanted).await?;
    let from = back.back_from.as_deref().unwrap_or("none");
    output::print(&format!(
        "{id} goes back to the image of version {}, until the registry has another one\n  digest: {from} -> {}\n",
        to.version, back.digest
    ))?;
    if wait {
        let of = Selection::Container(id.clone());
        seen(client, &of, global, |slots| {
            let mut found = slots.containers.iter().filter_map(|row| row.found.as_ref());
            found.any(|found| found.digest == back.digest)
        })
        .await?;
    }
    wait_for(wait, client, global, &[(id, history.revision)]).await
}

/// The manifest has its image followed.
fn follows(history: &History) -> bool {
    let now = history.manifest.as_ref().and_then(manifest);
    now.is_some_and(|now| now.image_policy.is_some())
}

/// What an image that is followed was: the same manifest, and another digest.
fn is_other_image(history: &History, row: &VersionRow) -> bool {
    let mut all = history.versions.iter();
    let now = all.find(|one| history.wanted == Some(one.version));
    let is_known = |row: &VersionRow| {
        row.digest
            .as_ref()
            .is_some_and(|d| !d.starts_with("local:"))
    };
    follows(history) && is_known(row) && now.is_some_and(|now| now.digest != row.digest)
}

/// An earlier manifest with as many slots as there are now: how many it had says nothing of what went wrong since.
fn at_present_scale(mut earlier: Value, now: &Value) -> Value {
    if let (Some(earlier), Some(now)) = (earlier.as_object_mut(), now.as_object()) {
        for field in ["scale", "stopped"] {
            match now.get(field) {
                Some(value) => earlier.insert(field.to_owned(), value.clone()),
                None => earlier.remove(field),
            };
        }
    }
    earlier
}

/// The version to go back to; or why there is none, with those that there are.
fn choose(history: &History, to: Option<i64>) -> Result<&VersionRow, String> {
    let id = history.id();
    let is_earlier = |row: &&VersionRow| history.wanted.is_none_or(|now| row.version < now);
    if let Some(to) = to {
        let row = history.versions.iter().find(|row| row.version == to);
        let row = row.ok_or_else(|| format!("{id} has no version {to}; {}", there_are(history)))?;
        let is_same = history.manifest.as_ref() == Some(&row.manifest);
        if history.wanted == Some(to) || is_same && !is_other_image(history, row) {
            return Err(format!(
                "version {to} is what {id} is to run already; {}",
                there_are(history)
            ));
        }
        return Ok(row);
    }
    let earlier = || {
        let earlier = history.versions.iter().filter(is_earlier);
        earlier.filter(|row| {
            !is_restart(history.manifest.as_ref(), &row.manifest) || is_other_image(history, row)
        })
    };
    let found = earlier().find(|row| row.good).or_else(|| earlier().next());
    found.ok_or_else(|| {
        let now = history.versions.iter().find(|row| !is_earlier(row));
        let mut others = history.versions.iter().filter(is_earlier);
        let other = others.find(|row| now.is_some_and(|now| now.digest != row.digest));
        let pin = other.and_then(|row| Some((row, row.digest.as_ref()?)));
        let pin = pin.map_or_else(String::new, |(row, digest)| {
            format!(
                "; the image of version {} was {digest}: `dokkaa set {id} image=NAME@DIGEST` runs it",
                row.version
            )
        });
        format!(
            "{id} has no earlier version of another manifest; {}{pin}",
            there_are(history)
        )
    })
}

/// The two mean the same container, but for a restart.
fn is_restart(now: Option<&Value>, then: &Value) -> bool {
    let (Some(now), Some(then)) = (now.and_then(manifest), manifest(then)) else {
        return now == Some(then);
    };
    let then = Manifest {
        restarted_at: now.restarted_at.clone(),
        ..then
    };
    canonical::same_container(&now, &then)
}

/// The versions that can be named, for an error.
fn there_are(history: &History) -> String {
    let named: Vec<String> = history
        .versions
        .iter()
        .map(
            |row| match (history.wanted == Some(row.version), row.good) {
                (true, _) => format!("{} (wanted)", row.version),
                (false, true) => format!("{} (good)", row.version),
                (false, false) => row.version.to_string(),
            },
        )
        .collect();
    match named.as_slice() {
        [] => "it has none yet".to_owned(),
        [only] => format!("there is only {only}"),
        _ => format!("there are {}", named.join(", ")),
    }
}

/// What differs between one version and another, or the manifest as it is now.
fn between(history: &History, versions: &[i64]) -> Result<Vec<FieldChange>, String> {
    let find = |version: &i64| {
        let row = history.versions.iter().find(|row| row.version == *version);
        row.ok_or_else(|| {
            format!(
                "{} has no version {version}; {}",
                history.id(),
                there_are(history)
            )
        })
    };
    match versions {
        [from, to] => Ok(differ(find(from)?, find(to)?)),
        [from] => {
            let from = find(from)?;
            let now = history.versions.iter();
            let now = now.clone().find(|row| history.wanted == Some(row.version));
            // Of fields that make no version the newest value counts.
            let now = now.zip(history.manifest.clone());
            let (now, manifest) = now.ok_or_else(|| {
                format!(
                    "the manifest of {} can't be read; name two versions",
                    history.id()
                )
            })?;
            let now = VersionRow {
                manifest,
                ..now.clone()
            };
            Ok(differ(from, &now))
        }
        _ => Err("expected one or two versions".to_owned()),
    }
}

fn differ(from: &VersionRow, to: &VersionRow) -> Vec<FieldChange> {
    let mut found = differences(&from.manifest, &to.manifest);
    let is_named = found.iter().any(|difference| difference.field == "image");
    if from.image != to.image && !is_named {
        found.push(FieldChange {
            field: "image".to_owned(),
            from: Some(from.image.clone().into()),
            to: Some(to.image.clone().into()),
            replaces: true,
        });
    }
    if from.image == to.image && from.digest != to.digest && to.digest.is_some() {
        let digest = |row: &VersionRow| row.digest.clone().map(Value::from);
        found.push(FieldChange {
            field: "digest".to_owned(),
            from: digest(from),
            to: digest(to),
            replaces: true,
        });
    }
    found
}

fn manifest(json: &Value) -> Option<Manifest> {
    parse::from_json(json).ok().map(|parsed| parsed.manifest)
}

/// Fields that differ, by name; of what can't be read, all of the other.
fn differences(from: &Value, to: &Value) -> Vec<FieldChange> {
    match (manifest(from), manifest(to)) {
        (Some(from), Some(to)) => changes::changes(&from, &to),
        (None, Some(to)) => changes::written(&to),
        (_, None) => Vec::new(),
    }
}

/// A field a line.
fn lines(differences: &[FieldChange], indent: &str) -> String {
    let text = |value: &Option<Value>| {
        let text = value.as_ref().map(ToString::to_string);
        text.unwrap_or_else(|| "none".to_owned())
    };
    let lines = differences.iter().map(|difference| {
        let (from, to) = (text(&difference.from), text(&difference.to));
        format!("{indent}{}: {from} -> {to}\n", difference.field)
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use serde_json::json;

    fn version(version: i64, good: bool, manifest: Value) -> VersionRow {
        VersionRow {
            version,
            image: manifest["image"].as_str().unwrap().to_owned(),
            digest: Some(format!("sha256:{version}")),
            good,
            slots: Vec::new(),
            manifest,
        }
    }

    /// Versions, oldest first; the last is wanted, with this manifest.
    fn history(now: Value, mut versions: Vec<VersionRow>) -> History {
        versions.reverse();
        History {
            app: "shop".parse().unwrap(),
            container: "web".parse().unwrap(),
            revision: 99,
            wanted: Some(versions[0].version),
            update: None,
            manifest: Some(now),
            versions,
        }
    }

    fn chosen(history: &History, to: Option<i64>) -> Result<i64, String> {
        choose(history, to).map(|row| row.version)
    }

    #[test]
    fn the_way_back_is_to_what_was_good() {
        let (a, b, c) = (
            json!({"image": "a"}),
            json!({"image": "b"}),
            json!({"image": "c"}),
        );
        let all = |good: [bool; 2]| {
            let versions = vec![
                version(3, good[0], a.clone()),
                version(5, good[1], b.clone()),
                version(7, false, c.clone()),
            ];
            history(c.clone(), versions)
        };
        assert_eq!(chosen(&all([true, false]), None), Ok(3));
        assert_eq!(chosen(&all([true, true]), None), Ok(5));
        assert_eq!(chosen(&all([false, false]), None), Ok(5));
        assert_eq!(chosen(&all([true, true]), Some(3)), Ok(3));
        let gone = chosen(&all([true, false]), Some(4)).unwrap_err();
        assert_eq!(
            gone,
            "shop/web has no version 4; there are 7 (wanted), 5, 3 (good)"
        );
        let same = chosen(&all([true, false]), Some(7)).unwrap_err();
        assert!(same.contains("is to run already"), "{same}");
        // What can't be read is left for the newest.
        let broken = History {
            wanted: None,
            manifest: None,
            ..all([false, true])
        };
        assert_eq!(chosen(&broken, None), Ok(5));
        assert_eq!(chosen(&broken, Some(7)), Ok(7));
    }

    #[test]
    fn a_restart_and_a_redeploy_are_nothing_to_go_back_to() {
        let a = json!({"image": "a"});
        let b = json!({"image": "b", "pull": "always"});
        let again = json!({"image": "b", "pull": "always", "restarted_at": "2026-01-01T00:00:00Z"});
        let versions = vec![
            version(3, true, a.clone()),
            version(5, true, b),
            version(7, true, again.clone()),
        ];
        let all = history(again, versions);
        assert_eq!(chosen(&all, None), Ok(3));
        let one = history(a.clone(), vec![version(3, true, a.clone())]);
        assert_eq!(
            chosen(&one, None).unwrap_err(),
            "shop/web has no earlier version of another manifest; there is only 3 (wanted)"
        );
        let redeployed = vec![version(3, true, a.clone()), version(5, true, a.clone())];
        let why = chosen(&history(a, redeployed), None).unwrap_err();
        assert!(why.contains("version 3 was sha256:3: `dokkaa set"), "{why}");
    }

    #[test]
    fn an_image_that_was_found_is_left_for_the_one_before() {
        let a = json!({"image": "a", "scale": 2, "image_policy": {}});
        let versions = || vec![version(3, true, a.clone()), version(5, true, a.clone())];
        let all = history(a.clone(), versions());
        assert_eq!(chosen(&all, None), Ok(3));
        assert_eq!(chosen(&all, Some(3)), Ok(3));
        assert!(is_restart(Some(&a), &all.versions[1].manifest));
        // One that this host alone has can't be asked for.
        let mut local = history(a.clone(), versions());
        local.versions[1].digest = Some("local:sha256:1".to_owned());
        assert!(chosen(&local, None).is_err());
        let mut tags = versions();
        tags[1].image = "a:2".to_owned();
        let said = lines(&differ(&tags[0], &tags[1]), "");
        assert_eq!(said, "image: \"a\" -> \"a:2\"\n");
    }

    #[test]
    fn fields_that_differ_are_named_whatever_their_form() {
        let from = json!({
            "image": "a", "env": ["A=1", "B=2"], "services": {"web": 80}, "scale": 1, "links": ["db"],
        });
        let to = json!({
            "image": "b", "env": {"A": "1", "C": "3"}, "services": {"web": {"port": 80}},
        });
        assert_eq!(
            lines(&differences(&from, &to), "  "),
            "  env.B: \"2\" -> none\n  env.C: none -> \"3\"\n  image: \"a\" -> \"b\"\n  links: [\"db\"] -> []\n"
        );
        let (one, other) = (
            version(3, true, from.clone()),
            version(5, true, from.clone()),
        );
        assert_eq!(
            lines(&differ(&one, &other), ""),
            "digest: \"sha256:3\" -> \"sha256:5\"\n"
        );
        let all = history(json!({"image": "a", "scale": 4}), vec![one, other]);
        let now = lines(&between(&all, &[3]).unwrap(), "");
        assert!(now.contains("scale: 1 -> 4\n"), "{now}");
        assert!(between(&all, &[3, 4]).unwrap_err().contains("no version 4"));
    }
}
