//! Links as text: `service` or `app/service`, each with an optional `:alias`.

use std::fmt;
use std::str::FromStr;

use crate::manifest::Link;
use crate::names::NameError;

/// Error of parsing a link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// An invalid app.
    #[error("app {0}")]
    App(NameError),
    /// An invalid service.
    #[error("service {0}")]
    Service(NameError),
    /// An invalid alias.
    #[error("alias {0}")]
    Alias(NameError),
}

impl FromStr for Link {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let (target, alias) = match text.split_once(':') {
            Some((target, alias)) => (target, Some(alias)),
            None => (text, None),
        };
        let (app, service) = match target.split_once('/') {
            Some((app, service)) => (Some(app), service),
            None => (None, target),
        };
        let app = app.map(str::parse).transpose().map_err(LinkError::App)?;
        let service = service.parse().map_err(LinkError::Service)?;
        let alias = alias
            .map(str::parse)
            .transpose()
            .map_err(LinkError::Alias)?;
        // An alias that repeats the name is dropped: equal links are spelt alike.
        let alias = alias.filter(|alias| *alias != service);
        Ok(Self {
            app,
            service,
            alias,
        })
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(app) = &self.app {
            write!(f, "{app}/")?;
        }
        write!(f, "{}", self.service)?;
        if let Some(alias) = &self.alias {
            write!(f, ":{alias}")?;
        }
        Ok(())
    }
}

impl serde::Serialize for Link {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_four_forms_read_back() {
        for text in ["db", "shop/db", "db:main", "shop/db:main"] {
            let link: Link = text.parse().expect(text);
            assert_eq!(link.to_string(), text);
        }
        let same: Link = "shop/db:db".parse().expect("valid");
        assert_eq!(same.to_string(), "shop/db");
    }

    #[test]
    fn errors_name_the_invalid_part() {
        let error = |text: &str| text.parse::<Link>().expect_err(text).to_string();
        assert!(error("").starts_with("service is empty"));
        assert!(error("/db").starts_with("app is empty"));
        assert!(error("db:").starts_with("alias is empty"));
        assert!(error("a/b/c").starts_with("service `b/c` is not a DNS label"));
        assert!(error("a:b:c").starts_with("alias `b:c` is not a DNS label"));
        assert!(error("DB").starts_with("service `DB` is not a DNS label"));
    }
}
