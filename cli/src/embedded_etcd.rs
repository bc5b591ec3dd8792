//! The etcd of a one-machine cluster: a supervised child process of `dokkaa up`.
//!
//! It listens on unix sockets in a directory of mode 0700 only, so that nobody
//! gets around the API. It ends with the thread that started it
//! (PR_SET_PDEATHSIG); a leftover is found by its pid file and ended before the
//! next one is started.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use model::backoff::Exponential;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::pid_file::ProcessMark;

/// The hidden subcommand that becomes etcd: see [`become_etcd`].
pub(crate) const CHILD_COMMAND: &str = "etcd-child";

// etcd wants `host:port` also of a unix socket: the name in its directory.
const CLIENT_SOCKET: &str = "c:1";
const PEER_SOCKET: &str = "p:1";
// The longest path that fits a socket address.
const LONGEST_SOCKET_PATH: usize = 107;

const STOP_GRACE: Duration = Duration::from_secs(5);
const HEALTH_LIMIT: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const RETRY: Exponential = Exponential::new(Duration::from_millis(200), Duration::from_secs(10));
// One that lived this long starts anew without a wait.
const LONG_LIFE: Duration = Duration::from_secs(60);
// Ended this often without ever having answered, it is given up.
const GIVE_UP_AFTER: u32 = 3;

/// Files of the embedded etcd in a state directory.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    dir: PathBuf,
}

/// A supervised etcd; stopped when dropped.
#[derive(Debug)]
pub(crate) struct EmbeddedEtcd {
    files: Files,
    shared: Arc<Shared>,
    supervisor: Option<JoinHandle<()>>,
}

/// Configuration of an embedded etcd.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The agent's state directory.
    pub(crate) state_dir: PathBuf,
    /// The etcd program, a path or a name in PATH.
    pub(crate) program: PathBuf,
    /// Prefix of the command line, which makes the child end with its parent;
    /// [`Config::launcher_of_this_program`] outside of tests.
    pub(crate) launcher: Vec<OsString>,
}

/// Why the embedded etcd is not available.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EmbeddedEtcdError {
    /// The program was not found.
    #[error(
        "etcd is not installed ({} not found): on Debian and Ubuntu, apt-get install etcd-server", .0.display()
    )]
    NotInstalled(PathBuf),
    /// A unix socket in this directory could not be reached.
    #[error("the state directory's path is too long for a unix socket: {}", .0.display())]
    PathTooLong(PathBuf),
    /// The directory could not be prepared.
    #[error("cannot prepare {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A process of an earlier run does not end.
    #[error("the etcd of an earlier run does not end")]
    Leftover(#[source] io::Error),
    /// The thread could not be started.
    #[error("cannot start the thread that keeps etcd running")]
    Thread(#[source] io::Error),
    /// It does not answer.
    #[error("the embedded etcd does not answer; the end of its log {}:\n{tail}", log.display())]
    Silent {
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    child: Option<ProcessMark>,
    /// Ends in a row without a long life.
    short_lives: u32,
    answered: bool,
}

// === impl Files ===

impl Files {
    /// The files of the embedded etcd of this state directory.
    pub(crate) fn of(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.join("etcd"),
        }
    }

    /// What `--etcd` takes to reach it.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.client_socket().display())
    }

    /// The socket for clients.
    pub(crate) fn client_socket(&self) -> PathBuf {
        self.dir.join(CLIENT_SOCKET)
    }

    /// True where an embedded etcd was started at some time.
    pub(crate) fn exist(&self) -> bool {
        self.data().is_dir()
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("etcd.pid")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("etcd.log")
    }

    /// Ends the process that the pid file names, if it still runs. True if one
    /// was ended.
    pub(crate) fn end_leftover(&self) -> io::Result<bool> {
        let Some(mark) = ProcessMark::read(&self.pid_file()) else {
            return Ok(false);
        };
        let ended = mark.end(STOP_GRACE)?;
        fs::remove_file(self.pid_file())?;
        Ok(ended != crate::pid_file::Ended::Already)
    }

    fn prepare(&self) -> Result<(), EmbeddedEtcdError> {
        for path in [&self.dir, &self.data()] {
            fs::create_dir_all(path)
                .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o700)))
                .map_err(|source| EmbeddedEtcdError::Directory {
                    path: path.clone(),
                    source,
                })?;
        }
        if self.client_socket().as_os_str().len() > LONGEST_SOCKET_PATH {
            return Err(EmbeddedEtcdError::PathTooLong(self.dir.clone()));
        }
        Ok(())
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut data = OsString::from("--data-dir=");
        data.push(self.data());
        let mut all = vec![data];
        all.extend(
            [
                "--name=dokkaa".to_owned(),
                format!("--listen-client-urls=unix://{CLIENT_SOCKET}"),
                format!("--advertise-client-urls=http://{CLIENT_SOCKET}"),
                format!("--listen-peer-urls=unix://{PEER_SOCKET}"),
                format!("--initial-advertise-peer-urls=http://{PEER_SOCKET}"),
                format!("--initial-cluster=dokkaa=http://{PEER_SOCKET}"),
                "--auto-compaction-retention=1h".to_owned(),
            ]
            .map(OsString::from),
        );
        all
    }
}

// === impl Config ===

impl Config {
    /// This very program as launcher, also after its file was replaced.
    pub(crate) fn launcher_of_this_program() -> Vec<OsString> {
        vec![
            "/proc/self/exe".into(),
            CHILD_COMMAND.into(),
            std::process::id().to_string().into(),
        ]
    }
}

// === impl EmbeddedEtcd ===

impl EmbeddedEtcd {
    /// Starts etcd and keeps it running. The caller holds the lock on the state
    /// directory: whatever etcd its pid file names is a leftover and is ended.
    pub(crate) fn start(config: Config) -> Result<Self, EmbeddedEtcdError> {
        let files = Files::of(&config.state_dir);
        let program = installed(&config.program)?;
        files.prepare()?;
        if files.end_leftover().map_err(EmbeddedEtcdError::Leftover)? {
            tracing::warn!("ended an etcd that an earlier run left behind");
        }
        // Its log is of this run only.
        File::create(files.log()).map_err(|source| EmbeddedEtcdError::Directory {
            path: files.log(),
            source,
        })?;

        let shared = Arc::new(Shared::default());
        let supervisor = std::thread::Builder::new()
            .name("etcd".into())
            .spawn({
                let (files, shared) = (files.clone(), Arc::clone(&shared));
                move || supervise(&files, &program, &config.launcher, &shared)
            })
            .map_err(EmbeddedEtcdError::Thread)?;
        Ok(Self {
            files,
            shared,
            supervisor: Some(supervisor),
        })
    }

    /// What `--etcd` takes to reach it.
    pub(crate) fn endpoint(&self) -> String {
        self.files.endpoint()
    }

    /// Returns when etcd has answered that it is healthy.
    pub(crate) async fn ready(&self, limit: Duration) -> Result<(), EmbeddedEtcdError> {
        let start = Instant::now();
        let socket = self.files.client_socket();
        loop {
            if is_healthy(&socket).await {
                self.shared.lock().answered = true;
                return Ok(());
            }
            let gave_up = self.shared.lock().short_lives >= GIVE_UP_AFTER;
            if gave_up || start.elapsed() > limit {
                return Err(EmbeddedEtcdError::Silent {
                    log: self.files.log(),
                    tail: tail(&self.files.log(), 5),
                });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Stops etcd and waits until it has ended.
    pub(crate) fn stop(mut self) {
        self.stop_now();
    }

    fn stop_now(&mut self) {
        let Some(supervisor) = self.supervisor.take() else {
            return;
        };
        let child = {
            let mut state = self.shared.lock();
            state.stopping = true;
            state.child.clone()
        };
        self.shared.changed.notify_all();
        if let Some(child) = child
            && let Err(error) = child.end(STOP_GRACE)
        {
            tracing::error!(%error, "etcd does not end");
            return;
        }
        if supervisor.join().is_err() {
            tracing::error!("the thread that kept etcd running panicked");
        }
    }
}

impl Drop for EmbeddedEtcd {
    fn drop(&mut self) {
        self.stop_now();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is plain values: whole also after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits; returns at once when it is time to stop.
    fn pause(&self, length: Duration) {
        let state = self.lock();
        drop(
            self.changed
                .wait_timeout_while(state, length, |state| !state.stopping),
        );
    }
}

// === the supervising thread ===

/// Runs etcd until `stopping`. This thread starts the child, since PR_SET_PDEATHSIG
/// is about the starting thread.
fn supervise(files: &Files, program: &Path, launcher: &[OsString], shared: &Shared) {
    let mut retry = RETRY;
    loop {
        if shared.lock().stopping {
            return;
        }
        let start = Instant::now();
        match run_once(files, program, launcher, shared) {
            Ok(_) if shared.lock().stopping => return,
            Ok(status) => {
                tracing::warn!(%status, log = %files.log().display(), "etcd exited; restarting it");
            }
            Err(error) => tracing::warn!(%error, "cannot start etcd; retrying"),
        }
        if start.elapsed() >= LONG_LIFE {
            retry.reset();
        } else {
            retry.failed();
        }
        shared.lock().short_lives = retry.failures();
        shared.pause(retry.wait());
    }
}

fn run_once(
    files: &Files,
    program: &Path,
    launcher: &[OsString],
    shared: &Shared,
) -> io::Result<std::process::ExitStatus> {
    // A killed etcd leaves its sockets, on which the next can't listen.
    for name in [CLIENT_SOCKET, PEER_SOCKET] {
        match fs::remove_file(files.dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    let mut child = spawn(files, program, launcher)?;
    let mark = ProcessMark::of(child.id());
    if let Some(mark) = &mark {
        mark.write(&files.pid_file())?;
    }
    let stopping = {
        let mut state = shared.lock();
        state.child.clone_from(&mark);
        state.stopping
    };
    // `stop` may have been called before the child was known.
    if stopping && let Some(mark) = &mark {
        mark.signal(Signal::TERM)?;
    }
    let status = child.wait()?;
    shared.lock().child = None;
    fs::remove_file(files.pid_file())?;
    Ok(status)
}

fn spawn(files: &Files, program: &Path, launcher: &[OsString]) -> io::Result<Child> {
    let log = OpenOptions::new().append(true).open(files.log())?;
    let mut line = launcher.to_vec();
    line.push(program.into());
    line.extend(files.arguments());
    let mut command = Command::new(&line[0]);
    command
        .args(&line[1..])
        .current_dir(&files.dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C is for the agent, which stops etcd last.
        .process_group(0);
    // etcd reads its flags from ETCD_* as well.
    for (name, _) in std::env::vars_os() {
        if name.as_bytes().starts_with(b"ETCD_") {
            command.env_remove(name);
        }
    }
    // etcd 3.3 does not know these flags, but only warns of an unknown variable.
    command
        .env("ETCD_LOGGER", "zap")
        .env("ETCD_LOG_OUTPUTS", "stderr")
        .env("ETCD_LOG_LEVEL", "warn");
    command.spawn()
}

/// Carries out [`CHILD_COMMAND`]: executes `line`, which ends with the process
/// `parent`. Returns only on errors.
pub(crate) fn become_etcd(parent: u32, line: &[OsString]) -> io::Error {
    if let Err(e) = set_parent_process_death_signal(Some(Signal::TERM)) {
        return e.into();
    }
    // The parent may have ended before the line above.
    if getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned()) != Some(parent) {
        return io::Error::other("the parent process has ended");
    }
    let Some((program, arguments)) = line.split_first() else {
        return io::Error::other("no program named");
    };
    Command::new(program).args(arguments).exec()
}

// === looking ===

/// GET /health on the socket.
async fn is_healthy(socket: &Path) -> bool {
    let ask = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream
            .write_all(b"GET /health HTTP/1.0\r\nHost: etcd\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        io::Result::Ok(String::from_utf8_lossy(&answer).contains(r#""health":"true""#))
    };
    matches!(tokio::time::timeout(HEALTH_LIMIT, ask).await, Ok(Ok(true)))
}

/// Where the etcd program is.
pub(crate) fn installed(program: &Path) -> Result<PathBuf, EmbeddedEtcdError> {
    find_program(program).ok_or_else(|| EmbeddedEtcdError::NotInstalled(program.to_owned()))
}

/// Looks a program up in PATH.
pub(crate) fn find_program(name: &Path) -> Option<PathBuf> {
    let is_program = |path: &Path| {
        fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if name.as_os_str().as_bytes().contains(&b'/') {
        let path = fs::canonicalize(name).ok()?;
        return is_program(&path).then_some(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // What units and cron leave out.
        .chain(["/usr/local/bin", "/usr/bin", "/usr/sbin"].map(PathBuf::from))
        .filter(|dir| dir.as_os_str() != OsStr::new(""))
        .map(|dir| dir.join(name))
        .find(|path| is_program(path))
}

/// The last lines of a file, at most 64 KiB of it.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(64 * 1024)..]).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests;
