//! A unix socket in front of an engine: it reports other API versions, notes what is asked, and can be cut off.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The version that it reports, `ApiVersion` and `MinAPIVersion`.
pub(crate) type Reported = (String, String);

pub(crate) struct Proxy {
    /// Holds the socket.
    _folder: TempDir,
    socket: PathBuf,
    shared: Arc<Shared>,
    cut: watch::Sender<bool>,
    hangs: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

struct Shared {
    /// The engine behind; none: everything but the version is answered with an empty object.
    behind: Option<PathBuf>,
    /// None: what the engine behind says.
    reported: Mutex<Option<Reported>>,
    paths: Mutex<Vec<String>>,
}

impl Proxy {
    /// In front of nothing: only to see what is asked.
    pub(crate) fn alone(newest: &str, oldest: &str) -> Self {
        Self::new(None, Some((newest.to_owned(), oldest.to_owned())))
    }

    /// In front of the engine at this socket.
    pub(crate) fn before(engine: &Path) -> Self {
        Self::new(Some(engine.to_owned()), None)
    }

    fn new(behind: Option<PathBuf>, reported: Option<Reported>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let shared = Arc::new(Shared {
            behind,
            reported: Mutex::new(reported),
            paths: Mutex::default(),
        });
        let (cut, is_cut) = watch::channel(false);
        let (hangs, hanging) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, shared.clone(), is_cut, hanging));
        Self {
            _folder: folder,
            socket,
            shared,
            cut,
            hangs,
            accepting,
        }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Reports other versions from now on.
    pub(crate) fn report(&self, newest: &str, oldest: &str) {
        let reported = self.shared.reported.lock();
        *reported.unwrap_or_else(PoisonError::into_inner) =
            Some((newest.to_owned(), oldest.to_owned()));
    }

    /// Ends every connection and takes no new one, or takes them again.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }

    /// Takes requests and answers none, or answers them again.
    pub(crate) fn hang(&self, hangs: bool) {
        self.hangs.send_replace(hangs);
    }

    /// The paths that were asked for since the last call.
    pub(crate) fn paths(&self) -> Vec<String> {
        let paths = self.shared.paths.lock();
        std::mem::take(&mut paths.unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut.send_replace(true);
    }
}

async fn accept(
    listener: UnixListener,
    shared: Arc<Shared>,
    cut: watch::Receiver<bool>,
    hangs: watch::Receiver<bool>,
) {
    while let Ok((client, _)) = listener.accept().await {
        if *cut.borrow() {
            continue;
        }
        let shared = shared.clone();
        let mut cut = cut.clone();
        let mut hangs = hangs.clone();
        tokio::spawn(async move {
            let serving = async {
                // Ends with the proxy.
                if hangs.wait_for(|hangs| !*hangs).await.is_ok() {
                    // A client that goes away in the middle is no concern of the proxy's.
                    let _ = serve(client, &shared).await;
                }
            };
            tokio::select! {
                () = serving => (),
                _ = cut.wait_for(|cut| *cut) => (),
            }
        });
    }
}

/// One request and its answer: the client opens a connection for each.
async fn serve(mut client: UnixStream, shared: &Shared) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&head);
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let reported = {
        let reported = shared.reported.lock();
        reported.unwrap_or_else(PoisonError::into_inner).clone()
    };
    let about_version = path.split('?').next() == Some("/version");
    {
        let paths = shared.paths.lock();
        let mut paths = paths.unwrap_or_else(PoisonError::into_inner);
        paths.push(path.clone());
    }
    if path.contains("/events?") && shared.behind.is_none() {
        // Nothing ever happens on an engine that does not exist.
        std::future::pending::<()>().await;
    }
    match (reported, &shared.behind) {
        (Some((newest, oldest)), _) if about_version => {
            let body = format!(r#"{{"ApiVersion":"{newest}","MinAPIVersion":"{oldest}"}}"#);
            answer(&mut client, &body).await
        }
        (_, Some(behind)) => {
            let mut engine = UnixStream::connect(behind).await?;
            engine.write_all(&head).await?;
            copy_bidirectional(&mut client, &mut engine).await.map(drop)
        }
        (_, None) => answer(&mut client, "{}").await,
    }
}

async fn answer(client: &mut UnixStream, body: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await?;
    client.write_all(body.as_bytes()).await?;
    client.shutdown().await
}
