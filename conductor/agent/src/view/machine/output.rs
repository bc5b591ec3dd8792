//! Updates for the reader of the view.

use std::sync::Arc;

use manifests::keys::Key;
use model::records::Cluster;
use model::rules::Rule;
use model::snapshot::{KeyChange, Touched};

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
        self.said = flags;
        self.said_revision = self.snapshot.revision;
        let unsaid = self.outbox.get_or_insert_default();
        unsaid.touched.extend(touched);
        unsaid.resync |= resync;
        unsaid.accepted = self.accepted.take().or(unsaid.accepted.take());
    }

    /// What there is to publish. The snapshot is shared only from here on: what is applied between two updates copies no
    /// part of it twice.
    pub fn take_update(&mut self) -> Option<ViewUpdate> {
        let Unsaid {
            touched,
            resync,
            accepted,
        } = self.outbox.take()?;
        let Flags {
            complete,
            stale,
            trust,
        } = self.said.clone();
        Some(ViewUpdate {
            snapshot: self.snapshot.clone(),
            touched,
            resync,
            complete,
            stale,
            trust,
            accepted,
        })
    }
}

/// What is to be said with the next update.
#[derive(Debug, Default)]
pub(super) struct Unsaid {
    touched: Touched,
    resync: bool,
    accepted: Option<Cluster>,
}

/// A value for the snapshot; none if the key is not ours.
pub(super) fn put(key: &str, raw: &Raw) -> Option<KeyChange<Arc<[u8]>>> {
    Some((Key::parse(key)?, Some(raw.rev())))
}
