//! Errors as in etcd v2: number, message, cause and index.

use axum::http::StatusCode;
use serde::Serialize;
use store::kv::KvError;
use tracing::warn;

/// etcd's error numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// 100
    KeyNotFound,
    /// 101
    CompareFailed,
    /// 102
    NotFile,
    /// 104
    NotDir,
    /// 105
    KeyExists,
    /// 107
    RootReadOnly,
    /// 108
    DirNotEmpty,
    /// 110
    Unauthorized,
    /// 201
    PrevValueRequired,
    /// 202
    TtlNotANumber,
    /// 203
    IndexNotANumber,
    /// 209
    InvalidField,
    /// 210
    InvalidForm,
    /// 211
    RefreshValue,
    /// 212
    RefreshTtlRequired,
    /// 300
    RaftInternal,
    /// 301
    LeaderElection,
    /// 401
    EventIndexCleared,
}

impl ErrorCode {
    fn facts(self) -> (u16, &'static str, StatusCode) {
        use StatusCode as S;
        match self {
            Self::KeyNotFound => (100, "Key not found", S::NOT_FOUND),
            Self::CompareFailed => (101, "Compare failed", S::PRECONDITION_FAILED),
            Self::NotFile => (102, "Not a file", S::FORBIDDEN),
            Self::NotDir => (104, "Not a directory", S::BAD_REQUEST),
            Self::KeyExists => (105, "Key already exists", S::PRECONDITION_FAILED),
            Self::RootReadOnly => (107, "Root is read only", S::BAD_REQUEST),
            Self::DirNotEmpty => (108, "Directory not empty", S::FORBIDDEN),
            // etcd says 401; asking for a password would send clients the wrong way.
            Self::Unauthorized => (
                110,
                "The request requires user authentication",
                S::FORBIDDEN,
            ),
            Self::PrevValueRequired => (201, "PrevValue is Required in POST form", S::BAD_REQUEST),
            Self::TtlNotANumber => (
                202,
                "The given TTL in POST form is not a number",
                S::BAD_REQUEST,
            ),
            Self::IndexNotANumber => (
                203,
                "The given index in POST form is not a number",
                S::BAD_REQUEST,
            ),
            Self::InvalidField => (209, "Invalid field", S::BAD_REQUEST),
            Self::InvalidForm => (210, "Invalid POST form", S::BAD_REQUEST),
            Self::RefreshValue => (211, "Value provided on refresh", S::BAD_REQUEST),
            Self::RefreshTtlRequired => (212, "A TTL must be provided on refresh", S::BAD_REQUEST),
            Self::RaftInternal => (300, "Raft Internal Error", S::INTERNAL_SERVER_ERROR),
            Self::LeaderElection => (301, "During Leader Election", S::INTERNAL_SERVER_ERROR),
            Self::EventIndexCleared => (
                401,
                "The event in requested index is outdated and cleared",
                S::BAD_REQUEST,
            ),
        }
    }
}

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {cause}")]
pub struct V2Error {
    /// Its number.
    pub code: ErrorCode,
    /// Cause.
    pub cause: String,
    /// Revision of the store; 0 if unknown.
    pub index: i64,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "errorCode")]
    code: u16,
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    cause: &'a str,
    index: i64,
}

impl V2Error {
    /// An error found in the request itself.
    pub fn request(code: ErrorCode, cause: impl Into<String>) -> Self {
        Self::at(code, cause, 0)
    }

    /// An error found in the store at a revision.
    pub fn at(code: ErrorCode, cause: impl Into<String>, index: i64) -> Self {
        Self {
            code,
            cause: cause.into(),
            index,
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.code.facts().2
    }

    /// The JSON body.
    pub fn body(&self) -> Vec<u8> {
        let (code, message, _) = self.code.facts();
        super::json::line(&Body {
            code,
            message,
            cause: &self.cause,
            index: self.index,
        })
    }
}

/// etcd did not answer a read: nothing was written.
pub(super) fn unanswered(error: KvError) -> V2Error {
    let cause = match &error {
        KvError::Unavailable(_) => "etcd does not answer",
        KvError::Refused(reason) => reason,
        KvError::NoSpace => "etcd is out of space (alarm NOSPACE); only deletions are accepted",
        KvError::Compacted | KvError::LeaseNotFound => "unexpected answer of etcd",
    };
    warn!(%error, "etcd request failed");
    V2Error::request(ErrorCode::RaftInternal, cause)
}
