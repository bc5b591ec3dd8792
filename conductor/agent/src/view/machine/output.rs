//! Updates for the reader of the view.

use model::rules::Rule;
use model::snapshot::{Change, Touched};

use super::View;
use super::state::Flags;
use crate::view::ViewUpdate;
use crate::view::saved::Raw;

impl View {
    pub(super) fn emit(&mut self, touched: Touched, resync: bool) {
        let flags = Flags {
            complete: self.connect.reached
                && (self.snapshot.revision >= self.floor || !self.rules.has(Rule::CatchUp)),
            // What differs from etcd is not acted on while it is made certain.
            stale: self.stale || self.connect.suspicion.is_some(),
            trust: self.trust.clone(),
        };
        // A revision that touched nothing of ours is said too: who wrote it waits for it.
        let moved = self.snapshot.revision != self.said_revision;
        if !moved && touched.is_empty() && !resync && flags == self.said {
            return;
        }
        self.said = flags.clone();
        self.said_revision = self.snapshot.revision;
        let update = ViewUpdate {
            snapshot: self.snapshot.clone(),
            touched,
            resync,
            complete: flags.complete,
            stale: flags.stale,
            trust: flags.trust,
            accepted: self.accepted.take(),
        };
        self.outbox = Some(match self.outbox.take() {
            Some(before) => update.after(before),
            None => update,
        });
    }
}

pub(super) fn put(key: &str, raw: &Raw) -> Change {
    Change::Put {
        key: key.to_owned(),
        value: raw.value.to_vec(),
        modified: raw.modified,
        created: raw.created,
    }
}
