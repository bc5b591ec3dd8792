//! What happened, for people: written only when somebody reads it.

use std::fmt::Write as _;

use model::{Action, Prepare};

/// The story of one seed.
#[derive(Debug, Default)]
pub struct Trace {
    on: bool,
    text: String,
}

impl Trace {
    /// An empty story; nothing is kept unless `on`.
    pub fn new(on: bool) -> Self {
        Self {
            on,
            text: String::new(),
        }
    }

    /// Somebody reads it.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// One line: when, who, what.
    pub fn say(&mut self, now: u64, who: &str, what: impl FnOnce() -> String) {
        if self.on {
            let (seconds, ms) = (now / 1_000, now % 1_000);
            let _ = writeln!(self.text, "{seconds:>5}.{ms:03} {who:<6} {}", what());
        }
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// A step in one line.
pub fn step_text(step: &Action) -> String {
    let what = match step {
        Action::Resolve { container, rev, .. } => format!("{container} at {rev}"),
        Action::Prepare(Prepare { slot, instance, .. })
        | Action::Start { slot, instance, .. }
        | Action::Stop { slot, instance, .. }
        | Action::Remove { slot, instance, .. }
        | Action::Rename { slot, instance, .. } => format!("{slot} {instance}"),
    };
    format!("{} {what}", step.kind())
}
