//! Checks of `Host`, `Origin` and `Sec-Fetch-Site`, against CSRF and DNS rebinding. Pure.
//!
//! A web page can make a user's browser send requests to 127.0.0.1. The browser
//! then names the page's site in `Origin` and `Sec-Fetch-Site`; if the page's
//! own name was made to resolve to this host, `Host` is that name.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::{HeaderMap, StatusCode, Uri, header};

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum OriginError {
    /// Unknown `Host`.
    #[error(
        "this API does not answer for the host {0:?}; use an IP address or localhost, or name it with --allow-host"
    )]
    Host(String),
    /// Foreign `Origin`.
    #[error("cross-origin requests from {0:?} are refused")]
    Origin(String),
    /// Foreign `Sec-Fetch-Site`.
    #[error("cross-site requests are refused")]
    CrossSite,
}

impl OriginError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Host(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin(_) | Self::CrossSite => StatusCode::FORBIDDEN,
        }
    }
}

/// Checks a request.
pub(super) fn check(uri: &Uri, headers: &HeaderMap, allowed: &[String]) -> Result<(), OriginError> {
    let all = |name| {
        let values = headers.get_all(name).into_iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (uri.authority(), hosts.next(), hosts.next()) {
        (Some(authority), _, None) => authority.as_str().to_owned(),
        (None, Some(host), None) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
        _ => String::new(),
    };
    if !is_ours(&host, allowed) {
        return Err(OriginError::Host(host));
    }
    let own = |origin: &str| {
        ["http://", "https://"]
            .iter()
            .filter_map(|scheme| origin.strip_prefix(scheme))
            .any(|from| from.eq_ignore_ascii_case(&host))
    };
    // All of them: another reader may take the last one.
    if let Some(origin) = all("origin").find(|origin| !own(origin)) {
        return Err(OriginError::Origin(origin));
    }
    let is_ours = |site: &str| {
        ["same-origin", "none"]
            .iter()
            .any(|ours| site.eq_ignore_ascii_case(ours))
    };
    if all("sec-fetch-site").any(|site| !is_ours(&site)) {
        return Err(OriginError::CrossSite);
    }
    Ok(())
}

fn is_ours(host: &str, allowed: &[String]) -> bool {
    let Some(name) = name_of(host) else {
        return false;
    };
    let is_address = match name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
    {
        Some(bare) => bare.parse::<Ipv6Addr>().is_ok(),
        None => name.parse::<Ipv4Addr>().is_ok(),
    };
    is_address
        || name.eq_ignore_ascii_case("localhost")
        || allowed.iter().any(|other| other.eq_ignore_ascii_case(name))
}

/// The host of `host` or `host:port`; none for anything else, such as `user@host` or two hosts.
fn name_of(host: &str) -> Option<&str> {
    let end = if host.starts_with('[') {
        host.find(']')? + 1
    } else {
        host.find(':').unwrap_or(host.len())
    };
    let (name, port) = host.split_at(end);
    let is_port = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(number) => {
            number.bytes().all(|digit| digit.is_ascii_digit()) && number.parse::<u16>().is_ok()
        }
    };
    (is_port && !name.contains('@')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(pairs: &[(&'static str, &str)]) -> Result<(), OriginError> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a header"));
        }
        let uri = Uri::from_static("/v2/keys/a");
        check(&uri, &headers, &["api.example".to_owned()])
    }

    #[test]
    fn addresses_localhost_and_allowed_names_are_hosts() {
        for host in [
            "127.0.0.1:4001",
            "127.0.0.1",
            "10.1.2.3:80",
            "[::1]:4001",
            "localhost:4001",
            "LOCALHOST",
            "api.example:4001",
        ] {
            assert_eq!(checked(&[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "127.0.0.1@evil.example",
            "sub.api.example",
            "127.0.0.1:4001,evil.example",
            "127.0.0.1,evil.example",
            "[127.0.0.1]",
            "[127.0.0.1]:4001",
            "[localhost]",
            "[::1",
            "::1",
            "[::1]4001",
            "[::1]evil.example",
            "localhost:",
            "localhost:+1",
            "localhost:99999",
            "localhost:4001 ",
        ] {
            assert_eq!(
                checked(&[("host", host)]),
                Err(OriginError::Host(host.to_owned()))
            );
        }
        assert!(checked(&[]).is_err());
        assert!(checked(&[("host", "localhost"), ("host", "evil.example")]).is_err());
    }

    #[test]
    fn an_absolute_request_is_judged_by_its_own_host() {
        let mut headers = HeaderMap::new();
        headers.insert("host", "localhost".parse().expect("a header"));
        let uri = Uri::from_static("http://evil.example/v2/keys/a");
        assert!(matches!(
            check(&uri, &headers, &[]),
            Err(OriginError::Host(_))
        ));
    }

    #[test]
    fn pages_of_others_are_refused() {
        let host = ("host", "127.0.0.1:4001");
        for origin in [
            "null",
            "https://evil.example",
            "http://127.0.0.1:8080",
            "http://localhost:4001",
            "file://",
        ] {
            assert_eq!(
                checked(&[host, ("origin", origin)]),
                Err(OriginError::Origin(origin.to_owned()))
            );
        }
        assert_eq!(
            checked(&[host, ("origin", "http://127.0.0.1:4001")]),
            Ok(())
        );
        let own = ("origin", "http://127.0.0.1:4001");
        let evil = ("origin", "https://evil.example");
        for origins in [[own, evil], [evil, own]] {
            assert_eq!(
                checked(&[host, origins[0], origins[1]]),
                Err(OriginError::Origin(evil.1.to_owned()))
            );
        }
        for site in ["cross-site", "same-site", "", "anything"] {
            assert_eq!(
                checked(&[host, ("sec-fetch-site", site)]),
                Err(OriginError::CrossSite),
                "{site}"
            );
        }
        for site in ["same-origin", "none"] {
            assert_eq!(checked(&[host, ("sec-fetch-site", site)]), Ok(()));
        }
    }
}
