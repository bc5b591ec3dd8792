//! Image references.

use manifests::image::Reference;

use crate::EngineError;

/// The parts of an image's name.
pub fn parse_reference(name: &str) -> Result<Reference, EngineError> {
    name.parse()
        .map_err(|error| EngineError::BadRequest(format!("the image `{name}` {error}")))
}
