//! Passes the problems of the parts on.

use std::sync::Arc;

use conductor::Published;
use store::host::Host;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Copies of containers that are named in the host's record.
const COPIES: usize = 5;

/// An instance whose link port another process holds is not ready: it would get that one's answers.
pub(super) async fn follow_held_links(
    mut problems: watch::Receiver<Vec<listen::Problem>>,
    published: Arc<Published>,
    stop: CancellationToken,
) {
    loop {
        let is_held =
            |problem: &&listen::Problem| matches!(problem.reason, listen::Reason::Taken(_));
        let held = problems
            .borrow_and_update()
            .iter()
            .filter(is_held)
            .map(|problem| (problem.addr.port(), problem.to_string()))
            .collect();
        published.held_links.send_if_modified(|before| {
            let is_new = *before != held;
            *before = held;
            is_new
        });
        tokio::select! {
            () = stop.cancelled() => return,
            changed = problems.changed() => if changed.is_err() { return },
        }
    }
}

/// Problems of the parts, for people.
pub(super) struct Problems {
    pub(super) dns: watch::Receiver<Vec<listen::Problem>>,
    pub(super) links: watch::Receiver<Vec<listen::Problem>>,
    pub(super) engine: watch::Receiver<Option<String>>,
    pub(super) reachability: watch::Receiver<Option<String>>,
    pub(super) firewall: watch::Receiver<Vec<String>>,
    pub(super) unreached: watch::Receiver<Vec<String>>,
    pub(super) copies: watch::Receiver<Vec<String>>,
}

impl Problems {
    /// Keeps them in the host's record, where `dokkaa hosts` shows them.
    pub(super) async fn report(mut self, host: Arc<Host>, stop: CancellationToken) {
        loop {
            let problems = self.all();
            host.update_record(|record| record.problems = problems);
            let changed = tokio::select! {
                () = stop.cancelled() => return,
                changed = self.dns.changed() => changed,
                changed = self.links.changed() => changed,
                changed = self.engine.changed() => changed,
                changed = self.reachability.changed() => changed,
                changed = self.firewall.changed() => changed,
                changed = self.unreached.changed() => changed,
                changed = self.copies.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn all(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        for (part, listeners) in [("dns", &mut self.dns), ("links", &mut self.links)] {
            let listeners = listeners.borrow_and_update();
            problems.extend(listeners.iter().map(|problem| format!("{part}: {problem}")));
        }
        for one in [&mut self.engine, &mut self.reachability] {
            problems.extend(one.borrow_and_update().clone());
        }
        problems.extend(self.firewall.borrow_and_update().clone());
        problems.extend(self.unreached.borrow_and_update().clone());
        let copies = self.copies.borrow_and_update();
        problems.extend(copies.iter().take(COPIES).cloned());
        problems
    }
}
