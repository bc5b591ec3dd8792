//! Events as they are written, and repeats of them.

use manifests::{ContainerId, SlotId};

use super::*;
use crate::Millis;

fn slot() -> SlotId {
    "shop/web".parse::<ContainerId>().expect("an id").slot(2)
}

#[test]
fn an_event_is_read_back_as_it_was_written_and_one_of_a_newer_agent_too() {
    let event = Event {
        id: 5,
        at: 4,
        times: 1,
        what: Happened::of_slot(&slot(), Kind::EngineBack, "m"),
    };
    let text = serde_json::to_string(&event).expect("JSON");
    assert_eq!(
        text,
        r#"{"id":5,"at":4,"app":"shop","container":"web","slot":2,"kind":"engine-back","message":"m"}"#
    );
    assert_eq!(
        serde_json::from_str::<Event>(&text).expect("an event"),
        event
    );
    let newer = text
        .replace("engine-back", "beamed")
        .replace('}', r#","x":1}"#);
    let newer: Event = serde_json::from_str(&newer).expect("an event");
    assert_eq!(newer.what.kind.as_str(), "beamed");
    for (kind, word) in KINDS {
        assert_eq!(Kind::from(word.to_owned()), kind);
    }
}

#[test]
fn a_wish_takes_what_it_names() {
    let event = |what| Event {
        id: 5,
        at: 5,
        times: 1,
        what,
    };
    let of_slot = event(Happened::of_slot(&slot(), Kind::Ready, ""));
    let of_host = event(Happened::here(Kind::HostUp, ""));
    let all = Wanted::default();
    assert!(all.takes(&of_slot) && all.takes(&of_host));
    let shop = Wanted {
        app: Some("shop".parse().expect("a name")),
        ..Wanted::default()
    };
    assert!(shop.takes(&of_slot) && !shop.takes(&of_host));
    let other = Wanted {
        container: Some("db".parse().expect("a name")),
        ..shop
    };
    assert!(!other.takes(&of_slot));
    let after = |id| Wanted {
        after: Some(id),
        ..Wanted::default()
    };
    assert!(after(4).takes(&of_slot) && !after(5).takes(&of_slot));
}

#[test]
fn repeats_are_one_event_at_the_end_of_a_minute() {
    let mut repeats = Repeats::default();
    let exit = || Happened::of_slot(&slot(), Kind::Exited, "exit code 1");
    for second in 0..3 {
        let told = repeats.take(exit(), Millis(second * 1_000));
        assert_eq!(told, [(exit(), 1)], "the first ones at once");
    }
    assert_eq!(repeats.next(), None);
    for second in 3..10 {
        assert_eq!(repeats.take(exit(), Millis(second * 1_000)), []);
    }
    assert_eq!(repeats.next(), Some(Millis(60_000)));
    assert_eq!(repeats.over(Millis(59_999)), []);
    assert_eq!(repeats.over(Millis(60_000)), [(exit(), 7)]);
    assert_eq!(repeats.next(), None);
    assert_eq!(repeats.take(exit(), Millis(61_000)), [(exit(), 1)]);
}

#[test]
fn what_was_counted_is_told_before_something_else_happens_to_the_slot() {
    let mut repeats = Repeats::default();
    let exit = || Happened::of_slot(&slot(), Kind::Exited, "exit code 1");
    let gone = || Happened::of_slot(&slot(), Kind::Removed, "");
    for _ in 0..5 {
        repeats.take(exit(), Millis(0));
    }
    let told = repeats.take(gone(), Millis(1));
    assert_eq!(told, [(exit(), 2), (gone(), 1)]);
    // Another slot is another matter, and so is another message.
    let mut other = exit();
    other.slot = Some(9);
    assert_eq!(repeats.take(other.clone(), Millis(2)), [(other, 1)]);
    repeats.take(exit(), Millis(3));
    assert_eq!(repeats.end(), [(exit(), 1)]);
}
