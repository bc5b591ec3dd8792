//! When the agent plans, and how much: at once when something may ask for it, together with what else comes when nothing
//! does, and after a plan that took long only after a rest.
//!
//! What the engine or an own write says asks for a plan of what is here. The whole is planned at once when others may
//! have to act on it too, and otherwise soon after.

use std::time::Duration;

use model::{Extent, Millis};

/// The whole is planned at least this often.
const PULSE: Duration = Duration::from_secs(5);
/// What asks for nothing, or only for a plan of what is here, waits so long for what else comes, and is planned with it in
/// a plan of the whole.
pub(crate) const GATHERING: Duration = Duration::from_millis(250);
/// A plan that took no longer than this is followed by no rest.
const QUICK: Duration = Duration::from_millis(5);
/// Longest rest between two plans.
const LONGEST_REST: Duration = Duration::from_millis(500);
/// Time that a write which etcd did not answer waits before it is planned again.
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// When to plan.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// Something has come that may ask for something to be done, and how much is to be planned for it.
    pressing: Option<Extent>,
    /// What has come, and asks for nothing, is planned by then.
    gathering: Option<Millis>,
    /// The last plan wants to be made again then.
    requeue: Option<Millis>,
    /// The last plan of the whole wants that to be made again then.
    requeue_whole: Option<Millis>,
    /// Something is to be planned again then, whatever the plan itself says.
    replan: Option<Millis>,
    /// Nothing is written before that: etcd did not answer a write.
    retry_writes: Option<Millis>,
    /// When the plan was begun whose effects are being carried out.
    begun: Option<Millis>,
    /// When the whole is planned, whatever happens.
    pulse: Millis,
    /// Nothing is planned before that.
    rest: Millis,
}

impl Schedule {
    pub(crate) fn new(now: Millis) -> Self {
        Self {
            pressing: None,
            gathering: None,
            requeue: None,
            requeue_whole: None,
            replan: None,
            retry_writes: None,
            begun: None,
            pulse: now + PULSE,
            rest: now,
        }
    }

    /// Something has come that may ask for something to be done, in a plan of this extent.
    pub(crate) fn press(&mut self, extent: Extent) {
        self.pressing = self.pressing.max(Some(extent));
    }

    /// Something has come that asks for nothing.
    pub(crate) fn gather(&mut self, now: Millis) {
        self.gathering.get_or_insert(now + GATHERING);
    }

    /// A plan is to be made after this time, whatever it says itself.
    pub(crate) fn replan(&mut self, at: Millis) {
        self.replan = Some(self.replan.map_or(at, |before| before.min(at)));
    }

    /// etcd did not answer a write.
    pub(crate) fn not_written(&mut self, now: Millis) {
        self.retry_writes = Some(now + WRITE_RETRY);
    }

    /// Nothing is written for now: etcd did not answer a write.
    pub(crate) fn withholds_writes(&self) -> bool {
        self.retry_writes.is_some()
    }

    /// All effects of the plan before have been carried out: a rest follows, in proportion to what it took.
    pub(crate) fn carried_out(&mut self, now: Millis) {
        let Some(begun) = self.begun.take() else {
            return;
        };
        let took = now - begun;
        if took > QUICK {
            self.rest = now + (took * 2).min(LONGEST_REST);
        }
    }

    /// When a plan is to be made, if nothing comes before.
    pub(crate) fn next(&self, now: Millis) -> Millis {
        let here = self.pressing.map(|_| now).into_iter().chain(self.requeue);
        here.fold(self.next_whole(now), Millis::min).max(self.rest)
    }

    /// When the whole is to be planned, if nothing comes before.
    fn next_whole(&self, now: Millis) -> Millis {
        let due = [
            self.pressing
                .filter(|extent| *extent == Extent::Whole)
                .map(|_| now),
            self.gathering,
            self.requeue_whole,
            self.replan,
            self.retry_writes,
        ];
        due.into_iter().flatten().fold(self.pulse, Millis::min)
    }

    /// How much is to be planned of what is due now.
    pub(crate) fn extent(&self, now: Millis) -> Extent {
        if self.next_whole(now) <= now {
            Extent::Whole
        } else {
            Extent::Here
        }
    }

    /// A plan of this extent is made now. One of what is here is followed by one of the whole.
    pub(crate) fn begin(&mut self, extent: Extent, now: Millis) {
        self.begun = Some(now);
        self.pressing = None;
        self.requeue = None;
        match extent {
            Extent::Here => self.gather(now),
            Extent::Whole => {
                self.gathering = None;
                self.requeue_whole = None;
                self.pulse = now + PULSE;
                self.replan = self.replan.filter(|at| *at > now);
                self.retry_writes = self.retry_writes.filter(|at| *at > now);
            }
        }
    }

    /// The plan that is made now wants to be made again then, and so does the whole, if it was that. What comes meanwhile
    /// comes first.
    pub(crate) fn planned(
        &mut self,
        requeue: Option<Millis>,
        requeue_whole: Option<Millis>,
        now: Millis,
    ) {
        let later = |at: Millis| at.max(now + Duration::from_millis(1));
        self.requeue = requeue.map(later);
        if requeue_whole.is_some() {
            self.requeue_whole = requeue_whole.map(later);
        }
    }
}
