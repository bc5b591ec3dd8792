//! Which API version is spoken with an engine. Pure.
//!
//! The client library speaks the models of one version and never says so to
//! the engine. So the version is put in front of each path here, chosen from
//! what the engine says of itself.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;
use hyper::http::uri::PathAndQuery;

/// A version of the Docker Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// Always 1 so far.
    pub major: u32,
    /// What counts.
    pub minor: u32,
}

/// The oldest that has all we need (Docker 19.03).
pub const OLDEST: ApiVersion = ApiVersion {
    major: 1,
    minor: 40,
};

/// The newest whose models the client library knows.
pub const NEWEST: ApiVersion = ApiVersion {
    major: bollard::API_DEFAULT_VERSION.major_version as u32,
    minor: bollard::API_DEFAULT_VERSION.minor_version as u32,
};

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for ApiVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let odd = || VersionError::Odd(text.to_owned());
        let (major, minor) = text.split_once('.').ok_or_else(odd)?;
        Ok(Self {
            major: major.parse().map_err(|_| odd())?,
            minor: minor.parse().map_err(|_| odd())?,
        })
    }
}

/// Why no version can be spoken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Not `1.<number>`.
    #[error("the engine's API version `{0}` can't be read")]
    Odd(String),
    /// The engine is too old.
    #[error("the engine speaks API {0}; {OLDEST} (Docker 19.03) or newer is needed: update Docker")]
    TooOld(ApiVersion),
    /// The engine dropped all versions that are known here.
    #[error("the engine wants API {0} or newer, dokkaa knows up to {NEWEST}: update dokkaa")]
    TooNew(ApiVersion),
}

/// The newest version that both sides know. `oldest` and `newest` are the engine's.
pub fn choose(newest: ApiVersion, oldest: Option<ApiVersion>) -> Result<ApiVersion, VersionError> {
    if newest < OLDEST {
        return Err(VersionError::TooOld(newest));
    }
    let chosen = newest.min(NEWEST);
    match oldest {
        Some(oldest) if chosen < oldest => Err(VersionError::TooNew(oldest)),
        _ => Ok(chosen),
    }
}

/// The same request with the version in front of its path.
pub(super) fn in_version(uri: &Uri, version: ApiVersion) -> Uri {
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let mut parts = uri.clone().into_parts();
    let Ok(with) = format!("/v{version}{path}").parse() else {
        return uri.clone();
    };
    parts.path_and_query = Some(with);
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> ApiVersion {
        text.parse().expect("a version")
    }

    #[test]
    fn the_newest_version_that_both_know_is_chosen() {
        for (engine, oldest, chosen) in [
            ("1.41", "1.12", "1.41"),
            ("1.40", "1.12", "1.40"),
            ("1.52", "1.44", "1.52"),
            ("1.99", "1.44", "1.53"),
        ] {
            let got = choose(version(engine), Some(version(oldest)));
            assert_eq!(got, Ok(version(chosen)), "{engine}");
        }
        assert_eq!(choose(version("1.43"), None), Ok(version("1.43")));
    }

    #[test]
    fn an_engine_too_old_or_too_new_is_told_so() {
        assert_eq!(
            choose(version("1.39"), None),
            Err(VersionError::TooOld(version("1.39")))
        );
        assert_eq!(
            choose(version("2.1"), Some(version("2.0"))),
            Err(VersionError::TooNew(version("2.0")))
        );
        for odd in ["", "1", "1.x", "v1.40"] {
            assert_eq!(
                odd.parse::<ApiVersion>(),
                Err(VersionError::Odd(odd.to_owned()))
            );
        }
    }

    #[test]
    fn the_version_goes_in_front_of_the_path() {
        let uri: Uri = "unix://2f76/containers/json?all=true"
            .parse()
            .expect("a URI");
        assert_eq!(
            in_version(&uri, version("1.40")).to_string(),
            "unix://2f76/v1.40/containers/json?all=true"
        );
    }
}
