//! Values of arguments, from text to type.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use manifests::manifest::Scale;
use manifests::names::NameError;
use manifests::{AppName, ContainerId, SlotId, units};

/// An app or one container of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All of an app.
    App(AppName),
    /// One container.
    Container(ContainerId),
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(app) => app.fmt(f),
            Self::Container(id) => id.fmt(f),
        }
    }
}

/// Whose lines `dokkaa logs` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogsOf {
    /// Of all containers of an app.
    App(AppName),
    /// Of all slots of a container.
    Container(ContainerId),
    /// Of one slot.
    Slot(SlotId),
}

impl fmt::Display for LogsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(app) => app.fmt(f),
            Self::Container(id) => id.fmt(f),
            Self::Slot(slot) => slot.fmt(f),
        }
    }
}

/// `app/container`.
pub(super) fn container(text: &str) -> Result<ContainerId, String> {
    if !text.contains('/') {
        return Err("expected app/container, such as `shop/web`".to_owned());
    }
    text.parse().map_err(|e: NameError| e.to_string())
}

/// `app` or `app/container`.
pub(super) fn selection(text: &str) -> Result<Selection, String> {
    if text.contains('/') {
        return container(text).map(Selection::Container);
    }
    text.parse()
        .map(Selection::App)
        .map_err(|e: NameError| e.to_string())
}

/// `app/container` or `app/container/slot`.
pub(super) fn container_or_slot(text: &str) -> Result<(ContainerId, Option<u32>), String> {
    match text.splitn(3, '/').collect::<Vec<_>>().as_slice() {
        [app, name, slot] => {
            let slot = slot
                .parse()
                .map_err(|_| format!("`{slot}` is not a slot; expected a number from 0"))?;
            Ok((container(&format!("{app}/{name}"))?, Some(slot)))
        }
        _ => Ok((container(text)?, None)),
    }
}

/// A name in DNS; `*` and `_` are legal in it.
pub(super) fn domain_name(text: &str) -> Result<String, String> {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "-_.*".contains(c);
    if text.is_empty() || !text.chars().all(is_legal) {
        return Err(format!(
            "`{text}` is not a domain name; expected one such as `web.shop.skydns.local`"
        ));
    }
    Ok(text.to_owned())
}

/// `app`, `app/container` or `app/container/slot`.
pub(super) fn logs_of(text: &str) -> Result<LogsOf, String> {
    if let Ok(Selection::App(app)) = selection(text) {
        return Ok(LogsOf::App(app));
    }
    Ok(match container_or_slot(text)? {
        (id, None) => LogsOf::Container(id),
        (id, Some(number)) => LogsOf::Slot(id.slot(number)),
    })
}

/// `app/container/slot`.
pub(super) fn slot(text: &str) -> Result<SlotId, String> {
    match container_or_slot(text)? {
        (id, Some(number)) => Ok(id.slot(number)),
        (_, None) => Err("expected app/container/slot, such as `shop/db/0`".to_owned()),
    }
}

/// `name=value`, or `name-` with no value.
pub(super) fn label_change(text: &str) -> Result<(String, Option<String>), String> {
    let (name, value) = match (text.split_once('='), text.strip_suffix('-')) {
        (Some((name, value)), _) => (name, Some(value.to_owned())),
        (None, Some(name)) => (name, None),
        (None, None) => ("", None),
    };
    if name.is_empty() {
        return Err("expected name=value, or name- to remove it".to_owned());
    }
    Ok((name.to_owned(), value))
}

/// `app/container=N`, and `app/container=global`.
pub(super) fn scale(text: &str) -> Result<(ContainerId, Scale), String> {
    let (id, number) = text
        .split_once('=')
        .ok_or("expected app/container=N, such as `shop/web=3`")?;
    let scale = match number.parse() {
        Ok(number) => Scale::Count(number),
        Err(_) if number == Scale::GLOBAL => Scale::Global,
        Err(_) => {
            return Err(format!(
                "`{number}` is not a number of slots; expected 0 to 1000, or global: one on each host"
            ));
        }
    };
    Ok((container(id)?, scale))
}

/// A duration in the grammar of manifests: `500ms`, `1m30s`, `2d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text.trim()).map_err(|why| {
        format!("`{text}` {why}; expected a duration, such as 500ms, 30s, 1m30s or 2d")
    })
}

/// A duration; a bare number is in seconds.
pub(crate) fn duration_or_seconds(text: &str) -> Result<Duration, String> {
    text.trim()
        .parse()
        .map(Duration::from_secs)
        .or_else(|_| duration(text))
}

/// A time, or how long ago. Agents read it, by their clock.
pub(super) fn since(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.parse::<Timestamp>().is_err() && duration(text).is_err() {
        return Err(format!(
            "`{text}` is not a time; expected 2026-01-31T12:00:00Z, or how long ago, such as 10m, 1h30m or 2d"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn labels_and_slots_of_volumes() {
        let set = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
        assert_eq!(label_change("disk=ssd").unwrap(), set("disk", "ssd"));
        assert_eq!(label_change("a=b-").unwrap(), set("a", "b-"));
        assert_eq!(label_change("a=").unwrap(), set("a", ""));
        assert_eq!(label_change("disk-").unwrap(), ("disk".to_owned(), None));
        for wrong in ["disk", "=x", "-"] {
            assert!(label_change(wrong).is_err(), "{wrong}");
        }
        assert_eq!(slot("shop/db/3").unwrap().to_string(), "shop/db/3");
        assert!(slot("shop/db").is_err() && slot("shop/db/x").is_err());
    }

    #[test]
    fn names() {
        assert_eq!(container_or_slot("shop/web/2").unwrap().1, Some(2));
        assert_eq!(container_or_slot("shop/web").unwrap().1, None);
        assert!(container_or_slot("shop/web/x").is_err() && container_or_slot("shop").is_err());
        assert_eq!(scale("shop/web=3").unwrap().1, Scale::Count(3));
        assert_eq!(scale("shop/web=global").unwrap().1, Scale::Global);
        assert!(scale("shop/web").is_err() && scale("shop=3").is_err());
        assert!(matches!(selection("shop").unwrap(), Selection::App(_)));
        assert!(matches!(
            selection("shop/web").unwrap(),
            Selection::Container(_)
        ));
        assert!(selection("Shop").is_err());
    }

    #[test]
    fn times() {
        for (text, millis) in [("500ms", 500), ("2m", 120_000), ("1m30s", 90_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        for wrong in ["", "s", "1", "-1s", "1.5s", "99999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(duration_or_seconds("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration_or_seconds("1m30s"), Ok(Duration::from_secs(90)));
        assert!(duration_or_seconds("-1").is_err());
        for text in ["10m", "1h30m", "2d", "2026-01-31T12:00:00Z"] {
            assert_eq!(since(text), Ok(text.to_owned()));
        }
        for wrong in ["", "yesterday", "10", "1w"] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }
}
