//! What the harness needs from the machine, and how to get it.
//!
//! Never skips: what is missing is one error that names every missing thing
//! and one command that installs them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::bail;

use crate::binary;

/// A program of the machine and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The name to run.
    pub name: &'static str,
    /// Debian's and Ubuntu's package.
    pub package: &'static str,
}

const fn program(name: &'static str, package: &'static str) -> Program {
    Program { name, package }
}

/// For an etcd.
pub const ETCD: &[Program] = &[
    program("etcd", "etcd-server"),
    program("etcdctl", "etcd-client"),
];

/// For certificates.
pub const TLS: &[Program] = &[program("openssl", "openssl")];

/// For hosts in namespaces.
pub const HOSTS: &[Program] = &[
    program("unshare", "util-linux"),
    program("nsenter", "util-linux"),
    program("setsid", "util-linux"),
    program("ip", "iproute2"),
    program("dockerd", "docker.io"),
    program("docker", "docker.io"),
    program("iptables", "iptables"),
    program("curl", "curl"),
    program("dig", "bind9-dnsutils"),
];

/// For the test images.
pub const IMAGES: &[Program] = &[
    program("nginx", "nginx-light"),
    program("bash", "bash"),
    program("curl", "curl"),
    program("busybox", "busybox-static"),
    program("ldd", "libc-bin"),
    program("getent", "libc-bin"),
    program("tar", "tar"),
];

/// For programs with either C library.
pub const C_LIBRARIES: &[Program] = &[
    program("cc", "gcc"),
    program("musl-gcc", "musl-tools"),
    program("docker", "docker.io"),
];

/// For metrics as Prometheus wants them.
pub const METRICS: &[Program] = &[program("promtool", "prometheus")];

/// For a registry with passwords.
pub const REGISTRY: &[Program] = &[
    program("docker-registry", "docker-registry"),
    program("htpasswd", "apache2-utils"),
];

/// Where programs are looked for, here and inside nodes: `$PATH`, the usual
/// folders, and what the set-up has only unpacked.
pub fn path() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let mut path = std::env::var("PATH").unwrap_or_default();
        path.push_str(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let tools = binary::target_folder().join("tools");
        write!(path, ":{0}/usr/bin:{0}/usr/sbin", tools.display()).ok();
        path
    })
}

/// The full path of a program.
pub fn find(name: &str) -> Option<PathBuf> {
    path()
        .split(':')
        .filter(|folder| folder.starts_with('/'))
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
}

/// All of `programs` are here, or one error with the command that installs
/// what is missing.
pub fn check(programs: &[&[Program]]) -> anyhow::Result<()> {
    let missing: Vec<Program> = programs
        .iter()
        .flat_map(|group| group.iter().copied())
        .filter(|program| find(program.name).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("{}", explain(&missing));
}

/// Where the set-up has unpacked Docker and etcd of a newer Debian, or an error
/// with the command that does it.
pub fn root(suite: &str) -> anyhow::Result<PathBuf> {
    let root = binary::target_folder().join("roots").join(suite);
    if root.is_dir() {
        return Ok(root);
    }
    bail!(
        "Docker and etcd of Debian {suite} are not in {}; unpack them with: \
         scripts/setup.sh up test matrix",
        root.display()
    );
}

/// This process may make namespaces, or an error that says what to do.
pub fn check_root() -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "hosts in namespaces need root: run the same command as root \
         (`sudo -E env PATH=\"$PATH\" make test`)"
    );
}

fn explain(missing: &[Program]) -> String {
    let mut names: Vec<&str> = missing.iter().map(|program| program.name).collect();
    let mut packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
    for list in [&mut names, &mut packages] {
        list.sort_unstable();
        list.dedup();
    }
    format!(
        "missing on this machine: {}; install with: scripts/setup.sh up test \
         (Debian's packages: {})",
        names.join(", "),
        packages.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_the_command_that_installs_it() {
        let text = explain(&[program("b", "pb"), program("a", "p"), program("a2", "p")]);
        assert!(
            text.starts_with("missing on this machine: a, a2, b; "),
            "{text}"
        );
        assert!(text.contains("packages: p, pb)"), "{text}");
    }

    #[test]
    fn a_program_that_is_here_is_found_by_its_path() {
        let sh = find("sh").expect("a shell");
        assert!(sh.is_file());
        assert!(find("no-such-program-anywhere").is_none());
    }
}
