//! Logins as Docker's client and its helpers keep them.

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
    let token = r#"{"auths": {"r.example": {"auth": "dXNlcjpwYTpzcw==", "identitytoken": "t0"}}}"#;
    let expected = Credentials::IdentityToken {
        token: "t0".to_owned(),
        server: "r.example".to_owned(),
    };
    assert_eq!(in_config(token, "r.example").await, Some(expected));
    let plain = r#"{"auths": {"r.example": {"username": "u", "password": "p"}}, "psFormat": "x"}"#;
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
