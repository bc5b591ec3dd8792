//! The example of `up --example`: its manifests, its image where no registry answers, and the wait for its page.

mod program;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use engine::{DockerEngine, Engine};
use tokio::time::{Instant, sleep, timeout};

pub(crate) use program::{CRAWLER_COMMAND, WEB_COMMAND, become_crawler, become_web};

use crate::commands::example::{self as api, Example};

/// The manifests, for the API: with an image from Docker Hub, or with the one that is made of this program.
const ONLINE: Example = Example {
    web: include_str!("../../manifests/examples/hello/hello/web.json"),
    crawler: include_str!("../../manifests/examples/hello/hello/crawler.json"),
};
const OFFLINE: Example = Example {
    web: include_str!("../../manifests/examples/offline/hello/web.json"),
    crawler: include_str!("../../manifests/examples/offline/hello/crawler.json"),
};
const ONLINE_IMAGE: &str = "nginx:alpine";
const OFFLINE_IMAGE: &str = "dokkaa.example/hello:offline";

/// A registry that has not begun to send the image by then counts as out of reach.
const REGISTRY_BEGINS: Duration = Duration::from_secs(8);
/// Longest pull.
const PULL: Duration = Duration::from_secs(180);
/// From the manifests to the page and the crawler's fetch of it.
const RUNS_WITHIN: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(200);

/// Puts the example into the cluster that runs on this machine, waits until it works, and says what to do next.
pub(crate) async fn run(docker: &Path, addr: &str) -> anyhow::Result<ExitCode> {
    let engine = DockerEngine::new(docker);
    let example = if is_online(&engine).await {
        &ONLINE
    } else {
        say(
            "No registry answers here: the example's image is made of this program instead of nginx.",
        );
        offline_image(&engine).await?;
        &OFFLINE
    };
    api::put(example, addr).await?;
    say("Waiting until the crawler has fetched a page ...");
    let end = Instant::now() + RUNS_WITHIN;
    let at = loop {
        if let Some(at) = api::ready_at(addr).await?
            && tokio::task::spawn_blocking(move || page(&at.to_string()))
                .await?
                .is_ok()
            && crawls(addr)
        {
            break at;
        }
        if Instant::now() >= end {
            bail!(
                "the example does not work after {} s; dokkaa ps hello, dokkaa why hello/crawler and dokkaa logs hello say more",
                RUNS_WITHIN.as_secs()
            );
        }
        sleep(LOOK).await;
    };
    say(&guide(&format!("http://{at}"), addr));
    Ok(ExitCode::SUCCESS)
}

/// The image is here, or a registry sends it.
async fn is_online(engine: &DockerEngine) -> bool {
    if matches!(engine.image(ONLINE_IMAGE).await, Ok(Some(_))) {
        return true;
    }
    // Made by an earlier run.
    if matches!(engine.image(OFFLINE_IMAGE).await, Ok(Some(_))) {
        return false;
    }
    let begun = AtomicBool::new(false);
    let progress = |_| begun.store(true, Ordering::Relaxed);
    let mut pull = std::pin::pin!(timeout(PULL, engine.pull(ONLINE_IMAGE, None, &progress)));
    match timeout(REGISTRY_BEGINS, &mut pull).await {
        Ok(pulled) => matches!(pulled, Ok(Ok(_))),
        Err(_) if begun.load(Ordering::Relaxed) => matches!(pull.await, Ok(Ok(_))),
        Err(_) => false,
    }
}

async fn offline_image(engine: &DockerEngine) -> anyhow::Result<()> {
    if engine.image(OFFLINE_IMAGE).await?.is_some() {
        return Ok(());
    }
    if cfg!(not(target_feature = "crt-static")) {
        bail!(
            "this build of dokkaa needs libraries of this machine and can't be the example's image; docker pull {ONLINE_IMAGE}, or docker load it"
        );
    }
    let program = std::fs::read("/proc/self/exe").context("cannot read this program")?;
    let image = archive(&program).context("cannot pack the example's image")?;
    engine.import(image, OFFLINE_IMAGE).await?;
    Ok(())
}

/// A root file system with this program only.
fn archive(program: &[u8]) -> std::io::Result<Bytes> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    archive.append_data(&mut header, "dokkaa", program)?;
    archive.into_inner().map(Bytes::from)
}

/// The page, by plain HTTP.
fn page(at: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(at)?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(connection, "GET / HTTP/1.0\r\nHost: {at}\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    if answer.contains(" 200 ") {
        Ok(answer)
    } else {
        Err(std::io::Error::other("not 200"))
    }
}

/// The crawler has printed the title of a page just now.
fn crawls(addr: &str) -> bool {
    let Ok(program) = std::env::current_exe() else {
        return false;
    };
    let logs = Command::new(program)
        .args(["--addr", addr, "logs", "--since", "10s", "hello/crawler"])
        .stderr(Stdio::null())
        .output();
    logs.is_ok_and(|logs| String::from_utf8_lossy(&logs.stdout).contains("<title>"))
}

fn guide(page: &str, addr: &str) -> String {
    let mut text = format!(
        "
The example runs: {page}
This address works on this machine only. This publishes it on all addresses of it:
  dokkaa set hello/web services.web.host_port=8080 services.web.bind=0.0.0.0 --wait

Four commands to go on with:
  dokkaa ps
  dokkaa logs -f hello/crawler
  dokkaa scale hello/web=3 --wait
  curl -s {addr}/v2/keys/apps/hello/web/manifest

dokkaa down stops it; dokkaa rm hello removes the example."
    );
    if addr != crate::args::DEFAULT_ADDR {
        text.push_str("\nThe API listens elsewhere, so: export DOKKAA_ADDR=");
        text.push_str(addr);
    }
    text
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // Who read it may have gone.
    let _unread = writeln!(out, "{text}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_are_valid_and_name_their_images() {
        for (example, image) in [(&ONLINE, ONLINE_IMAGE), (&OFFLINE, OFFLINE_IMAGE)] {
            for text in [example.web, example.crawler] {
                let parsed = manifests::parse::lenient(text.as_bytes()).expect("valid");
                assert_eq!(parsed.manifest.image, image);
            }
        }
    }

    #[test]
    fn the_image_holds_this_program() {
        let image = archive(b"program").expect("packed");
        let mut archive = tar::Archive::new(&image[..]);
        let entry = archive.entries().expect("entries").next().expect("one");
        let entry = entry.expect("readable");
        assert_eq!(entry.path().expect("a path").to_str(), Some("dokkaa"));
        assert_eq!(entry.header().mode().expect("a mode"), 0o755);
    }
}
