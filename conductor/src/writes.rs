//! Carries the agent's writes and reads out at etcd.

use std::sync::Arc;

use agent::{Input, WriteAnswers};
use model::error::chain;
use model::kv::Range;
use store::Kv;
use store::claims::WriteBatch;
use tokio::sync::mpsc;

/// Sends a batch of writes that were planned from a view at `seen`, and passes the answers on.
pub(crate) async fn carry_out(
    kv: Arc<dyn Kv>,
    batch: WriteBatch,
    seen: i64,
    inputs: mpsc::Sender<Input>,
) {
    let (revision, reply) = match kv.txn(batch.txn().clone()).await {
        Ok(reply) => (reply.revision, Some(reply)),
        Err(error) => {
            let writes = batch.writes().len();
            tracing::warn!(error = %chain(&error), writes, "etcd did not take what was to be written; it is tried again");
            (0, None)
        }
    };
    let answers = WriteAnswers {
        writes: batch.answered(reply),
        revision,
        seen,
    };
    // Without a loop there is nobody to tell.
    let _ = inputs.send(Input::Wrote(answers)).await;
}

/// Reads what an earlier agent of this host said of its slots.
pub(crate) async fn read_statuses(kv: Arc<dyn Kv>, range: Range, inputs: mpsc::Sender<Input>) {
    let reply = kv.range(range).await.inspect_err(|error| {
        tracing::warn!(error = %chain(error), "the earlier status of slots can't be read");
    });
    let _ = inputs.send(Input::Statuses(reply.ok())).await;
}
