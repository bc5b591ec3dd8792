//! dokkaa's own API, `/dokkaa/v1/…`: what the CLI asks of any agent.
//!
//! It shows its agent's view of the cluster, and writes what users and
//! operators want of it. It never decides: what can be computed from a snapshot
//! is computed by the planner's pure functions, and what only another host
//! knows is asked of that host, where a missing answer is a notice and not an
//! error. The endpoints are listed in `docs/api.md`.

pub mod agent;
mod api;
pub mod backup;
pub(crate) mod check;
mod cluster;
mod containers;
mod events;
pub mod hold;
mod hosts;
pub mod inputs;
pub mod list;
mod logs;
mod manifest;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
mod merge;
pub mod overview;
pub mod plan;
mod reply;
pub mod rows;
pub mod types;
mod versions;
pub mod volumes;
pub mod why;

use axum::Router;
use axum::http::Uri;
use axum::routing::{delete, get, patch, post, put};

pub use agent::{AgentHandle, ClusterView, EventStream, HostError, LogRecord, LogStream, Peers};
pub use api::Api;
use reply::ApiFailure;

/// Routes below `/dokkaa/v1`.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/slots", get(cluster::slots))
        .route("/apps", get(cluster::apps))
        .route("/hosts", get(cluster::hosts))
        .route("/check", post(check::check))
        .route("/hosts/{host}", get(hosts::detail).delete(hosts::remove))
        .route("/hosts/{host}/availability", put(hosts::availability))
        .route("/hosts/{host}/labels", patch(hosts::labels))
        .route("/volumes", get(volumes::list))
        .route("/volumes/{app}/{container}/{slot}", delete(volumes::remove))
        .route(
            "/pins/{app}/{container}/{slot}",
            put(volumes::adopt).delete(volumes::release),
        )
        .route("/backup", get(backup::backup))
        .route("/restore", post(backup::restore))
        .route("/hold", get(hold::own))
        .route("/accept", get(hold::look).post(hold::accept))
        .route("/status", get(cluster::status))
        .route("/why/{app}/{container}", get(cluster::explain))
        .route("/dns", get(cluster::dns))
        .route("/dns/{name}", get(cluster::name))
        .route("/plan", post(plan::post))
        .route("/versions/{app}/{container}", get(versions::history))
        .route("/rollout/{app}/{container}", put(versions::pause))
        .route("/restart/{app}/{container}/{slot}", put(versions::restart))
        .route("/image/{app}/{container}", put(versions::image))
        .route("/events", get(events::events))
        .route("/logs/{app}", get(logs::logs))
        .route("/logs/{app}/{container}", get(logs::logs))
        .route("/logs/{app}/{container}/{slot}", get(logs::logs))
        .route("/manifests/{app}", delete(manifest::delete_app))
        .route(
            "/manifests/{app}/{container}",
            get(manifest::read)
                .put(manifest::write)
                .delete(manifest::delete),
        )
        .layer(axum::extract::DefaultBodyLimit::max(manifest::MAX_BODY))
        .fallback(async |uri: Uri| ApiFailure::not_found(format!("there is no {}", uri.path())))
        .method_not_allowed_fallback(async || ApiFailure::method())
        .with_state(api)
}

#[cfg(test)]
mod tests;
