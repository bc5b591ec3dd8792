//! `dokkaa up`: a one-machine cluster, the agent and an embedded etcd.
//!
//! A lock keeps a second one off the same state directory.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{self, BufRead as _, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use tokio::sync::oneshot;

use crate::embedded_etcd::{self, EmbeddedEtcd};
use crate::pid_file::ProcessMark;
use crate::service::{self, Service, UNIT};

const ETCD_READY_LIMIT: Duration = Duration::from_secs(60);
const DETACHED_READY_LIMIT: Duration = Duration::from_secs(120);
/// A longer wait is reported.
pub(crate) const SOON: Duration = Duration::from_secs(2);
/// First words of such a report by the process in the background.
const WAITING: &str = "waiting for ";
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Default log of a detached cluster.
pub(crate) const DEFAULT_LOG: &str = "/var/log/dokkaa/agent.log";
// A longer log is rotated at the next start.
const LONG_LOG: u64 = 32 * 1024 * 1024;

/// What `up` takes besides the agent's own flags.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct UpArgs {
    /// Return when the cluster is ready and run it in the background
    #[arg(long)]
    pub(crate) detach: bool,
    /// Start it in the background if it does not run, put an example into it, and wait until that works
    #[arg(long, conflicts_with = "detach")]
    pub(crate) example: bool,
    /// Stop the agent that runs on this state directory first; containers keep running
    #[arg(long)]
    pub(crate) restart: bool,
    /// Log file of a detached cluster
    #[arg(
        long,
        value_name = "FILE",
        env = "DOKKAA_LOG_FILE",
        default_value = DEFAULT_LOG
    )]
    pub(crate) log_file: PathBuf,
    /// etcd program to run
    #[arg(
        long,
        value_name = "PROGRAM",
        env = "DOKKAA_ETCD_PROGRAM",
        default_value = "etcd"
    )]
    pub(crate) etcd_program: PathBuf,
    /// Set by `--detach` for the process in the background
    #[arg(long, hide = true)]
    pub(crate) in_background: bool,
}

/// Listeners of an agent that is ready.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    /// Name and address: `keys`, `127.0.0.1:4001`.
    pub(crate) listeners: Vec<(String, String)>,
}

/// The files of `up` in a state directory.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    state_dir: PathBuf,
}

impl Files {
    /// Of this state directory.
    pub(crate) fn of(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
        }
    }

    /// Names the process that runs the cluster.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.state_dir.join("up.pid")
    }

    /// Creates the directory. One with foreign files is refused, since `down --purge`
    /// removes it as a whole.
    fn prepare(&self) -> anyhow::Result<()> {
        let made = || {
            format!(
                "cannot create the state directory {}",
                self.state_dir.display()
            )
        };
        let others = match fs::read_dir(&self.state_dir) {
            Ok(mut entries) => entries.next().is_some() && !self.exist(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(e).with_context(made),
        };
        if others {
            bail!(
                "{} contains files that are not dokkaa's; choose another --state-dir",
                self.state_dir.display()
            );
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.state_dir)
            .with_context(made)
    }

    /// Lock of the process that runs the cluster.
    fn lock(&self) -> PathBuf {
        self.state_dir.join("up.lock")
    }

    /// True where `up` was run at some time.
    pub(crate) fn exist(&self) -> bool {
        self.lock().exists()
    }

    /// The process that runs the cluster now.
    pub(crate) fn running(&self) -> Option<ProcessMark> {
        ProcessMark::read(&self.pid_file()).filter(ProcessMark::is_running)
    }
}

/// Runs the cluster until the agent ends. `agent` gets the endpoint of the
/// embedded etcd, and sends its listeners when it is ready.
pub(crate) async fn run<F, R>(args: &UpArgs, state_dir: &Path, agent: F) -> anyhow::Result<ExitCode>
where
    F: FnOnce(String, oneshot::Sender<Bound>) -> R,
    R: Future<Output = anyhow::Result<ExitCode>>,
{
    if args.restart
        && let Some(agent) = Files::of(state_dir).running()
    {
        end_running(agent).await?;
    }
    if args.detach {
        return detach(args, state_dir).await;
    }
    if args.in_background {
        rustix::process::setsid().context("cannot leave the terminal's session")?;
    }
    let files = Files::of(state_dir);
    files.prepare()?;
    let lock = File::create(files.lock())
        .with_context(|| format!("cannot write in {}", state_dir.display()))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!(already_running(&files));
    }
    ProcessMark::of(std::process::id())
        .context("this process is not in /proc")?
        .write(&files.pid_file())
        .context("cannot write the pid file")?;

    let etcd = EmbeddedEtcd::start(embedded_etcd::Config {
        state_dir: state_dir.to_owned(),
        program: args.etcd_program.clone(),
        launcher: embedded_etcd::Config::launcher_of_this_program(),
    })?;
    {
        let mut ready = std::pin::pin!(etcd.ready(ETCD_READY_LIMIT));
        let soon = tokio::time::timeout(SOON, &mut ready).await;
        if let Ok(ready) = soon {
            ready?;
        } else {
            say_waiting("etcd to start", args.in_background);
            ready.await?;
        }
    }

    let (tell, told) = oneshot::channel();
    let mut running = std::pin::pin!(agent(etcd.endpoint(), tell));
    let ended = tokio::select! {
        ended = &mut running => ended,
        bound = told => {
            if let Ok(bound) = bound {
                announce(&bound, args.in_background);
            }
            running.await
        }
    };
    // The agent has written its record; etcd is no longer needed.
    tokio::task::spawn_blocking(move || etcd.stop()).await?;
    fs::remove_file(files.pid_file()).context("cannot remove the pid file")?;
    drop(lock);
    ended
}

fn already_running(files: &Files) -> String {
    let who = match files.running() {
        Some(mark) => format!("process {}", mark.pid()),
        None => "another process".to_owned(),
    };
    format!(
        "a cluster is already running on {} ({who}); dokkaa down stops it",
        files.state_dir.display()
    )
}

/// Reports a long wait to `up --detach`. In the foreground the log has it.
pub(crate) fn say_waiting(for_what: &str, in_background: bool) {
    if in_background {
        let mut out = io::stdout().lock();
        // `up --detach` may have been interrupted.
        let _unread = writeln!(out, "{WAITING}{for_what}").and_then(|()| out.flush());
    }
}

/// Prints the listeners. In the background the output is then closed, which tells
/// `up --detach` that the cluster is ready.
fn announce(bound: &Bound, in_background: bool) {
    let width = bound.listeners.iter().map(|(what, _)| what.len()).max();
    let width = width.unwrap_or(0);
    let lines = bound
        .listeners
        .iter()
        .map(|(what, address)| format!("  {what:width$}  {address}\n"));
    let text: String = std::iter::once("dokkaa is up\n".to_owned())
        .chain(lines)
        .collect();
    // `up --detach` may have been interrupted.
    let mut out = io::stdout().lock();
    let _unread = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if in_background {
        let silenced = OpenOptions::new()
            .write(true)
            .open("/dev/null")
            .and_then(|null| Ok(rustix::stdio::dup2_stdout(null)?));
        if let Err(error) = silenced {
            tracing::warn!(%error, "cannot close the standard output");
        }
    }
}

// === in the background ===

/// Starts the cluster in the background, unless it runs: by its unit if there is one, which brings it back after a
/// reboot.
pub(crate) async fn start(
    args: &UpArgs,
    state_dir: &Path,
    docker: &Path,
) -> anyhow::Result<ExitCode> {
    let files = Files::of(state_dir);
    if files.running().is_some() && !args.restart {
        return Ok(ExitCode::SUCCESS);
    }
    // What a unit would tell its journal only, after a long wait.
    embedded_etcd::installed(&args.etcd_program)?;
    if !docker.exists() && embedded_etcd::find_program(Path::new("dockerd")).is_none() {
        bail!(
            "Docker is not installed (there is no socket {}): on Debian and Ubuntu, apt-get install docker.io",
            docker.display()
        );
    }
    let Some(unit) = Service::find() else {
        let started = run_in_background(args, state_dir).await?;
        say("After a reboot, start it again with: dokkaa up --detach");
        return Ok(started);
    };
    if !unit.runs_up() {
        bail!("{UNIT} of this machine runs the agent of a host, not dokkaa up: nothing is started");
    }
    if let Some(flag) = flag_for_the_unit(std::env::args_os().skip(1)) {
        bail!(
            "{flag} is not for {UNIT}, which has flags of its own: set variables in /etc/default/dokkaa (dokkaa up --help), or use dokkaa up --detach"
        );
    }
    say("Starting dokkaa.service ...");
    let verb = if args.restart { "restart" } else { "start" };
    for words in [["enable", "--quiet"], [verb, "--quiet"]] {
        service::systemctl(&words)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A flag on the command line that the process of the unit would not get.
fn flag_for_the_unit(words: impl Iterator<Item = OsString>) -> Option<String> {
    words
        .map(|word| word.to_string_lossy().into_owned())
        .find(|word| {
            word.starts_with("--")
                && !["--example", "--restart", "--quiet"].contains(&word.as_str())
        })
}

async fn run_in_background(args: &UpArgs, state_dir: &Path) -> anyhow::Result<ExitCode> {
    if args.restart
        && let Some(agent) = Files::of(state_dir).running()
    {
        end_running(agent).await?;
    }
    detach(args, state_dir).await
}

async fn end_running(agent: ProcessMark) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || agent.end(STOP_GRACE))
        .await?
        .context("the running agent does not end")?;
    Ok(())
}

/// Runs this command again without `--detach`, and returns when the cluster is ready.
async fn detach(args: &UpArgs, state_dir: &Path) -> anyhow::Result<ExitCode> {
    let files = Files::of(state_dir);
    if files.running().is_some() {
        say(&already_running(&files));
        return Ok(ExitCode::SUCCESS);
    }
    let (log, log_start) = open_log(&args.log_file)
        .with_context(|| format!("cannot write the log {}", args.log_file.display()))?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(
            std::env::args_os()
                .skip(1)
                .filter(|word| word != "--detach" && word != "--example"),
        )
        .arg("--in-background")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start the background process")?;
    let mark = ProcessMark::of(child.id());
    let output = child.stdout.take().context("the output was piped")?;
    let read = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        for line in BufReader::new(output).lines() {
            let line = line?;
            if line.starts_with(WAITING) {
                say_error(&line);
            } else {
                text.push_str(&line);
                text.push('\n');
            }
        }
        io::Result::Ok(text)
    });
    let end = |mark: Option<ProcessMark>| match mark {
        Some(mark) => mark.end(STOP_GRACE).map(drop),
        None => Ok(()),
    };
    let text = tokio::select! {
        text = read => text??,
        () = tokio::time::sleep(DETACHED_READY_LIMIT) => {
            end(mark)?;
            bail!(
                "not ready after {} s, stopped again; the end of its log {}:\n{}",
                DETACHED_READY_LIMIT.as_secs(),
                args.log_file.display(),
                written_since(&args.log_file, log_start),
            );
        }
        _ = tokio::signal::ctrl_c() => {
            end(mark)?;
            bail!("interrupted, stopped again");
        }
    };
    // Its output ends when it is ready, or when it has ended.
    if text.is_empty() {
        let code = child
            .wait()?
            .code()
            .and_then(|code| u8::try_from(code).ok());
        say_error(&written_since(&args.log_file, log_start));
        return Ok(ExitCode::from(code.filter(|code| *code != 0).unwrap_or(1)));
    }
    say(text.trim_end());
    say(&format!("  log   {}", args.log_file.display()));
    Ok(ExitCode::SUCCESS)
}

/// The log and the one before it.
pub(crate) fn logs(log_file: &Path) -> [PathBuf; 2] {
    [log_file.to_owned(), log_file.with_extension("log.1")]
}

/// The log, to append to, and how long it is already.
fn open_log(path: &Path) -> io::Result<(File, u64)> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    if fs::metadata(path).is_ok_and(|log| log.len() > LONG_LOG) {
        let [log, before] = logs(path);
        fs::rename(log, before)?;
    }
    let log = OpenOptions::new().create(true).append(true).open(path)?;
    let length = log.metadata()?.len();
    Ok((log, length))
}

/// The last lines that were added to the log.
fn written_since(path: &Path, start: u64) -> String {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|mut log| {
        log.seek(SeekFrom::Start(start))?;
        log.read_to_end(&mut text)
    });
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn say(text: &str) {
    let _unread = writeln!(io::stdout().lock(), "{text}");
}

fn say_error(text: &str) {
    let _unread = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_makes_place() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("logs/agent.log");
        let (mut log, start) = open_log(&path).expect("opened");
        assert_eq!(start, 0);
        log.write_all(b"old\n").expect("written");

        let (mut log, start) = open_log(&path).expect("opened again");
        assert_eq!(start, 4);
        log.write_all(b"new 1\nnew 2\n").expect("written");
        assert_eq!(written_since(&path, start), "new 1\nnew 2");

        log.set_len(LONG_LOG + 1).expect("grown");
        let (_, start) = open_log(&path).expect("opened anew");
        assert_eq!(start, 0);
        assert!(dir.path().join("logs/agent.log.1").exists());
    }

    #[test]
    fn flags_that_the_unit_would_not_get_are_named() {
        let named = |line: &str| flag_for_the_unit(line.split(' ').map(OsString::from));
        assert_eq!(named("-q up --example --restart"), None);
        assert_eq!(
            named("up --example --keys-listen=127.0.0.1:5001").as_deref(),
            Some("--keys-listen=127.0.0.1:5001")
        );
    }

    #[test]
    fn a_directory_with_files_of_others_is_refused() {
        let dir = tempfile::tempdir().expect("directory");
        let files = Files::of(&dir.path().join("state"));
        files.prepare().expect("made");
        files.prepare().expect("empty");
        fs::write(files.pid_file(), "").expect("written");
        assert!(files.prepare().is_err());
        fs::write(files.lock(), "").expect("written");
        files.prepare().expect("one of ours");
    }

    #[test]
    fn nobody_runs_where_the_pid_file_is_old() {
        let dir = tempfile::tempdir().expect("directory");
        let files = Files::of(dir.path());
        assert!(!files.exist());
        assert_eq!(files.running(), None);
        fs::write(files.pid_file(), "1 1 another-boot\n").expect("written");
        assert_eq!(files.running(), None);
        let me = ProcessMark::of(std::process::id()).expect("it runs");
        me.write(&files.pid_file()).expect("written");
        assert_eq!(files.running(), Some(me));
    }
}
