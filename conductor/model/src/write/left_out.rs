//! What a write would be without a rule: for the simulation, which has to find that something breaks.

use manifests::keys::Key;

use super::{Guard, Over, Write, WriteKind, WriteOp};
use crate::rules::Rule;

impl Write {
    /// The write as an agent that lacks this rule would make it.
    #[must_use]
    pub fn without(mut self, rule: Rule) -> Self {
        use WriteKind::{
            Claim, DeleteUnwanted, JobStart, Promote, Retake, State, TakeBack, TakeOver,
        };
        let next = |key: &Key| matches!(key, Key::Next(_));
        match (rule, self.kind) {
            (Rule::VoidGuard, _) => {
                for guard in &mut self.guards {
                    if let Guard::VoidNext(slot, next) = guard {
                        *guard = Guard::Seen(Key::Next(slot.clone()), next.rev);
                    }
                }
            }
            (Rule::VoidDelete, Claim | TakeOver | TakeBack) => {
                self.ops.retain(|op| !op.deletes(next));
            }
            (Rule::GarbageGuard, DeleteUnwanted) => {
                self.guards
                    .retain(|guard| !matches!(guard, Guard::NoRecord(_)));
            }
            (Rule::StoppedGuard, Promote) => {
                if let Over::Stopped(_, holder) = &self.over {
                    for guard in &mut self.guards {
                        if guard.is_on(|key| matches!(key, Key::State(_))) {
                            *guard = Guard::NoRecord(holder.clone());
                        }
                    }
                }
            }
            (Rule::RetakeState, Retake) => {
                for op in &mut self.ops {
                    if let WriteOp::State(slot, _) = op {
                        *op = WriteOp::Delete(Key::State(slot.clone()));
                    }
                }
            }
            (Rule::RetakeNext, Retake) => {
                self.guards.retain(|guard| !guard.is_on(next));
                self.ops.retain(|op| !op.deletes(next));
            }
            (Rule::StateGuard, State | TakeBack) => {
                let owners = |key: &Key| matches!(key, Key::Claim(_) | Key::State(_));
                self.guards.retain(|guard| !guard.is_on(owners));
            }
            (Rule::JobOnce, JobStart) => {
                let is_job = |key: &Key| matches!(key, Key::Before(_));
                self.guards.retain(|guard| !guard.is_on(is_job));
            }
            _ => {}
        }
        self
    }
}

impl Guard {
    fn is_on(&self, key: impl Fn(&Key) -> bool) -> bool {
        matches!(self, Self::Seen(seen, _) if key(seen))
    }
}

impl WriteOp {
    fn deletes(&self, key: impl Fn(&Key) -> bool) -> bool {
        matches!(self, Self::Delete(deleted) if key(deleted))
    }
}
