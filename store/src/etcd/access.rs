//! What etcd's and TLS's errors about access mean, and the command that helps.

use manifests::keys::{WATCH_END, WATCH_START};

use super::own_certificate::OwnCertificate;
use crate::kv::KvError;

/// A refusal in etcd's words, and what they mean.
pub(super) fn refused(message: &str) -> KvError {
    KvError::Refused(match meaning(message) {
        Some(meaning) => format!("{message}: {meaning}"),
        None => message.to_owned(),
    })
}

/// Of a refusal because of user, password or role.
fn meaning(message: &str) -> Option<String> {
    if message.contains("permission denied") {
        Some(format!(
            "the roles of this host's etcd user lack keys; one of them needs the whole range, a prefix each is not \
             enough: `etcdctl role grant-permission ROLE readwrite {WATCH_START} {WATCH_END}`"
        ))
    } else if message.contains("authentication failed") {
        Some(
            "the user or the password in --etcd-user-file is wrong; to set another one: `etcdctl user passwd NAME`"
                .to_owned(),
        )
    } else if message.contains("user name is empty") {
        Some("etcd's authentication is on: give user and password with --etcd-user-file".to_owned())
    } else {
        None
    }
}

/// A TLS handshake that failed because of a certificate's dates, or because etcd does not take the client's.
pub(super) fn certificate(why: &str, own: Option<&OwnCertificate>) -> Option<&'static str> {
    if own.is_some_and(OwnCertificate::has_expired) {
        return Some(
            "this host's certificate has expired: give the agent a new --etcd-cert and restart it; its end: \
             `openssl x509 -noout -enddate -in FILE`",
        );
    }
    // rustls's own words for what etcd showed, then the alert by which etcd says what it thinks of ours.
    if why.contains("invalid peer certificate: Expired")
        || why.contains("invalid peer certificate: certificate expired")
    {
        Some(
            "etcd's certificate has expired; put a new one into its --cert-file, which etcd reads again by itself; its \
             end: `openssl x509 -noout -enddate -in FILE`",
        )
    } else if why.contains("received fatal alert") && why.to_lowercase().contains("badcertificate")
    {
        Some("etcd does not take this host's certificate: it is not of etcd's --trusted-ca-file")
    } else {
        None
    }
}
