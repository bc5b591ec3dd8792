//! What a registry asks for before it answers: a password, or a token from where it says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::Credentials;
use hyper::header::{AUTHORIZATION, HeaderName, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::http::{Answer, Client};
use super::{RegistryError, busy};

/// A client's name in requests for tokens.
const CLIENT: &str = "dokkaa";

/// How this host makes itself known to a registry.
pub(super) struct Authorization {
    credentials: Option<Credentials>,
    /// The value of the header, once the registry has asked for one.
    header: Option<String>,
}

impl Authorization {
    pub(super) fn new(credentials: Option<Credentials>) -> Self {
        Self {
            credentials,
            header: None,
        }
    }

    pub(super) fn header(&self) -> Option<(HeaderName, String)> {
        let value = self.header.clone()?;
        Some((AUTHORIZATION, value))
    }

    /// Does what the registry asks for.
    pub(super) async fn follow(
        &mut self,
        client: &Client,
        registry: &str,
        asked: &Answer,
        scope: &str,
    ) -> Result<(), RegistryError> {
        let refused = |why: &str| RegistryError::Refused(registry.to_owned(), why.to_owned());
        let challenges = asked.headers.get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<&str> = challenges.filter_map(|value| value.to_str().ok()).collect();
        let bearer = challenges.iter().find_map(|text| Challenge::bearer(text));
        let is_basic = |text: &&str| {
            let scheme = text.get(..5);
            scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic"))
        };
        self.header = match bearer {
            Some(bearer) => {
                let token = self.token(client, registry, &bearer, scope).await?;
                Some(format!("Bearer {token}"))
            }
            None if challenges.iter().any(is_basic) => {
                let basic = self.basic();
                Some(basic.ok_or_else(|| refused("it asks for a password"))?)
            }
            None => return Err(refused("it does not say how to log in")),
        };
        Ok(())
    }

    fn basic(&self) -> Option<String> {
        match &self.credentials {
            Some(Credentials::Password {
                username, password, ..
            }) => {
                let pair = STANDARD.encode(format!("{username}:{password}"));
                Some(format!("Basic {pair}"))
            }
            Some(Credentials::IdentityToken { .. }) | None => None,
        }
    }

    /// A token from where the registry says.
    async fn token(
        &self,
        client: &Client,
        registry: &str,
        challenge: &Challenge,
        scope: &str,
    ) -> Result<String, RegistryError> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let odd = |why: String| RegistryError::Odd(registry.to_owned(), why);
        let mut fields = vec![("service", challenge.service.as_str()), ("scope", scope)];
        let answer = if let Some(Credentials::IdentityToken { token, .. }) = &self.credentials {
            fields.extend([
                ("grant_type", "refresh_token"),
                ("client_id", CLIENT),
                ("refresh_token", token),
            ]);
            let form = serde_urlencoded::to_string(fields).map_err(|e| odd(e.to_string()))?;
            let realm = &challenge.realm;
            client
                .send(&Method::POST, realm, Vec::new(), Some(form))
                .await?
        } else {
            let query = serde_urlencoded::to_string(fields).map_err(|e| odd(e.to_string()))?;
            let separator = if challenge.realm.contains('?') {
                '&'
            } else {
                '?'
            };
            let target = format!("{}{separator}{query}", challenge.realm);
            let headers = self.basic().map(|basic| (AUTHORIZATION, basic));
            let headers = headers.into_iter().collect();
            client.send(&Method::GET, &target, headers, None).await?
        };
        match answer.status {
            StatusCode::OK => {
                let said: Token =
                    serde_json::from_slice(&answer.body).map_err(|e| odd(e.to_string()))?;
                let token = said.token.or(said.access_token).filter(|t| !t.is_empty());
                token.ok_or_else(|| odd("no token".to_owned()))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                let why = format!("no token ({})", answer.status);
                Err(RegistryError::Refused(registry.to_owned(), why))
            }
            status => Err(busy(registry, &answer).unwrap_or_else(|| odd(status.to_string()))),
        }
    }
}

/// Where a token is to be had: `Bearer realm="https://auth.example/token",service="registry.example"`.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: String,
}

impl Challenge {
    fn bearer(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, String::new());
        while let Some((name, after)) = rest.split_once('=') {
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            match name.trim_matches([' ', ',']).to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => value.clone_into(&mut service),
                _ => {}
            }
            rest = after;
        }
        let realm = realm?;
        Some(Self { realm, service })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_names_where_a_token_is_to_be_had() {
        let of = |text: &str| {
            Challenge::bearer(text).map(|challenge| (challenge.realm, challenge.service))
        };
        let both = |realm: &str, service: &str| Some((realm.to_owned(), service.to_owned()));
        assert_eq!(
            of(r#"Bearer realm="https://a/t",service="r.io",scope="repository:x:pull,push""#),
            both("https://a/t", "r.io")
        );
        assert_eq!(
            of(r#"bearer service=r.io, realm="https://a/t?x=1""#),
            both("https://a/t?x=1", "r.io")
        );
        assert_eq!(of(r#"Basic realm="x""#), None);
        assert_eq!(of(r#"Bearer service="x""#), None);
        assert_eq!(of(r#"Bearer realm="x"#), None);
    }
}
