//! What an agent takes from its engine, and must follow: a restart of the engine may change all of it.

use super::{Bridge, Engine, EngineError, EngineInfo};

/// The engine and the network of this host's containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineFacts {
    /// What it says of itself.
    pub info: EngineInfo,
    /// Its network for our containers.
    pub bridge: Bridge,
}

impl EngineFacts {
    /// Asks for them.
    pub async fn read(engine: &dyn Engine, network: &str) -> Result<Self, EngineError> {
        Ok(Self {
            info: engine.info().await?,
            bridge: engine.bridge(network).await?,
        })
    }
}
