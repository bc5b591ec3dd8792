//! Images between hosts: whether a host has one, and the archive of it as its engine gives it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body_util::BodyExt;
use manifests::HostName;
use model::images::{OfferedImage, WantedArchive, WantedImage};

use super::client::{PeerClient, PeerError, PeerResponse};
use super::failure::failure;
use super::table::PeerTable;
use crate::v1::HostError;

/// How long an archive may stand still: the engine may write all of it to its disk first.
const IDLE: Duration = Duration::from_secs(600);

/// An archive of an image as it comes.
pub type Archive = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// The images that other hosts can fetch here.
#[async_trait]
pub trait ImageServer: Send + Sync + 'static {
    /// Whether the image is here.
    async fn offer(&self, wanted: &WantedImage) -> Result<Option<OfferedImage>, HostError>;

    /// An image by its id; none while as many hosts are served as may be.
    async fn archive(&self, wanted: &WantedArchive) -> Result<Option<Archive>, HostError>;
}

type Images = State<Arc<dyn ImageServer>>;

pub(super) fn routes(images: Arc<dyn ImageServer>) -> Router {
    Router::new()
        .route("/peer/v1/images", get(offer))
        .route("/peer/v1/images/archive", get(archive))
        .with_state(images)
}

async fn offer(
    State(images): Images,
    Query(wanted): Query<WantedImage>,
) -> Result<Json<Option<OfferedImage>>, HostError> {
    Ok(Json(images.offer(&wanted).await?))
}

async fn archive(
    State(images): Images,
    Query(wanted): Query<WantedArchive>,
) -> Result<Response, HostError> {
    Ok(match images.archive(&wanted).await? {
        Some(archive) => Body::from_stream(archive).into_response(),
        None => failure(
            StatusCode::SERVICE_UNAVAILABLE,
            "enough hosts fetch images here".to_owned(),
        ),
    })
}

impl PeerClient {
    /// `ImageServer::offer` of that host; or why it could not be asked, for people.
    pub async fn offered_image(
        &self,
        host: &HostName,
        wanted: &WantedImage,
    ) -> Result<Option<OfferedImage>, String> {
        let query = serde_urlencoded::to_string(wanted).expect("a flat struct");
        let answer = self.get(host, &format!("/peer/v1/images?{query}")).await;
        answer.map_err(|error| error.or_older("images for others").to_string())
    }

    /// `ImageServer::archive` of that host; or why it could not be had, for people.
    pub async fn image_archive(
        &self,
        host: &HostName,
        wanted: &WantedArchive,
    ) -> Result<Option<Archive>, String> {
        let query = serde_urlencoded::to_string(wanted).expect("a flat struct");
        let path = format!("/peer/v1/images/archive?{query}");
        match self.send(Method::GET, host, &path).await {
            Ok(answer) => Ok(Some(chunks(answer, self.table().clone()))),
            Err(PeerError::Status(StatusCode::SERVICE_UNAVAILABLE, _)) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The body of an answer, until it ends or stands still, or the other side's record is deleted.
fn chunks(answer: PeerResponse, table: Arc<PeerTable>) -> Archive {
    let (body, connection) = (answer.response.into_body(), answer.connection);
    let state = Some((body, connection, table, answer.fingerprint));
    Box::pin(stream::unfold(state, async |state| {
        let (mut body, connection, table, fingerprint) = state?;
        let frame = tokio::select! {
            frame = tokio::time::timeout(IDLE, body.frame()) => frame,
            () = table.removed(&fingerprint) => {
                return Some((Err(io::Error::other("its host record was deleted")), None));
            }
        };
        let error = match frame {
            Ok(None) => return None,
            Ok(Some(Ok(frame))) => {
                let bytes = frame.into_data().unwrap_or_default();
                return Some((Ok(bytes), Some((body, connection, table, fingerprint))));
            }
            Ok(Some(Err(error))) => io::Error::other(format!("connection lost: {error}")),
            Err(_) => io::Error::from(io::ErrorKind::TimedOut),
        };
        Some((Err(error), None))
    }))
}
