//! The host's credentials for registries, from Docker's client configuration.
//!
//! Read anew at each pull, so that `docker login` on the host is enough.
//! Nothing of it is kept, logged or sent anywhere but to the engine.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use engine::Credentials;

/// Under this Docker's configuration keeps the credentials of Docker Hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// The registry of names that name none.
const HUB: &str = "docker.io";
/// The user's name by which a helper says that the secret is an identity token.
const TOKEN: &str = "<token>";
/// How long a helper may take.
const HELPER_DEADLINE: Duration = Duration::from_secs(20);

/// Why the credentials could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file is there and can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not Docker's configuration.
    #[error("can't understand {}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// An entry of `auths` is damaged.
    #[error("the entry of `auths` for `{0}` is not base64 of `user:password`")]
    Entry(String),
    /// A helper could not be run.
    #[error("can't run `{program}`")]
    Helper {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A helper failed.
    #[error("`{program}` failed: {message}")]
    HelperFailed {
        /// The program.
        program: String,
        /// What it said.
        message: String,
    },
}

impl CredentialsError {
    /// With its cause, on one line.
    pub fn chain(&self) -> String {
        use std::error::Error as _;
        match self.source() {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

/// Docker's client configuration, as far as it is about registries.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DockerConfig {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").finish_non_exhaustive()
    }
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// The credentials for a registry (such as `docker.io` or `r.example:5000`); none if the host has none for it.
/// `config` is a directory that holds `config.json`, or that file.
pub async fn lookup(
    config: &Path,
    registry: &str,
) -> Result<Option<Credentials>, CredentialsError> {
    let path = if config.is_dir() {
        config.join("config.json")
    } else {
        config.to_owned()
    };
    let text = match tokio::fs::read(&path).await {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CredentialsError::Read { path, source }),
    };
    let config: DockerConfig =
        serde_json::from_slice(&text).map_err(|source| CredentialsError::Parse { path, source })?;
    if let Some(helper) = config.helper(registry) {
        let program = format!("docker-credential-{helper}");
        let found = ask(&program, server(registry)).await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    config.entry(registry)
}

/// What Docker's configuration and helpers call a registry.
fn server(registry: &str) -> &str {
    if registry == HUB { HUB_KEY } else { registry }
}

/// The registry that a key of the configuration means: `https://r.example/v1/` is `r.example`.
fn registry_of(key: &str) -> &str {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    match bare.split('/').next().unwrap_or(bare) {
        "index.docker.io" | "registry-1.docker.io" => HUB,
        host => host,
    }
}

/// The entry for a registry: under its own name, else under any that means it.
fn find<'a, T>(entries: &'a BTreeMap<String, T>, registry: &str) -> Option<(&'a str, &'a T)> {
    let exact = entries.get_key_value(server(registry));
    let found = exact.or_else(|| entries.iter().find(|(key, _)| registry_of(key) == registry));
    found.map(|(key, entry)| (key.as_str(), entry))
}

impl DockerConfig {
    fn helper(&self, registry: &str) -> Option<&str> {
        let own = find(&self.cred_helpers, registry).map(|(_, helper)| helper);
        own.or(self.creds_store.as_ref())
            .map(String::as_str)
            .filter(|helper| !helper.is_empty())
    }

    fn entry(&self, registry: &str) -> Result<Option<Credentials>, CredentialsError> {
        let Some((key, entry)) = find(&self.auths, registry) else {
            return Ok(None);
        };
        let server = key.to_owned();
        if !entry.identitytoken.is_empty() {
            let token = entry.identitytoken.clone();
            return Ok(Some(Credentials::IdentityToken { token, server }));
        }
        let (username, password) = if entry.auth.is_empty() {
            (entry.username.clone(), entry.password.clone())
        } else {
            decode(&entry.auth).ok_or_else(|| CredentialsError::Entry(key.to_owned()))?
        };
        // With a store, Docker leaves an empty entry that says where one is logged in.
        Ok((!username.is_empty()).then_some(Credentials::Password {
            username,
            password,
            server,
        }))
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    let bytes = STANDARD.decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    let password = password.trim_end_matches('\0');
    Some((username.to_owned(), password.to_owned()))
}

/// Asks a helper.
async fn ask(program: &str, server: &str) -> Result<Option<Credentials>, CredentialsError> {
    let cannot = |source| CredentialsError::Helper {
        program: program.to_owned(),
        source,
    };
    let failed = |message: &str| CredentialsError::HelperFailed {
        program: program.to_owned(),
        message: message.to_owned(),
    };
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(cannot)?;
    let mut input = child.stdin.take();
    let answering = async {
        if let Some(mut input) = input.take() {
            // A helper that does not read what it is asked fails by its own exit code.
            let _ = input.write_all(server.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = timeout(HELPER_DEADLINE, answering)
        .await
        .map_err(|_| failed("no answer in 20 s"))?
        .map_err(cannot)?;
    if !output.status.success() {
        // Helpers speak on standard output; a failure holds no secret.
        let said = String::from_utf8_lossy(&output.stdout);
        let said = said.trim();
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(said));
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&output.stdout).map_err(|_| failed("its answer is not JSON"))?;
    let server = server.to_owned();
    Ok(Some(if answer.username == TOKEN {
        Credentials::IdentityToken {
            token: answer.secret,
            server,
        }
    } else {
        Credentials::Password {
            username: answer.username,
            password: answer.secret,
            server,
        }
    }))
}
