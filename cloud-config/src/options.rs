//! Options of the user data, and their checks.

/// Options of the user data, the same for every host of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The cluster's etcd.
    pub etcd: Etcd,
    /// Certificates, written to `/etc/dokkaa` on the host.
    pub tls: Option<Tls>,
    /// Download of `dokkaa`; none: it is copied to the host.
    pub binary: Option<Binary>,
    /// The agent's etcd user, as `name:password`, written to `/etc/dokkaa` on the host.
    pub etcd_user: Option<String>,
    /// Further flags of the agent.
    pub agent_flags: Vec<String>,
}

/// Location of the cluster's etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Etcd {
    /// A member on every host; they find each other through this URL.
    Discovery(String),
    /// Endpoints elsewhere.
    Elsewhere(Vec<String>),
}

/// A certificate with its key and CA, in PEM.
///
/// With an etcd elsewhere, the agent's client certificate; with discovery, the
/// members' peer certificate, which must name every host's address.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate authority's certificate.
    pub ca: String,
    /// The certificate.
    pub cert: String,
    /// Its private key.
    pub key: String,
}

/// Download of `dokkaa`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// An http or https URL.
    pub url: String,
    /// Its checksum, as `sha256sum` prints it.
    pub sha256: String,
}

/// Error of checking the options.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// An invalid URL.
    #[error("{what} {value:?} is not an http or https URL")]
    NotAUrl {
        /// The option.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// An invalid endpoint.
    #[error("etcd endpoint {0:?} is neither host:port nor a URL")]
    NotAnEndpoint(String),
    /// No endpoint.
    #[error("at least one etcd endpoint is required")]
    NoEndpoint,
    /// An invalid checksum.
    #[error("{0:?} is not a sha256 checksum: 64 hexadecimal digits")]
    NotAChecksum(String),
    /// A value that would end its line.
    #[error("{0:?} contains a line break or another control character")]
    ControlCharacter(String),
    /// A password that every user of the host could read.
    #[error(
        "--etcd-user would put the password into the unit, readable by every user with `ps`; write name:password into a file with mode 0600 and use --etcd-user-file"
    )]
    PasswordInFlags,
    /// An invalid user file.
    #[error("the etcd user file must contain name:password")]
    NotAUser,
    /// No PEM file.
    #[error("the {0} is not in PEM format")]
    NotPem(&'static str),
    /// An error of the serializer.
    #[error("cannot write YAML: {0}")]
    Yaml(String),
}

impl std::fmt::Debug for Tls {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("ca", &self.ca)
            .field("cert", &self.cert)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Checks all values.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        match &self.etcd {
            Etcd::Discovery(url) => is_url("discovery URL", url)?,
            Etcd::Elsewhere(endpoints) if endpoints.is_empty() => {
                return Err(ConfigError::NoEndpoint);
            }
            Etcd::Elsewhere(endpoints) => {
                for endpoint in endpoints {
                    is_endpoint(endpoint)?;
                }
            }
        }
        if let Some(tls) = &self.tls {
            for (what, text) in [
                ("CA certificate", &tls.ca),
                ("certificate", &tls.cert),
                ("private key", &tls.key),
            ] {
                if !text.trim_start().starts_with("-----BEGIN ") {
                    return Err(ConfigError::NotPem(what));
                }
            }
        }
        if let Some(binary) = &self.binary {
            is_url("binary's URL", &binary.url)?;
            if binary.sha256.len() != 64 || !binary.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ConfigError::NotAChecksum(binary.sha256.clone()));
            }
        }
        if let Some(user) = &self.etcd_user {
            let is_user = |(name, password): (&str, &str)| !name.is_empty() && !password.is_empty();
            if user.contains(char::is_control) || !user.split_once(':').is_some_and(is_user) {
                return Err(ConfigError::NotAUser);
            }
        }
        for flag in &self.agent_flags {
            one_line(flag)?;
        }
        no_password(&self.agent_flags)
    }
}

/// Refuses a password on a command line, which every user can read.
pub(crate) fn no_password(flags: &[String]) -> Result<(), ConfigError> {
    let shows = |flag: &String| flag == "--etcd-user" || flag.starts_with("--etcd-user=");
    if flags.iter().any(shows) {
        return Err(ConfigError::PasswordInFlags);
    }
    Ok(())
}

/// Refuses control characters, which could end a line of a unit or a script.
pub(crate) fn one_line(text: &str) -> Result<(), ConfigError> {
    if text.chars().any(char::is_control) {
        return Err(ConfigError::ControlCharacter(text.to_owned()));
    }
    Ok(())
}

fn is_url(what: &'static str, value: &str) -> Result<(), ConfigError> {
    let rest = value
        .strip_prefix("https://")
        .or_else(|| value.strip_prefix("http://"));
    // Without characters that are special in a shell or a unit.
    let plain = |b: u8| b.is_ascii_graphic() && !br#"'"\`$<>{}|^"#.contains(&b);
    match rest {
        Some(rest) if !rest.is_empty() && rest.bytes().all(plain) => Ok(()),
        _ => Err(ConfigError::NotAUrl {
            what,
            value: value.to_owned(),
        }),
    }
}

fn is_endpoint(value: &str) -> Result<(), ConfigError> {
    let refused = || ConfigError::NotAnEndpoint(value.to_owned());
    if value.contains("://") {
        return is_url("etcd endpoint", value).map_err(|_| refused());
    }
    let (host, port) = value.rsplit_once(':').ok_or_else(refused)?;
    let host_is_plain = !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".-[]:_".contains(&b));
    if host_is_plain && port.parse::<u16>().is_ok() {
        Ok(())
    } else {
        Err(refused())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(etcd: Etcd) -> Options {
        Options {
            etcd,
            tls: None,
            binary: None,
            etcd_user: None,
            agent_flags: Vec::new(),
        }
    }

    #[test]
    fn endpoints_are_addresses_or_urls() {
        for good in ["10.0.0.1:2379", "https://etcd.example:2379", "[fd00::1]:1"] {
            let options = with(Etcd::Elsewhere(vec![good.into()]));
            assert_eq!(options.check(), Ok(()), "{good}");
        }
        for bad in [
            "10.0.0.1", "a b:1", ":1", "x:99999", "ftp://x", "http://", "a$b:1",
        ] {
            let options = with(Etcd::Elsewhere(vec![bad.into()]));
            assert_eq!(
                options.check(),
                Err(ConfigError::NotAnEndpoint(bad.into())),
                "{bad}"
            );
        }
        assert_eq!(
            with(Etcd::Elsewhere(Vec::new())).check(),
            Err(ConfigError::NoEndpoint)
        );
    }

    #[test]
    fn values_that_could_break_out_are_refused() {
        for bad in [
            "discovery.example",
            "https://a b",
            "https://a/$(id)",
            "https://a\nb",
            "https://a'b",
        ] {
            assert!(with(Etcd::Discovery(bad.into())).check().is_err(), "{bad}");
        }
        let good = with(Etcd::Discovery(
            "https://discovery.example/token?size=3&x=%20".into(),
        ));
        assert_eq!(good.check(), Ok(()));

        let mut options = good.clone();
        options.agent_flags = vec!["--label\n[Install]".into()];
        assert!(options.check().is_err());

        for flags in [
            vec!["--etcd-user=n:p".to_owned()],
            vec!["--etcd-user".to_owned(), "n:p".to_owned()],
        ] {
            let mut options = good.clone();
            options.agent_flags = flags;
            assert_eq!(options.check(), Err(ConfigError::PasswordInFlags));
        }
        for bad in ["", "secret", "n:", ":p", "n:p\nx"] {
            let mut options = good.clone();
            options.etcd_user = Some(bad.into());
            assert_eq!(options.check(), Err(ConfigError::NotAUser), "{bad}");
        }

        let mut options = good.clone();
        options.binary = Some(Binary {
            url: "https://files.example/dokkaa".into(),
            sha256: "1234".into(),
        });
        assert_eq!(
            options.check(),
            Err(ConfigError::NotAChecksum("1234".into()))
        );

        let mut options = good;
        options.tls = Some(Tls {
            ca: "-----BEGIN CERTIFICATE-----".into(),
            cert: "-----BEGIN CERTIFICATE-----".into(),
            key: "secret".into(),
        });
        assert_eq!(options.check(), Err(ConfigError::NotPem("private key")));
        assert!(!format!("{:?}", options.tls).contains("secret"));
    }
}
