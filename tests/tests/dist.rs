//! The packages of `make dist`, made of a program that was built already.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use dokkaa_tests::binary;

/// Times of the files in the packages.
const EPOCH: &str = "1700000000";

#[test]
fn packing_twice_gives_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = pack(folder.path(), "first", "022");
    let second = pack(folder.path(), "a second/place", "077");
    let sums = |out: &Path| std::fs::read_to_string(out.join("SHA256SUMS")).expect("sums");
    assert_eq!(sums(&first).lines().count(), 3, "{}", sums(&first));
    assert_eq!(sums(&first), sums(&second));

    let package = package_in(&first);
    let listed = ran("dpkg-deb", &["--contents"], &package);
    for line in listed.lines() {
        assert!(line.contains(" root/root "), "{line}");
        assert!(line.contains("2023-11-14 "), "{line}");
    }
    for file in [
        "-rwxr-xr-x ./usr/bin/dokkaa",
        "-rw-r--r-- ./usr/lib/systemd/system/dokkaa.service",
        "-rw-r--r-- ./usr/share/bash-completion/completions/dokkaa",
        "-rw-r--r-- ./usr/share/zsh/vendor-completions/_dokkaa",
        "-rw-r--r-- ./usr/share/fish/vendor_completions.d/dokkaa.fish",
        "-rw-r--r-- ./usr/share/man/man1/dokkaa.1.gz",
        "-rw-r--r-- ./usr/share/man/man1/dokkaa-apply.1.gz",
        "-rw-r--r-- ./usr/share/doc/dokkaa/LICENSE-MIT",
        "-rw-r--r-- ./usr/share/doc/dokkaa/LICENSE-APACHE",
    ] {
        let (mode, path) = file.split_once(' ').expect("two words");
        let is_there = |line: &str| line.starts_with(mode) && line.ends_with(&format!(" {path}"));
        assert!(listed.lines().any(is_there), "{file} is not in\n{listed}");
    }
    // A link would enable the unit.
    assert!(!listed.contains(".wants/"), "{listed}");
    let fields = ran("dpkg-deb", &["--field"], &package);
    assert!(!fields.contains("\nDepends:"), "{fields}");
    assert!(
        fields.contains("\nRecommends: docker.io | docker-ce\n"),
        "{fields}"
    );
}

#[test]
fn the_package_s_unit_runs_the_package_s_program() {
    let folder = tempfile::tempdir().expect("a folder");
    let package = package_in(&pack(folder.path(), "out", "022"));
    let unpacked = folder.path().join("unpacked");
    let ended = Command::new("dpkg-deb")
        .arg("--raw-extract")
        .args([&package, &unpacked])
        .status();
    assert!(ended.expect("dpkg-deb").success());
    let unit = unpacked.join("usr/lib/systemd/system/dokkaa.service");
    let unit = std::fs::read_to_string(unit).expect("a unit");
    for line in [
        "ExecStart=/usr/bin/dokkaa up",
        "EnvironmentFile=-/etc/default/dokkaa",
    ] {
        assert!(unit.lines().any(|has| has == line), "{unit}");
    }
    for script in ["postinst", "prerm", "postrm"] {
        ran("sh", &["-n"], &unpacked.join("DEBIAN").join(script));
    }
    // What no test may do here, since it is of this machine: look into /usr/local and /var/lib.
    for (script, says) in [
        ("postinst", "/usr/local/bin/dokkaa stays"),
        ("prerm", "dokkaa down --purge"),
    ] {
        let script = unpacked.join("DEBIAN").join(script);
        let script = std::fs::read_to_string(script).expect("a script");
        assert!(script.contains(says), "{script}");
    }
}

fn package_in(out: &Path) -> PathBuf {
    out.read_dir()
        .expect("a folder")
        .map(|file| file.expect("a file").path())
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .expect("a package")
}

/// Packs into a folder below, with files that are made under this umask.
fn pack(folder: &Path, name: &str, umask: &str) -> PathBuf {
    // The same program without its size: one that runs it.
    let program = folder.join("dokkaa");
    let tested = binary::dokkaa().expect("dokkaa");
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", tested.display());
    std::fs::write(&program, script).expect("written");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&program, mode).expect("changed");

    let out = folder.join(name);
    let packed = Command::new("bash")
        .args(["-c", &format!("umask {umask}; exec ../scripts/dist.sh")])
        .env("PROGRAM", &program)
        .env("OUT", &out)
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .output()
        .expect("bash");
    assert!(
        packed.status.success(),
        "{}",
        String::from_utf8_lossy(&packed.stderr)
    );
    out
}

fn ran(program: &str, words: &[&str], file: &Path) -> String {
    let output = Command::new(program)
        .args(words)
        .arg(file)
        .env("TZ", "UTC")
        .output()
        .expect(program);
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text")
}
