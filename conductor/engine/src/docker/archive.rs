//! Images as archives: out of one engine, into another.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::ImportImageOptions;
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::{Instant, timeout_at};

use super::client::{failure, late};
use crate::{Archive, EngineError, Operation};

/// How long an archive may stand still: the engine that gives it may write it to its disk first, the one that takes it
/// unpacks a layer.
const IDLE: Duration = Duration::from_secs(600);

pub(super) fn save(docker: Docker, image_id: &str) -> Archive {
    let chunks = docker.export_image(image_id);
    Box::pin(chunks.map_err(std::io::Error::other))
}

pub(super) async fn load(docker: &Docker, archive: Archive) -> Result<String, EngineError> {
    let options = ImportImageOptions {
        quiet: true,
        ..ImportImageOptions::default()
    };
    let moved = Arc::new(Mutex::new(Instant::now()));
    let at_last = |moved: &Mutex<Instant>| *moved.lock().unwrap_or_else(PoisonError::into_inner);
    let moves = moved.clone();
    let archive = archive.inspect(move |_| {
        *moves.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    });
    let mut steps = docker.import_image_stream(options, archive, None);
    let mut id = None;
    loop {
        match timeout_at(at_last(&moved) + IDLE, steps.next()).await {
            Ok(Some(Ok(step))) => id = step.stream.as_deref().and_then(loaded).or(id),
            Ok(Some(Err(error))) => return Err(failure(Operation::Other, &error)),
            Ok(None) => break,
            Err(_) if at_last(&moved).elapsed() < IDLE => {}
            Err(_) => return Err(late(IDLE)),
        }
    }
    id.ok_or_else(|| EngineError::Engine("the engine does not say what it loaded".to_owned()))
}

/// The id in `Loaded image ID: sha256:…`.
fn loaded(text: &str) -> Option<String> {
    let (_, id) = text.split_once("Loaded image ID: ")?;
    Some(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::loaded;

    #[test]
    fn the_id_is_read_and_a_name_is_none() {
        let id = Some("sha256:8e31".to_owned());
        assert_eq!(loaded("Loaded image ID: sha256:8e31\n"), id);
        assert_eq!(loaded("Loaded image: app:1\n"), None);
    }
}
