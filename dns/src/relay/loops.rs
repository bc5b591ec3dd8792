//! Loops through forwarders that change the case of letters.
//!
//! A query that comes back so looks like another client's, and joins the exchange under way. So where an exchange was joined
//! and lasts, its resolvers are asked for a name below its own that nobody else knows. If that is asked for here, they
//! forward to this server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::wire::Question;

/// Octets of the first label of such a name: digits of a number.
const LABEL: usize = 16;

/// Names that may come back.
#[derive(Debug, Default, Clone)]
pub(super) struct Loops(Arc<Mutex<HashMap<Label, oneshot::Sender<()>>>>);

type Label = [u8; LABEL];

/// A name that may come back, until it is dropped.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) question: Question,
    loops: Loops,
    label: Label,
    is_back: oneshot::Receiver<()>,
}

impl Loops {
    /// A name below that of a question, with a number that nobody can guess; none if there is no room for it.
    pub(super) fn probe(&self, below: &Question, number: u64) -> Option<Probe> {
        let mut label = [0; LABEL];
        label.copy_from_slice(format!("{number:016x}").as_bytes());
        let question = below.below(&label)?;
        let (back, is_back) = oneshot::channel();
        self.lock().insert(label, back);
        Some(Probe {
            question,
            loops: self.clone(),
            label,
            is_back,
        })
    }

    /// The question is for such a name.
    pub(super) fn is_back(&self, question: &Question) -> bool {
        let Some(mut label) = question
            .first_label()
            .and_then(<[u8]>::first_chunk::<LABEL>)
            .copied()
        else {
            return false;
        };
        label.make_ascii_lowercase();
        let back = self.lock().remove(&label);
        back.is_some_and(|back| back.send(()).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Label, oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probe {
    /// Until it is back.
    pub(super) async fn is_back(&mut self) {
        // Its sender is there as long as this is.
        let _ = (&mut self.is_back).await;
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.loops.lock().remove(&self.label);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn question(octets: &[u8]) -> Question {
        Question::read(octets).expect("a question")
    }

    #[test]
    fn a_name_is_back_in_any_case_and_once() {
        let loops = Loops::default();
        let www = question(b"\x03www\x02ex\x00\x00\x01\x00\x01");
        let mut probe = loops.probe(&www, 0xab).expect("room");
        let asked = b"\x1000000000000000ab\x03www\x02ex\x00\x00\x01\x00\x01";
        assert_eq!(probe.question.octets(), asked);
        assert!(!loops.is_back(&www));
        assert!(!loops.is_back(&question(b"\x1000000000000000ac\x00\x00\x01\x00\x01")));
        assert_eq!(probe.is_back().now_or_never(), None);
        let changed = question(&asked.to_ascii_uppercase());
        assert!(loops.is_back(&changed) && !loops.is_back(&changed));
        assert_eq!(probe.is_back().now_or_never(), Some(()));
        let gone = loops.probe(&www, 0xac).expect("room").question.clone();
        assert!(!loops.is_back(&gone));
        assert!(loops.lock().is_empty());
    }

    #[test]
    fn a_name_that_is_long_has_no_room() {
        let mut long = b"\x3f".to_vec();
        long.extend([b'x'; 63]);
        let mut long = long.repeat(3);
        long.extend(b"\x31");
        long.extend([b'x'; 49]);
        long.extend([0, 0, 1, 0, 1]);
        assert!(Loops::default().probe(&question(&long), 1).is_none());
        assert!(
            Loops::default()
                .probe(&question(b"\0\0\x02\0\x01"), 1)
                .is_some()
        );
    }
}
