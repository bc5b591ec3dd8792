//! The host's credentials for registries, from Docker's client configuration.
//!
//! Read anew at each pull, so that `docker login` on the host is enough.
//! Nothing of it is kept, logged or sent anywhere but to the engine.

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

#[cfg(test)]
mod tests {
    use super::*;

    fn password(username: &str, password: &str, server: &str) -> Credentials {
        Credentials::Password {
            username: username.to_owned(),
            password: password.to_owned(),
            server: server.to_owned(),
        }
    }

    async fn in_config(json: &str, registry: &str) -> Option<Credentials> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.json");
        std::fs::write(&file, json).expect("written");
        let by_folder = lookup(folder.path(), registry).await.expect("readable");
        let by_file = lookup(&file, registry).await.expect("readable");
        assert_eq!(by_folder, by_file);
        by_folder
    }

    #[tokio::test]
    async fn a_login_is_found_under_every_spelling_of_its_registry() {
        // user:pa:ss
        let entry = r#"{"auth": "dXNlcjpwYTpzcw=="}"#;
        for (key, registry) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("docker.io", "docker.io"),
            ("r.example:5000", "r.example:5000"),
            ("https://r.example:5000/v2/", "r.example:5000"),
            ("http://r.example:5000", "r.example:5000"),
        ] {
            let json = format!(r#"{{"auths": {{"{key}": {entry}, "other.example": {entry}}}}}"#);
            let found = in_config(&json, registry).await;
            assert_eq!(found, Some(password("user", "pa:ss", key)), "{key}");
        }
        let json = format!(r#"{{"auths": {{"r.example": {entry}}}}}"#);
        assert_eq!(in_config(&json, "r.example:5000").await, None);
        assert_eq!(in_config(&json, "docker.io").await, None);
    }

    #[tokio::test]
    async fn tokens_plain_entries_and_empty_ones_are_understood() {
        let token =
            r#"{"auths": {"r.example": {"auth": "dXNlcjpwYTpzcw==", "identitytoken": "t0"}}}"#;
        let expected = Credentials::IdentityToken {
            token: "t0".to_owned(),
            server: "r.example".to_owned(),
        };
        assert_eq!(in_config(token, "r.example").await, Some(expected));
        let plain =
            r#"{"auths": {"r.example": {"username": "u", "password": "p"}}, "psFormat": "x"}"#;
        let expected = password("u", "p", "r.example");
        assert_eq!(in_config(plain, "r.example").await, Some(expected));
        let empty = r#"{"auths": {"r.example": {}}}"#;
        assert_eq!(in_config(empty, "r.example").await, None);
    }

    #[tokio::test]
    async fn no_file_is_no_login_and_a_damaged_one_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let nothing = lookup(folder.path(), "docker.io").await.expect("none");
        assert_eq!(nothing, None);
        let file = folder.path().join("config.json");
        for (text, part) in [
            ("{", "can't understand"),
            (r#"{"auths": {"r.example": {"auth": "%"}}}"#, "r.example"),
        ] {
            std::fs::write(&file, text).expect("written");
            let error = lookup(&file, "r.example").await.expect_err("damaged");
            assert!(error.chain().contains(part), "{}", error.chain());
        }
    }

    #[tokio::test]
    async fn a_helper_that_is_missing_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.json");
        std::fs::write(&file, r#"{"credsStore": "no-such-helper"}"#).expect("written");
        let error = lookup(&file, "docker.io").await.expect_err("missing");
        assert!(error.chain().contains("docker-credential-no-such-helper"));
    }

    async fn helped(script: &str) -> Result<Option<Credentials>, CredentialsError> {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("docker-credential-test");
        // Written by a process of its own: a file that a sibling test's child still holds open can't be run.
        let written = std::process::Command::new("sh")
            .args([
                "-c",
                "printf '#!/bin/sh\n%s\n' \"$1\" > \"$2\"",
                "sh",
                script,
            ])
            .arg(&program)
            .status()
            .expect("a shell");
        assert!(written.success());
        let runnable = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&program, runnable).expect("ours");
        ask(&program.to_string_lossy(), "r.example").await
    }

    #[tokio::test]
    async fn a_helper_is_asked_for_the_registry_and_answers_in_json() {
        let echo = r#"read server; echo "{\"ServerURL\":\"$server\",\"Username\":\"u-$1-$server\",\"Secret\":\"p\"}""#;
        let found = helped(echo).await.expect("an answer");
        assert_eq!(found, Some(password("u-get-r.example", "p", "r.example")));
        let token = r#"echo '{"ServerURL":"r.example","Username":"<token>","Secret":"t"}'"#;
        let expected = Credentials::IdentityToken {
            token: "t".to_owned(),
            server: "r.example".to_owned(),
        };
        assert_eq!(helped(token).await.expect("an answer"), Some(expected));
        let nothing = "echo 'credentials not found in native keychain'; exit 1";
        assert_eq!(helped(nothing).await.expect("an answer"), None);
        let broken = helped("echo locked; exit 1").await.expect_err("broken");
        assert!(broken.chain().contains("locked"));
        assert!(helped("echo no json").await.is_err());
    }

    #[test]
    fn a_registrys_own_helper_goes_before_the_store() {
        let config: DockerConfig = serde_json::from_str(
            r#"{"credsStore": "store", "credHelpers": {"r.example": "own", "gcr.io": ""}}"#,
        )
        .expect("valid");
        assert_eq!(config.helper("r.example"), Some("own"));
        assert_eq!(config.helper("docker.io"), Some("store"));
        assert_eq!(config.helper("gcr.io"), None);
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", password("u", "hidden", "r.example"));
        assert!(shown.contains('u') && !shown.contains("hidden"));
    }
}
