//! Load balancing: least connections, round-robin among equals.
//!
//! Only the connections of this host's callers are counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::directory::ServiceId;

/// Time for which an endpoint is tried last after a failed connect; a lost host leaves the directory meanwhile.
const BACK_OFF: Duration = Duration::from_secs(5);

/// Open connections by endpoint.
#[derive(Debug, Default)]
pub struct Loads {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    endpoints: BTreeMap<SocketAddr, Load>,
    turns: BTreeMap<ServiceId, usize>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Load {
    open: usize,
    failed_at: Option<Instant>,
}

impl Load {
    fn is_backing_off(&self, now: Instant) -> bool {
        self.failed_at
            .is_some_and(|at| now.saturating_duration_since(at) < BACK_OFF)
    }
}

/// A connection, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    loads: Arc<Loads>,
    target: SocketAddr,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.loads.lock();
        if let Some(load) = state.endpoints.get_mut(&self.target) {
            load.open -= 1;
            if load.open == 0 && load.failed_at.is_none() {
                state.endpoints.remove(&self.target);
            }
        }
    }
}

impl Loads {
    /// Number of connections to the endpoint, those being made included.
    pub fn open(&self, target: SocketAddr) -> usize {
        self.lock()
            .endpoints
            .get(&target)
            .map_or(0, |load| load.open)
    }

    /// The targets in the order to try them; advances the service's round-robin.
    pub(crate) fn order(
        &self,
        service: &ServiceId,
        targets: &[SocketAddr],
        now: Instant,
    ) -> Vec<SocketAddr> {
        let mut state = self.lock();
        let turn = state.turns.entry(service.clone()).or_default();
        let this = *turn;
        *turn = this.wrapping_add(1);
        order(targets, this, |target| {
            state
                .endpoints
                .get(&target)
                .map_or((false, 0), |load| (load.is_backing_off(now), load.open))
        })
    }

    /// Counts a connection to the target.
    pub(crate) fn open_one(self: &Arc<Self>, target: SocketAddr) -> Open {
        self.lock().endpoints.entry(target).or_default().open += 1;
        Open {
            loads: Arc::clone(self),
            target,
        }
    }

    /// Records a failed connect.
    pub(crate) fn failed(&self, target: SocketAddr, now: Instant) {
        let mut state = self.lock();
        state
            .endpoints
            .retain(|_, load| load.open > 0 || load.is_backing_off(now));
        state.endpoints.entry(target).or_default().failed_at = Some(now);
    }

    /// Records a successful connect.
    pub(crate) fn answered(&self, target: SocketAddr) {
        if let Some(load) = self.lock().endpoints.get_mut(&target) {
            load.failed_at = None;
        }
    }

    /// Forgets services without a link on this host.
    pub(crate) fn retain(&self, linked: &BTreeSet<&ServiceId>) {
        self.lock()
            .turns
            .retain(|service, _| linked.contains(service));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Targets rotated by the turn, then sorted: recently failed ones last, fewest connections first.
fn order(
    targets: &[SocketAddr],
    turn: usize,
    load: impl Fn(SocketAddr) -> (bool, usize),
) -> Vec<SocketAddr> {
    let mut order = targets.to_vec();
    if !order.is_empty() {
        order.rotate_left(turn % targets.len());
    }
    order.sort_by_key(|target| load(*target));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixture::service;

    fn target(n: u16) -> SocketAddr {
        ([10, 0, 0, 1], n).into()
    }

    #[test]
    fn equals_take_turns() {
        let targets = [1, 2, 3].map(target);
        let firsts: Vec<_> = (0..6)
            .map(|turn| order(&targets, turn, |_| (false, 0))[0].port())
            .collect();
        assert_eq!(firsts, [1, 2, 3, 1, 2, 3]);
        assert!(order(&[], 7, |_| (false, 0)).is_empty());
    }

    #[test]
    fn the_fewest_connections_come_first_and_the_failed_last() {
        let targets = [1, 2, 3].map(target);
        let load = |t: SocketAddr| match t.port() {
            1 => (true, 0),
            2 => (false, 5),
            _ => (false, 1),
        };
        let order = order(&targets, 1, load);
        assert_eq!(order, [3, 2, 1].map(target));
    }

    #[test]
    fn services_take_turns_apart() {
        let loads = Loads::default();
        let now = Instant::now();
        let targets = [1, 2].map(target);
        let first = |name: &str| loads.order(&service(name), &targets, now)[0].port();
        assert_eq!(first("a/a"), 1);
        assert_eq!(first("b/b"), 1);
        assert_eq!(first("a/a"), 2);
        assert_eq!(first("b/b"), 2);
        loads.retain(&BTreeSet::new());
        assert!(loads.lock().turns.is_empty());
    }

    #[test]
    fn connections_count_while_they_live_and_failures_for_a_while() {
        let loads = Arc::new(Loads::default());
        let now = Instant::now();
        let targets = [1, 2].map(target);
        let a = service("a/a");
        let open = loads.open_one(target(1));
        assert_eq!(loads.open(target(1)), 1);
        assert_eq!(loads.order(&a, &targets, now)[0], target(2));
        drop(open);
        assert_eq!(loads.open(target(1)), 0);
        assert!(loads.lock().endpoints.is_empty());

        loads.failed(target(2), now);
        assert_eq!(loads.order(&a, &targets, now)[0], target(1));
        assert_eq!(loads.order(&a, &targets, now)[0], target(1));
        let later = now + BACK_OFF;
        let firsts: BTreeSet<_> = (0..2)
            .map(|_| loads.order(&a, &targets, later)[0])
            .collect();
        assert_eq!(firsts.len(), 2);
        loads.failed(target(1), later);
        assert_eq!(loads.lock().endpoints.len(), 1);
    }
}
