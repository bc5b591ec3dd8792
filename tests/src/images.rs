//! The test images, made of this machine's own packages: no registry needed.
//!
//! `dockerfile/nginx` and `dockerfile/ubuntu` are those of the tutorial (real
//! nginx, bash and curl), `busybox` is for everything else. They are one
//! archive that is built once and kept in the folder of cargo's output; an
//! image has the same id on every engine that loads it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::binary;
use crate::needs;
use crate::process::Ran;

/// The nginx of the tutorial.
pub const NGINX: &str = "dockerfile/nginx";
/// The image with bash and curl of the tutorial.
pub const UBUNTU: &str = "dockerfile/ubuntu";
/// Shell, httpd, nc, wget.
pub const BUSYBOX: &str = "busybox";
/// What the page of [`NGINX`] says.
pub const WELCOME: &str = "Welcome to nginx!";

const PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title></head>\n\
                    <body><h1>Welcome to nginx!</h1></body></html>\n";

const NGINX_CONF: &str = "user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr;
events { worker_connections 256; }
http {
    access_log /dev/stdout;
    default_type text/html;
    server { listen 80 default_server; root /usr/share/nginx/html; }
}
";

/// A layer: what it adds to the one below.
struct Layer {
    programs: &'static [&'static str],
    folders: &'static [&'static str],
    files: &'static [(&'static str, &'static str)],
    /// A link in `/bin` for each of busybox's applets.
    applets: bool,
}

const BASE: Layer = Layer {
    programs: &["busybox"],
    folders: &["etc", "root", "run", "tmp", "var/log", "var/lib"],
    files: &[
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\n\
             nobody:x:65534:65534::/:/bin/sh\n",
        ),
        ("etc/group", "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n"),
        ("etc/nsswitch.conf", "passwd: files\nhosts: files dns\n"),
    ],
    applets: true,
};

const NGINX_LAYER: Layer = Layer {
    programs: &["nginx"],
    folders: &["var/log/nginx", "var/lib/nginx", "usr/share/nginx/html"],
    files: &[
        ("etc/nginx/nginx.conf", NGINX_CONF),
        ("usr/share/nginx/html/index.html", PAGE),
    ],
    applets: false,
};

const UBUNTU_LAYER: Layer = Layer {
    programs: &["bash", "curl", "getent"],
    folders: &[],
    files: &[],
    applets: false,
};

/// The archive for `docker load`; built if it is not there yet.
pub fn archive() -> anyhow::Result<PathBuf> {
    needs::check(&[needs::IMAGES])?;
    let folder = binary::target_folder().join("dokkaa-test-images");
    fs::create_dir_all(&folder)?;
    let lock = fs::File::create(folder.join("lock"))?;
    // Several test programs may start at once.
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    let archive = folder.join(format!("{}.tar", recipe_id()?));
    if !archive.is_file() {
        let work = tempfile::tempdir_in(&folder)?;
        let built = build(work.path()).context("building the test images")?;
        fs::rename(built, &archive)?;
    }
    Ok(archive)
}

/// Changes with this file and with the programs that go into the images.
fn recipe_id() -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    hash.update(include_str!("images.rs"));
    for layer in [&BASE, &NGINX_LAYER, &UBUNTU_LAYER] {
        for name in layer.programs {
            let path = program(name)?;
            let meta = fs::metadata(&path)?;
            hash.update(format!(
                "{} {} {}\n",
                path.display(),
                meta.len(),
                meta.mtime()
            ));
        }
    }
    Ok(hex(&hash.finalize())[..16].to_owned())
}

fn build(work: &Path) -> anyhow::Result<PathBuf> {
    let out = work.join("archive");
    fs::create_dir(&out)?;
    let base = build_layer(work, &out, "base", &BASE)?;
    let nginx = build_layer(work, &out, "nginx", &NGINX_LAYER)?;
    let ubuntu = build_layer(work, &out, "ubuntu", &UBUNTU_LAYER)?;
    let images = [
        (BUSYBOX, vec![&base], json!(["sh"])),
        (
            NGINX,
            vec![&base, &nginx],
            json!(["nginx", "-g", "daemon off;"]),
        ),
        (UBUNTU, vec![&base, &ubuntu], json!(["/bin/bash"])),
    ];
    let mut manifest = Vec::new();
    for (name, layers, command) in images {
        let config = json!({
            "architecture": architecture()?,
            "os": "linux",
            "created": "2000-01-01T00:00:00Z",
            "config": {
                "Cmd": command,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": layers.iter().map(|(_, id)| format!("sha256:{id}")).collect::<Vec<_>>(),
            },
        })
        .to_string();
        let file = format!("{}.json", hex(&Sha256::digest(&config)));
        fs::write(out.join(&file), config)?;
        manifest.push(json!({
            "Config": file,
            "RepoTags": [format!("{name}:latest")],
            "Layers": layers.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(),
        }));
    }
    fs::write(
        out.join("manifest.json"),
        Value::Array(manifest).to_string(),
    )?;
    let archive = work.join("images.tar");
    tar(&out, &archive)?;
    Ok(archive)
}

/// Builds one layer; its path in the archive and the hash of its content.
fn build_layer(
    work: &Path,
    out: &Path,
    name: &str,
    layer: &Layer,
) -> anyhow::Result<(String, String)> {
    let root = work.join(name);
    fs::create_dir(&root)?;
    for part in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(part))?;
        symlink(format!("usr/{part}"), root.join(part))?;
    }
    for folder in layer.folders {
        fs::create_dir_all(root.join(folder))?;
    }
    if root.join("tmp").is_dir() {
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    }
    for (path, text) in layer.files {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, text)?;
    }
    for name in layer.programs {
        let source = program(name)?;
        fs::copy(&source, root.join("usr/bin").join(name))?;
        for library in libraries(&source)? {
            let target = root.join(library.strip_prefix("/").unwrap_or(&library));
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::copy(&library, target)?;
        }
    }
    if layer.applets {
        let mut list = Command::new(program("busybox")?);
        list.arg("--list");
        for applet in Ran::run(list, None)?.ok()?.split_whitespace() {
            let link = root.join("usr/bin").join(applet);
            if !link.exists() {
                symlink("busybox", link)?;
            }
        }
    }
    let path = format!("{name}/layer.tar");
    fs::create_dir(out.join(name))?;
    tar(&root, &out.join(&path))?;
    let id = hex(&Sha256::digest(fs::read(out.join(&path))?));
    Ok((path, id))
}

/// The shared libraries that a program needs, with its loader.
fn libraries(program: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program).env("LC_ALL", "C");
    let ran = Ran::run(ldd, None)?;
    if ran.stderr.contains("not a dynamic executable")
        || ran.stdout.contains("statically linked")
        || ran.stdout.contains("not a dynamic executable")
    {
        return Ok(BTreeSet::new());
    }
    let text = ran.ok()?;
    if text.contains("not found") {
        bail!("{} lacks a library:\n{text}", program.display());
    }
    Ok(text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

/// The same bytes for the same files, whenever it is made.
fn tar(folder: &Path, archive: &Path) -> anyhow::Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--mtime=@0", "--numeric-owner"])
        .args(["--owner=0", "--group=0", "--create", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(folder)
        .arg(".");
    Ran::run(tar, None)?.ok()?;
    Ok(())
}

fn program(name: &str) -> anyhow::Result<PathBuf> {
    needs::find(name).with_context(|| format!("no {name} on this machine"))
}

fn architecture() -> anyhow::Result<&'static str> {
    Ok(match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no test images for {other}"),
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    })
}
