//! The gate of the plan: of each scope one write and one action are under way at most.

use std::collections::BTreeSet;

use model::{Action, Scope};

use crate::inputs::Inputs;
use crate::output::{Plan, Report};

/// Takes over a rule's report. Nothing is planned for what is under way, nor from a view below the last own write on it;
/// and of two writes or actions of one scope the first counts, so that a rule comes before those after it.
pub(crate) fn admit(inputs: &Inputs<'_>, report: Report, plan: &mut Plan) {
    let mut scopes: BTreeSet<Scope> = plan.writes.iter().map(|w| w.scope.clone()).collect();
    for write in report.writes {
        if !inputs.is_writing(&write.scope) && scopes.insert(write.scope.clone()) {
            plan.writes.push(write);
        }
    }
    let mut scopes: BTreeSet<Scope> = plan.actions.iter().map(Action::scope).collect();
    for action in report.actions {
        let scope = action.scope();
        let is_acting = inputs.memory.in_flight.is_acting(&scope);
        // An image that was decided is still to be written.
        let is_deciding = matches!(action, Action::Resolve { .. }) && inputs.is_writing(&scope);
        if !is_acting && !is_deciding && !inputs.is_behind(&scope) && scopes.insert(scope) {
            plan.actions.push(action);
        }
    }
    plan.asks.extend(report.asks);
    plan.followed.extend(report.notes.followed);
    plan.waiting.extend(report.waiting);
    plan.statuses.extend(report.statuses);
    plan.leaving.extend(report.notes.leaving);
    plan.staying.extend(report.notes.staying);
    plan.draining.extend(report.notes.draining);
    plan.late.extend(report.notes.late);
    plan.turns
        .append(&mut report.notes.turns.into_iter().collect());
    plan.requeue_at = [plan.requeue_at, report.notes.requeue_at]
        .into_iter()
        .flatten()
        .min();
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use manifests::ContainerId;
    use model::observed::{Observed, Surroundings};
    use model::{Extent, Host, Millis, Rules, Snapshot, Trust, Write};
    use uuid::Uuid;

    use super::*;
    use crate::memory::AgentMemory;

    fn admitted(memory: &AgentMemory, reports: Vec<Report>) -> Vec<String> {
        let addr = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let host = Host {
            name: "h1".parse().expect("a host's name"),
            id: Uuid::nil(),
            surroundings: Surroundings {
                host_ip: addr,
                gateway: addr,
                dns: None,
                domain: "skydns.local".to_owned(),
                network: "bridge".to_owned(),
            },
        };
        let inputs = Inputs {
            snapshot: &Snapshot::default(),
            observed: &Observed::default(),
            memory,
            host: &host,
            trust: Trust::Full,
            rules: Rules::default(),
            extent: Extent::Whole,
            now: Millis(1),
        };
        let mut plan = Plan::default();
        for report in reports {
            admit(&inputs, report, &mut plan);
        }
        plan.writes
            .iter()
            .map(|write| write.kind.to_string())
            .collect()
    }

    fn writes(writes: impl IntoIterator<Item = Write>) -> Report {
        Report {
            writes: writes.into_iter().collect(),
            ..Report::default()
        }
    }

    #[test]
    fn of_one_scope_the_first_write_counts_and_none_while_one_is_under_way() {
        let web: ContainerId = "shop/web".parse().expect("an id");
        let release = || Write::release(web.slot(0), model::ModRev(1));
        let sweep = || Write::sweep(web.clone());
        let other = || Write::sweep("shop/db".parse().expect("an id"));
        let mut memory = AgentMemory::default();
        let reports = || vec![writes([release(), sweep()]), writes([sweep(), other()])];
        assert_eq!(admitted(&memory, reports()), ["release", "sweep", "sweep"]);
        memory.begin_write(&release());
        assert_eq!(admitted(&memory, reports()), ["sweep", "sweep"]);
        // It succeeded, and the view does not show it yet; or its guards did not hold, and the view is the same.
        memory.wrote(&release(), true, 7, 0, Millis(1));
        assert_eq!(admitted(&memory, reports()), ["sweep", "sweep"]);
        memory.wrote(&sweep(), false, 7, 0, Millis(1));
        assert_eq!(admitted(&memory, reports()), ["sweep"]);
    }
}
