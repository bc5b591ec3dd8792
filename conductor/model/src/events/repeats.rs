//! Takes together what happens again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Happened;
use crate::time::Millis;

/// So many of a kind are told one by one …
const SINGLY: u32 = 3;
/// … within this time; the rest of them are one event at its end.
const WINDOW: Duration = Duration::from_secs(60);

/// What happened of late. Of one thing at most three are told within a minute; the others are counted and told at its
/// end, or before anything else happens to the same slot.
#[derive(Debug, Default)]
pub struct Repeats(BTreeMap<Happened, Window>);

#[derive(Debug)]
struct Window {
    until: Millis,
    told: u32,
    /// How many were not told, and the last of them.
    counted: Option<(u32, Happened)>,
}

impl Repeats {
    /// What is told now that this has happened, and for how many each stands.
    pub fn take(&mut self, what: Happened, now: Millis) -> Vec<(Happened, u32)> {
        let mut telling = self.over(now);
        let key = Happened {
            instance: None,
            ..what.clone()
        };
        if let Some(window) = self.0.get_mut(&key) {
            if window.told < SINGLY {
                window.told += 1;
                telling.push((what, 1));
            } else {
                let counted = window.counted.as_ref().map_or(0, |(count, _)| *count);
                window.counted = Some((counted + 1, what));
            }
            return telling;
        }
        let of = |one: &Happened| (one.app.clone(), one.container.clone(), one.slot);
        let same = self.0.iter_mut().filter(|(other, _)| of(other) == of(&key));
        let counted = same.filter_map(|(_, window)| window.counted.take());
        telling.extend(counted.map(|(count, last)| (last, count)));
        let window = Window {
            until: now + WINDOW,
            told: 1,
            counted: None,
        };
        self.0.insert(key, window);
        telling.push((what, 1));
        telling
    }

    /// What is told since its time is over.
    pub fn over(&mut self, now: Millis) -> Vec<(Happened, u32)> {
        let mut telling = Vec::new();
        self.0.retain(|_, window| {
            if window.until > now {
                return true;
            }
            let counted = window.counted.take();
            telling.extend(counted.map(|(count, last)| (last, count)));
            false
        });
        telling
    }

    /// What is left to tell at the end.
    pub fn end(self) -> Vec<(Happened, u32)> {
        let windows = self.0.into_values();
        let counted = windows.filter_map(|window| window.counted);
        counted.map(|(count, last)| (last, count)).collect()
    }

    /// When something is to be told though nothing happens.
    pub fn next(&self) -> Option<Millis> {
        let counted = self.0.values().filter(|window| window.counted.is_some());
        counted.map(|window| window.until).min()
    }
}
