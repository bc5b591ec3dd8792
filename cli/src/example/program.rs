//! What runs in the example's containers where its image is made of this program: a page, and who fetches it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

/// Not for people, so no commands of the command line.
pub(crate) const WEB_COMMAND: &str = "example-web";
pub(crate) const CRAWLER_COMMAND: &str = "example-crawler";

const PAGE: &str = "<!DOCTYPE html>
<html><head><title>Hello from dokkaa</title></head>
<body><h1>Hello from dokkaa</h1>
<p>This page comes from a container that dokkaa runs.</p>
</body></html>
";
const EVERY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves the page on port 80 until it is killed.
pub(crate) fn become_web() -> anyhow::Result<ExitCode> {
    let listener = TcpListener::bind("0.0.0.0:80").context("cannot listen on port 80")?;
    for connection in listener.incoming() {
        // A visitor that fails is no reason to end.
        let _ = connection.and_then(|connection| answer(&connection));
    }
    Ok(ExitCode::SUCCESS)
}

fn answer(mut connection: &TcpStream) -> std::io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut request = BufReader::new(connection).lines();
    while request
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    write!(
        connection,
        "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{PAGE}",
        PAGE.len()
    )
}

/// Fetches the page of the linked service and prints its title, again and again.
pub(crate) fn become_crawler() -> anyhow::Result<ExitCode> {
    let variable = |name| std::env::var(name).with_context(|| format!("{name} is not set"));
    let (addr, port) = (variable("SERVICE_WEB_ADDR")?, variable("SERVICE_WEB_PORT")?);
    let at = format!("{addr}:{port}");
    let mut out = std::io::stdout();
    loop {
        match super::page(&at) {
            Ok(page) => {
                let title = page.lines().find(|line| line.contains("<title>"));
                writeln!(out, "{}", title.unwrap_or("a page without a title"))?;
            }
            Err(error) => writeln!(out, "{at}: {error}")?,
        }
        std::thread::sleep(EVERY);
    }
}
