//! A port that other hosts try for a check: of the range that instances get theirs from, open for a few seconds.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::observed::Surroundings;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::ports::PortRange;
use crate::published::Published;

/// How long it is open.
const OPEN: Duration = Duration::from_secs(10);
/// Time that who is told of it has left.
const LEFT: Duration = Duration::from_secs(6);
/// Ports that are tried at most.
const TRIES: usize = 100;

/// Opens a port when it is asked for one; who asks soon after another one gets the same, so that two are open at most.
#[derive(Debug)]
pub struct CheckPorts {
    published: Arc<Published>,
    surroundings: watch::Receiver<Surroundings>,
    range: PortRange,
    last: Mutex<Option<OpenPort>>,
}

/// An open port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenPort {
    /// Where.
    pub at: SocketAddr,
    /// What it says to who connects.
    pub token: String,
    until: Instant,
}

impl CheckPorts {
    /// Nothing is open yet.
    pub fn new(
        published: Arc<Published>,
        surroundings: watch::Receiver<Surroundings>,
        range: PortRange,
    ) -> Self {
        Self {
            published,
            surroundings,
            range,
            last: Mutex::default(),
        }
    }

    /// The range.
    pub fn range(&self) -> &PortRange {
        &self.range
    }

    /// A port that is open for some seconds more; none if no port of the range is free.
    pub async fn open(&self) -> Option<OpenPort> {
        let mut last = self.last.lock().await;
        let now = Instant::now();
        if let Some(open) = last.as_ref().filter(|open| open.until > now + LEFT) {
            return Some(open.clone());
        }
        let listener = self.listen().await?;
        let open = OpenPort {
            at: listener.local_addr().ok()?,
            token: Uuid::new_v4().to_string(),
            until: now + OPEN,
        };
        tokio::spawn(timeout_at(open.until, greet(listener, open.token.clone())));
        *last = Some(open.clone());
        Some(open)
    }

    /// From the end of the range, which instances come to last, and not where a stopped container comes back to.
    async fn listen(&self) -> Option<TcpListener> {
        let host_ip = self.surroundings.borrow().host_ip;
        let in_use: BTreeSet<u16> = {
            let observed = self.published.observed.load();
            let containers = observed.containers.values();
            containers
                .flat_map(|c| c.ports.values().map(SocketAddr::port))
                .collect()
        };
        let ports = self.range.bounds().clone().rev();
        for port in ports.filter(|port| !in_use.contains(port)).take(TRIES) {
            if let Ok(listener) = TcpListener::bind((host_ip, port)).await {
                return Some(listener);
            }
        }
        None
    }
}

/// One at a time: a token always fits into the socket's buffer.
async fn greet(listener: TcpListener, token: String) {
    while let Ok((mut stream, _)) = listener.accept().await {
        // Who is gone already is not waited for.
        let _ = stream.write_all(token.as_bytes()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{IpAddr, TcpStream};

    use super::*;

    fn ports(range: &str) -> CheckPorts {
        let (_, surroundings) = watch::channel(Surroundings {
            host_ip: IpAddr::from([127, 0, 0, 1]),
            gateway: IpAddr::from([172, 17, 0, 1]),
            dns: None,
            domain: "skydns.local".to_owned(),
            network: "bridge".to_owned(),
        });
        let range = range.parse().expect("a range");
        CheckPorts::new(Arc::default(), surroundings, range)
    }

    fn said(at: SocketAddr) -> std::io::Result<String> {
        let mut text = String::new();
        TcpStream::connect(at)?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_asks_soon_gets_the_same_port_and_it_says_its_token() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let last = held.local_addr().expect("bound").port();
        let ports = ports(&format!("{}-{last}", last - 50));
        let open = ports.open().await.expect("a port");
        assert!(ports.range().contains(open.at.port()) && open.at.port() != last);
        assert_eq!(ports.open().await.as_ref(), Some(&open));
        let at = open.at;
        let text = tokio::task::spawn_blocking(move || said(at)).await;
        assert_eq!(text.expect("asked").expect("answered"), open.token);
        let one = self::ports(&format!("{last}-{last}"));
        assert_eq!(one.open().await, None, "the only one is taken");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_closed_after_its_time() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let ports = ports(&format!("{port}-{port}"));
        let open = ports.open().await.expect("a port");
        tokio::time::sleep(OPEN * 2).await;
        let refused = said(open.at).expect_err("closed");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let again = ports.open().await.expect("the same one again");
        assert_ne!(again.token, open.token);
    }
}
