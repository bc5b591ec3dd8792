//! Whether an engine is one that can be used: on this machine, by a unix socket, as root. Pure.

use std::path::PathBuf;

use crate::EngineInfo;

/// Where an engine listens when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// Why an engine can't be used, with what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotHere {
    /// `tcp://`, `ssh://` …
    #[error(
        "the Docker Engine at `{0}` is not on this machine; dokkaa's agent runs beside its engine: start it there, \
         or give `--docker unix:///var/run/docker.sock`"
    )]
    Remote(String),
    /// Neither a URL nor an absolute path.
    #[error("`{0}` is no engine's address; expected `unix:///var/run/docker.sock`")]
    Odd(String),
    /// Without root.
    #[error(
        "the Docker Engine runs rootless: its containers can't be reached at the bridge; install Docker Engine for \
         root (`apt install docker.io`) and give `--docker unix:///var/run/docker.sock`"
    )]
    Rootless,
    /// In a virtual machine of its own.
    #[error(
        "Docker Desktop runs its engine in a virtual machine of its own; install Docker Engine (`apt install \
         docker.io`) and give `--docker unix:///var/run/docker.sock`"
    )]
    Desktop,
}

/// The socket that `--docker` or `DOCKER_HOST` names.
pub fn socket(address: &str) -> Result<PathBuf, NotHere> {
    let path = match address.split_once("://") {
        None if address.starts_with('/') => address,
        Some(("unix", path)) if path.starts_with('/') => path,
        None | Some(("unix", _)) => return Err(NotHere::Odd(address.to_owned())),
        Some(_) => return Err(NotHere::Remote(address.to_owned())),
    };
    if path.contains("/.docker/desktop/") || path.contains("/.docker/run/") {
        return Err(NotHere::Desktop);
    }
    Ok(PathBuf::from(path))
}

/// Whether the engine that says this of itself shares root and network with this machine.
pub fn check(info: &EngineInfo) -> Result<(), NotHere> {
    if info.rootless {
        return Err(NotHere::Rootless);
    }
    if info.operating_system.contains("Docker Desktop") {
        return Err(NotHere::Desktop);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use model::records::Docker;

    use super::*;

    #[test]
    fn only_a_unix_socket_of_this_machine_will_do() {
        for good in ["unix:///run/docker.sock", "/run/docker.sock"] {
            assert_eq!(socket(good), Ok(PathBuf::from("/run/docker.sock")));
        }
        for remote in [
            "tcp://10.0.0.1:2375",
            "ssh://root@host",
            "http://localhost:2375",
        ] {
            assert_eq!(socket(remote), Err(NotHere::Remote(remote.to_owned())));
        }
        for odd in ["", "docker.sock", "unix://docker.sock", "10.0.0.1:2375"] {
            assert_eq!(socket(odd), Err(NotHere::Odd(odd.to_owned())));
        }
        assert_eq!(
            socket("unix:///home/u/.docker/desktop/docker.sock"),
            Err(NotHere::Desktop)
        );
    }

    #[test]
    fn rootless_and_desktop_engines_are_refused_by_what_they_say() {
        let info = EngineInfo {
            docker: Docker::default(),
            id: String::new(),
            cpus: 1,
            memory: 1,
            data_root: String::new(),
            rootless: false,
            operating_system: "Debian GNU/Linux 12".to_owned(),
            insecure_registries: Vec::new(),
        };
        assert_eq!(check(&info), Ok(()));
        let rootless = EngineInfo {
            rootless: true,
            ..info.clone()
        };
        assert_eq!(check(&rootless), Err(NotHere::Rootless));
        let desktop = EngineInfo {
            operating_system: "Docker Desktop".to_owned(),
            ..info
        };
        assert_eq!(check(&desktop), Err(NotHere::Desktop));
    }
}
