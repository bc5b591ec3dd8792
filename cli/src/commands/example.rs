//! The example of `up --example`, by the API of the agent that was started.

use std::net::SocketAddr;

use bytes::Bytes;
use gateway::v1::types::{SlotStatus, Slots};
use hyper::Method;
use manifests::ContainerId;

use super::apply::report;
use super::client::{Client, Refusal};
use super::error::CommandError;
use crate::args::{GlobalArgs, Selection};

/// Its manifests, as JSON.
#[derive(Debug)]
pub(crate) struct Example {
    /// Of `hello/web`.
    pub(crate) web: &'static str,
    /// Of `hello/crawler`.
    pub(crate) crawler: &'static str,
}

/// Puts the manifests that are not there: what somebody changed stays changed.
pub(crate) async fn put(example: &Example, addr: &str) -> Result<(), CommandError> {
    let client = Client::new(&GlobalArgs::of(addr))?;
    for (name, text) in [
        ("hello/web", example.web),
        ("hello/crawler", example.crawler),
    ] {
        let id: ContainerId = name
            .parse()
            .map_err(|_| CommandError::Usage(name.to_owned()))?;
        match client.manifest(&id).await {
            Ok(_) => continue,
            Err(Refusal::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let path = format!("manifests/{id}");
        let written = client
            .send(Method::PUT, &path, &[], Bytes::from_static(text.as_bytes()))
            .await?;
        report(&written)?;
    }
    Ok(())
}

/// Where the page is, once both containers are ready.
pub(crate) async fn ready_at(addr: &str) -> Result<Option<SocketAddr>, CommandError> {
    let client = Client::new(&GlobalArgs::of(addr))?;
    let app = "hello"
        .parse()
        .map_err(|_| CommandError::Usage("hello".to_owned()))?;
    let Slots { slots, .. } = client.slots(Some(&Selection::App(app))).await?;
    let is_ready = |name: &str| {
        let mut of = slots.iter().filter(|slot| slot.container.as_str() == name);
        of.any(|slot| slot.status == SlotStatus::Ready)
    };
    let web = slots.iter().find(|slot| slot.container.as_str() == "web");
    let port = web.and_then(|slot| slot.ports.first());
    Ok(port
        .filter(|_| is_ready("web") && is_ready("crawler"))
        .map(|port| {
            SocketAddr::new(
                port.bind
                    .filter(|ip| !ip.is_unspecified())
                    .unwrap_or(port.addr),
                port.port,
            )
        }))
}
