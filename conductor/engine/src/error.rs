//! Why the engine did not do what it was asked, classed by whose fault it is.
//!
//! Docker says little by status code: a missing host path is a 400, a taken
//! port a 500. So the class comes from the text too, of engines from 20.10 on.

use std::time::Duration;

use model::Fault;

/// What was asked for when something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Pull of an image.
    Pull,
    /// Making a container.
    Create,
    /// Starting one.
    Start,
    /// Anything else.
    Other,
}

/// What is wrong with the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostFault {
    /// An address and port that is to be published is in use.
    PortTaken,
    /// An address that is to be published is not this machine's.
    AddressMissing,
    /// A path or volume that is to be mounted does not exist or does not fit.
    Mount,
    /// The disk is full, or can't be written.
    NoSpace,
    /// Not enough memory, processes or other resources.
    Resources,
    /// The network to join does not exist.
    Network,
    /// The registry can't be reached from here.
    RegistryUnreachable,
    /// The image was decided on as another host's own, and this one has none of that name.
    ImageMissing,
}

/// Why the engine did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// There is no such container or image, here or in its registry.
    #[error("{0}")]
    NotFound(String),
    /// Something else is going on with the same object; try again.
    #[error("{0}")]
    Conflict(String),
    /// It can't work on any host: the manifest's fault.
    #[error("{0}")]
    BadRequest(String),
    /// It can't work on this host as it is now.
    #[error("{message}")]
    HostFault {
        /// What is wrong.
        fault: HostFault,
        /// What the engine says.
        message: String,
    },
    /// The registry wants (other) credentials, or has no such repository: it does not say which.
    #[error("{0}")]
    Auth(String),
    /// The registry wants us to come back later.
    #[error("{message}")]
    RateLimited {
        /// When, if it said so.
        retry_after: Option<Duration>,
        /// What it said.
        message: String,
    },
    /// The engine did not answer, or not in time. What was asked may have happened.
    #[error("the Docker Engine does not answer: {0}")]
    Unresponsive(String),
    /// The engine failed in a way that is not known; worth another try.
    #[error("{0}")]
    Engine(String),
}

impl EngineError {
    /// The class of what the engine answered to `operation`.
    pub fn from_answer(operation: Operation, status: u16, message: &str) -> Self {
        let text = message.trim().to_owned();
        let lower = text.to_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        if has(TOO_MANY) || status == 429 {
            return Self::RateLimited {
                retry_after: retry_after(&lower),
                message: text,
            };
        }
        if let Some((fault, _)) = HOST_FAULTS.iter().find(|(_, words)| has(words)) {
            return Self::HostFault {
                fault: *fault,
                message: text,
            };
        }
        // Its garbage collector was quicker than a pull, or two pulls of the same layer met; another try fetches it anew.
        if lower.contains("content digest") && lower.contains("not found") {
            return Self::Conflict(text);
        }
        match operation {
            // It was here a moment ago: somebody has removed it since, and another try pulls it.
            Operation::Create if lower.contains("no such image") => Self::Conflict(text),
            Operation::Pull if has(NO_LOGIN) || status == 401 || status == 403 => Self::Auth(text),
            Operation::Pull if has(NO_SUCH_IMAGE) || status == 404 => Self::NotFound(text),
            Operation::Pull if has(BAD_IMAGE) || status == 400 => Self::BadRequest(text),
            Operation::Pull if has(UNREACHABLE) => Self::HostFault {
                fault: HostFault::RegistryUnreachable,
                message: text,
            },
            Operation::Create | Operation::Start if no_network(&lower) => Self::HostFault {
                fault: HostFault::Network,
                message: text,
            },
            Operation::Create | Operation::Start if has(BAD_CONTAINER) => Self::BadRequest(text),
            _ => match status {
                // It is about the version that we speak, not about what was asked.
                400 if has(&["client version"]) => Self::Engine(text),
                400 => Self::BadRequest(text),
                404 => Self::NotFound(text),
                409 => Self::Conflict(text),
                _ => Self::Engine(text),
            },
        }
    }

    /// Who has to change something before another try can help.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NotFound(_) | Self::BadRequest(_) => Fault::Manifest,
            Self::HostFault { .. } | Self::Auth(_) => Fault::Host,
            Self::Conflict(_) | Self::RateLimited { .. } | Self::Unresponsive(_) => Fault::Passing,
            Self::Engine(_) => Fault::Unknown,
        }
    }

    /// An error of a host, in our own words.
    pub fn host(fault: HostFault, message: impl Into<String>) -> Self {
        Self::HostFault {
            fault,
            message: message.into(),
        }
    }
}

const TOO_MANY: &[&str] = &["toomanyrequests", "too many requests", "pull rate limit"];

/// The first that fits is it.
const HOST_FAULTS: &[(HostFault, &[&str])] = &[
    (
        HostFault::NoSpace,
        &[
            "no space left on device",
            "disk quota exceeded",
            "read-only file system",
        ],
    ),
    (
        HostFault::PortTaken,
        &[
            "port is already allocated",
            "address already in use",
            "eaddrinuse",
            "ports are not available",
        ],
    ),
    (
        HostFault::AddressMissing,
        &["cannot assign requested address"],
    ),
    (
        HostFault::Mount,
        &[
            "bind source path does not exist",
            "are you trying to mount a directory onto a file",
            "error while creating mount source path",
            "error mounting \"",
            "failed to mount local volume",
            "error while mounting volume",
        ],
    ),
    (
        HostFault::Resources,
        &[
            "cannot allocate memory",
            "resource temporarily unavailable",
            "too many open files",
            "error setting rlimit",
            "setrlimit `",
            "no available ipv4 addresses",
            "no available addresses on this pool",
            "range of cpus is from",
        ],
    ),
];

/// A registry does not say whether the repository is missing or the login.
const NO_LOGIN: &[&str] = &[
    "unauthorized",
    "no basic auth credentials",
    "pull access denied",
    "requested access to the resource is denied",
    "authentication required",
    "incorrect username or password",
    "failed to authorize",
    "failed to fetch anonymous token",
    "403 forbidden",
];

const NO_SUCH_IMAGE: &[&str] = &[
    "manifest unknown",
    "not found: manifest",
    "name unknown",
    "repository name not known",
    ": not found",
    "no such image",
];

const BAD_IMAGE: &[&str] = &[
    "invalid reference format",
    "no matching manifest for",
    "no match for platform",
    "unsupported media type",
    "mediatype",
];

const UNREACHABLE: &[&str] = &[
    "dial tcp",
    "no such host",
    "connection refused",
    "connection reset",
    "i/o timeout",
    "tls handshake",
    "client.timeout",
    "context deadline exceeded",
    "request canceled",
    "x509:",
    "server gave http response to https client",
    "unexpected http status: 5",
    "unexpected status code 5",
    "unexpected eof",
    ": eof",
];

const BAD_CONTAINER: &[&str] = &[
    "executable file not found",
    "no such file or directory",
    "permission denied",
    "exec format error",
    "is a directory",
    "is not a directory",
    "unable to find user",
    "unable to find group",
    "no matching entries in",
    "no command specified",
    "invalid reference format",
    "invalid signal",
];

/// `network NAME not found`
fn no_network(lower: &str) -> bool {
    lower.contains("network ") && lower.contains(" not found")
}

/// What GitHub's and Google's registries write: `toomanyrequests: retry-after: 1.5s, allowed: 44000/minute`.
fn retry_after(lower: &str) -> Option<Duration> {
    let (_, rest) = lower.split_once("retry-after:")?;
    let text = rest.trim_start();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..]
        .split(|c: char| !c.is_alphabetic() && c != 'µ')
        .next()?;
    let seconds = match unit {
        "" | "s" => number,
        "ms" => number / 1e3,
        "µs" | "us" => number / 1e6,
        "m" => number * 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(operation: Operation, status: u16, message: &str) -> String {
        match EngineError::from_answer(operation, status, message) {
            EngineError::NotFound(_) => "not-found".to_owned(),
            EngineError::Conflict(_) => "conflict".to_owned(),
            EngineError::BadRequest(_) => "bad-request".to_owned(),
            EngineError::HostFault { fault, .. } => format!("{fault:?}"),
            EngineError::Auth(_) => "auth".to_owned(),
            EngineError::RateLimited { retry_after, .. } => format!("rate-limited {retry_after:?}"),
            EngineError::Unresponsive(_) => "unresponsive".to_owned(),
            EngineError::Engine(_) => "engine".to_owned(),
        }
    }

    #[test]
    fn answers_of_engines_fall_into_their_class() {
        use Operation::{Create, Other, Pull, Start};
        let runc = |rest: &str| {
            format!(
                "failed to create shim task: OCI runtime create failed: runc create failed: unable to start \
                 container process: {rest}: unknown"
            )
        };
        let network = |rest: &str| {
            format!("driver failed programming external connectivity on endpoint x (4ae): {rest}")
        };
        let table: &[(Operation, u16, String, &str)] = &[
            (Create, 404, "No such image: nosuch:1".into(), "conflict"),
            (Create, 400, "invalid reference format: repository name must be lowercase".into(), "bad-request"),
            (Create, 400, "No command specified".into(), "bad-request"),
            (Create, 400, "invalid mount config for type \"bind\": bind source path does not exist: /no".into(), "Mount"),
            (Create, 400, "invalid mount config for type \"bind\": invalid mount path: 'x' mount path must be absolute".into(), "bad-request"),
            (Create, 400, "Minimum memory limit allowed is 6MB".into(), "bad-request"),
            (Create, 400, "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available".into(), "Resources"),
            (Create, 400, "Invalid signal: SIGFOO".into(), "bad-request"),
            (Create, 500, "Cannot mkdir: /bin/busybox is not a directory".into(), "bad-request"),
            (Create, 409, "Conflict. The container name \"/a\" is already in use by container \"b2\".".into(), "conflict"),
            (Create, 500, "mkdir /var/lib/docker/overlay2/x: no space left on device".into(), "NoSpace"),
            (Start, 400, runc("exec: \"/bin/nope\": stat /bin/nope: no such file or directory"), "bad-request"),
            (Start, 400, runc("exec: \"nope\": executable file not found in $PATH"), "bad-request"),
            (Start, 500, runc("exec: \"/\": permission denied"), "bad-request"),
            (Start, 400, runc("error during container init: error mounting \"/etc/passwd\" to rootfs at \"/bin\": not a directory"), "Mount"),
            (Start, 400, runc("error setting rlimits for ready process: error setting rlimit type 7: operation not permitted"), "Resources"),
            (Start, 500, "setrlimit `RLIMIT_NOFILE`: Operation not permitted: OCI permission denied".into(), "Resources"),
            (Start, 500, "unable to find user nobodyhere: no matching entries in passwd file".into(), "bad-request"),
            (Start, 500, network("Bind for 127.0.0.9:23456 failed: port is already allocated"), "PortTaken"),
            (Start, 500, network("Error starting userland proxy: listen tcp4 127.0.0.8:23457: bind: address already in use"), "PortTaken"),
            (Start, 500, network("failed to bind host port for 0.0.0.0:7148:172.18.0.2:7148/tcp: address already in use"), "PortTaken"),
            (Start, 500, network("Error starting userland proxy: listen tcp4 10.77.1.1:1: bind: cannot assign requested address"), "AddressMissing"),
            (Start, 404, "network nonet not found".into(), "Network"),
            (Start, 404, "No such container: x".into(), "not-found"),
            (Start, 403, "no available IPv4 addresses on this network's address pools: bridge (1)".into(), "Resources"),
            (Start, 500, "fork/exec /usr/bin/containerd-shim: cannot allocate memory".into(), "Resources"),
            (Other, 400, "client version 1.99 is too new. Maximum supported API version is 1.41".into(), "engine"),
            (Other, 409, "Container 8685 is not running".into(), "conflict"),
            (Other, 500, "something else".into(), "engine"),
            (Pull, 404, "pull access denied for x/y, repository does not exist or may require 'docker login': denied: requested access to the resource is denied".into(), "auth"),
            (Pull, 500, "Get https://r.example/v2/x/manifests/1: unauthorized: incorrect username or password".into(), "auth"),
            (Pull, 500, "Head \"http://r.example:5000/v2/x/manifests/1\": no basic auth credentials".into(), "auth"),
            (Pull, 404, "manifest for nginx:nosuch not found: manifest unknown: manifest unknown".into(), "not-found"),
            (Pull, 0, "failed to resolve reference \"docker.io/library/x:1\": docker.io/library/x:1: not found".into(), "not-found"),
            (Pull, 0, "failed to extract layer: content digest sha256:7b8c: not found".into(), "conflict"),
            (Create, 404, "failed to get reader: content digest sha256:7b8c: not found".into(), "conflict"),
            (Pull, 0, "no matching manifest for linux/arm64/v8 in the manifest list entries".into(), "bad-request"),
            (Pull, 400, "invalid reference format: repository name must be lowercase".into(), "bad-request"),
            (Pull, 500, "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused".into(), "RegistryUnreachable"),
            (Pull, 500, "Get \"https://no.example/v2/\": dial tcp: lookup no.example on 10.0.0.53:53: no such host".into(), "RegistryUnreachable"),
            (Pull, 500, "received unexpected HTTP status: 503 Service Unavailable".into(), "RegistryUnreachable"),
            (Pull, 500, "toomanyrequests: You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit".into(), "rate-limited None"),
            (Pull, 500, "toomanyrequests: retry-after: 1.5s, allowed: 44000/minute".into(), "rate-limited Some(1.5s)"),
            (Pull, 429, "toomanyrequests: retry-after: 250µs, allowed: 44000/minute".into(), "rate-limited Some(250µs)"),
            (Pull, 0, "write /var/lib/docker/tmp/GetImageBlob1: no space left on device".into(), "NoSpace"),
        ];
        for (operation, status, message, expected) in table {
            assert_eq!(class(*operation, *status, message), *expected, "{message}");
        }
    }
}
