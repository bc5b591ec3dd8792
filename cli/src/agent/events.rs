//! Keeps what happens here, and tells how this host itself is.

use conductor::events::{Journal, Writer};
use model::events::{Happened, Kind};
use store::host::HostStatus;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What this host knows of itself and of its etcd.
pub(super) struct Signs {
    pub(super) host: watch::Receiver<HostStatus>,
    /// Why etcd can't be followed.
    pub(super) etcd: watch::Receiver<Option<String>>,
}

/// Until it is to stop; what was told by then is kept.
pub(super) async fn keep(journal: Journal, writer: Writer, signs: Signs, stop: CancellationToken) {
    let told = CancellationToken::new();
    let telling = async {
        let version = concat!("the agent has started, version ", env!("CARGO_PKG_VERSION"));
        journal.tell([Happened::here(Kind::HostUp, version)]);
        let of_host = stop.run_until_cancelled(tell_host(&journal, signs.host));
        let of_etcd = stop.run_until_cancelled(tell_etcd(&journal, signs.etcd));
        tokio::join!(of_host, of_etcd);
        stop.cancelled().await;
        let text = "the agent ends; containers run on";
        journal.tell([Happened::here(Kind::HostRestarting, text)]);
        told.cancel();
    };
    tokio::join!(writer.run(told.clone()), telling);
}

/// When this host's record ends, and when there is one again. While etcd is away neither is known.
async fn tell_host(journal: &Journal, mut status: watch::Receiver<HostStatus>) {
    let mut missing = false;
    loop {
        let happened = match &*status.borrow_and_update() {
            HostStatus::Lost if !missing => {
                missing = true;
                let text = "etcd says that this host's record has ended";
                Some(Happened::here(Kind::HostMissing, text))
            }
            HostStatus::Live(_) if missing => {
                missing = false;
                let text = "this host's record is in etcd again";
                Some(Happened::here(Kind::HostBack, text))
            }
            _ => None,
        };
        journal.tell(happened);
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// When etcd can't be followed, and when it can be again.
async fn tell_etcd(journal: &Journal, mut failing: watch::Receiver<Option<String>>) {
    let mut away = false;
    loop {
        let happened = match &*failing.borrow_and_update() {
            Some(why) if !away => {
                away = true;
                Some(Happened::here(Kind::EtcdUnreachable, why))
            }
            None if away => {
                away = false;
                Some(Happened::here(Kind::EtcdBack, ""))
            }
            _ => None,
        };
        journal.tell(happened);
        if failing.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::time::Duration;

    use futures_util::StreamExt;
    use model::events::Wanted;

    use super::*;

    #[tokio::test]
    async fn a_host_tells_of_its_start_its_troubles_and_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, writer) = Journal::open(dir.path());
        let (status, receiver) = watch::channel(HostStatus::Live(1));
        let (failing, etcd) = watch::channel(None);
        let signs = Signs {
            host: receiver,
            etcd,
        };
        let stop = CancellationToken::new();
        let keeping = tokio::spawn(keep(journal.clone(), writer, signs, stop.clone()));
        let mut events = Box::pin(journal.read(Wanted {
            follow: true,
            ..Wanted::default()
        }));
        let mut next = async || {
            let next = tokio::time::timeout(Duration::from_secs(20), events.next());
            next.await.unwrap().unwrap().what.kind
        };
        assert_eq!(next().await, Kind::HostUp);
        failing.send_replace(Some("connection refused".to_owned()));
        assert_eq!(next().await, Kind::EtcdUnreachable);
        failing.send_replace(Some("no answer in time".to_owned()));
        failing.send_replace(None);
        assert_eq!(next().await, Kind::EtcdBack);
        status.send_replace(HostStatus::Lost);
        assert_eq!(next().await, Kind::HostMissing);
        status.send_replace(HostStatus::Lost);
        status.send_replace(HostStatus::Live(2));
        assert_eq!(next().await, Kind::HostBack);
        stop.cancel();
        keeping.await.unwrap();
        let (again, _) = Journal::open(dir.path());
        let kept: Vec<_> = again.read(Wanted::default()).collect().await;
        assert_eq!(kept.last().unwrap().what.kind, Kind::HostRestarting);
        assert_eq!(kept.len(), 6);
    }
}
