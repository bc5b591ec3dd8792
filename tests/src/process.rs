//! A program that the harness started: its log, its signals, its end.
//!
//! Invariant: the program ends when its `Process` is dropped.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::try_wait_for;

/// How long the end of a program may take before that is an error.
const END_CAP: Duration = Duration::from_secs(30);

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// The program itself: not always the child, which may be the `nsenter`
    /// that started it.
    pid: Pid,
    log: PathBuf,
    ended: Option<ExitStatus>,
    /// Held open: its end is the end of the program and of its folder.
    _leash: Option<ChildStdin>,
}

/// Runs, in the folder that the first argument names, the command that
/// follows; at the end of the input it is killed and the folder removed.
const LEASH: &str = r#"
folder=$1; shift
cd "$folder"
exec 3<&0
"$@" </dev/null 3<&- &
program=$!
{ cat <&3 >/dev/null; kill -9 "$program"; rm -rf "$folder"; } 2>/dev/null &
watcher=$!
exec 3<&-
wait "$program"; status=$?
kill "$watcher"
exit "$status"
"#;

/// Whether the child is the program, or starts it as its own child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// The child is the program.
    Directly,
    /// The child forks once, waits, and ends as the program ends.
    ByFork,
}

impl Process {
    /// Starts `command` with its output added to the file `log`.
    pub fn start(
        name: &str,
        command: Command,
        started: Started,
        log: &Path,
    ) -> anyhow::Result<Self> {
        Self::spawn(name, command, started, log, Stdio::null())
    }

    /// Starts `words` on the machine itself, in no node: it ends, and its
    /// folder goes, also when this process is killed.
    pub fn leashed(name: &str, words: &[&str], folder: &Path, log: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("sh");
        command
            .args(["-c", LEASH, "leash"])
            .arg(folder)
            .args(words)
            .env("PATH", crate::needs::path());
        Self::spawn(name, command, Started::ByFork, log, Stdio::piped())
    }

    fn spawn(
        name: &str,
        mut command: Command,
        started: Started,
        log: &Path,
        stdin: Stdio,
    ) -> anyhow::Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("log {}", log.display()))?;
        let mut child = command
            .stdin(stdin)
            .stdout(file.try_clone()?)
            .stderr(file)
            // Ctrl-C is for the harness; what it started ends in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let own = Pid::from_child(&child);
        let mut process = Self {
            name: name.to_owned(),
            _leash: child.stdin.take(),
            child,
            pid: own,
            log: log.to_owned(),
            ended: None,
        };
        if started == Started::ByFork {
            process.pid = process.wait_while_running("start", END_CAP, || {
                child_of(own).ok_or_else(|| "not forked yet".to_owned())
            })?;
        }
        Ok(process)
    }

    /// The program's process id, as seen on the machine.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// All it has printed.
    pub fn log(&self) -> String {
        read_lossy(&self.log)
    }

    /// The file it prints to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Waits until its log has something that `find` recognises.
    pub fn wait_log<T>(
        &mut self,
        what: &str,
        cap: Duration,
        find: impl Fn(&str) -> Option<T>,
    ) -> anyhow::Result<T> {
        let log = self.log.clone();
        self.wait_while_running(what, cap, || {
            let log = read_lossy(&log);
            find(&log).ok_or_else(|| format!("its log:\n{}", tail(&log, 10)))
        })
    }

    /// Waits for something that this program is to bring about; gives up at
    /// once when it ends.
    pub fn wait_while_running<T>(
        &mut self,
        what: &str,
        cap: Duration,
        mut look: impl FnMut() -> Result<T, String>,
    ) -> anyhow::Result<T> {
        let what = format!("{}: {what}", self.name);
        try_wait_for(&what, cap, || match (look(), self.running()) {
            (Ok(value), _) => Ok(Ok(value)),
            (Err(_), Err(ended)) => Ok(Err(ended)),
            (Err(state), Ok(())) => Err(state),
        })?
    }

    /// An error with the end of its log if it has ended.
    pub fn running(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.poll_exit() {
            bail!(
                "{} ended ({status}); end of its log:\n{}",
                self.name,
                tail(&self.log(), 20)
            );
        }
        Ok(())
    }

    /// How it ended, if it has.
    pub fn poll_exit(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.poll_exit().is_some() {
            bail!("{} has ended already", self.name);
        }
        if signal == Signal::CONT {
            self.wake_child();
        }
        kill_process(self.pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// `nsenter` stops with the program that it waits for, but does not go on
    /// with it, nor end with it.
    fn wake_child(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).ok();
    }

    /// Waits for its end; the time that took is given too.
    pub fn wait_exit(&mut self) -> anyhow::Result<(ExitStatus, Duration)> {
        let start = Instant::now();
        let status = try_wait_for(&format!("the end of {}", self.name), END_CAP, || {
            self.poll_exit().ok_or("still running")
        })?;
        Ok((status, start.elapsed()))
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub fn terminate(&mut self) -> anyhow::Result<(ExitStatus, Duration)> {
        self.signal(Signal::TERM)?;
        self.wait_exit()
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if self.poll_exit().is_none() {
            kill_process(self.pid, Signal::KILL).ok();
            self.wake_child();
            self.wait_exit()?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            report(&format!("{error:#}"));
        }
    }
}

/// What a command that has ended left.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command, as one line.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Ran {
    /// Runs `command` to its end.
    pub fn run(mut command: Command, stdin: Option<&[u8]>) -> anyhow::Result<Self> {
        let line = describe(&command);
        let mut child = command
            .stdin(if stdin.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {line}"))?;
        if let (Some(bytes), Some(mut pipe)) = (stdin, child.stdin.take()) {
            // A command that does not read its input is no error of ours.
            pipe.write_all(bytes).ok();
        }
        let output = child.wait_with_output()?;
        Ok(Self {
            command: line,
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Its standard output, or an error if it did not end with 0.
    pub fn ok(self) -> anyhow::Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("{self}");
    }

    /// Its exit code; a signal counts as 128 + its number, as in a shell.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .or_else(|| self.status.signal().map(|signal| 128 + signal))
            .unwrap_or(-1)
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` ended with {}\n{}{}",
            self.command, self.status, self.stdout, self.stderr
        )
    }
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A file as text; empty if it cannot be read.
pub fn read_lossy(path: &Path) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// Says on stderr what went wrong while ending something, where no error can
/// be returned.
pub(crate) fn report(text: &str) {
    writeln!(std::io::stderr(), "dokkaa-tests: {text}").ok();
}

fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

fn child_of(pid: Pid) -> Option<Pid> {
    let raw = pid.as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{raw}/task/{raw}/children")).ok()?;
    let first = children.split_whitespace().next()?.parse().ok()?;
    Pid::from_raw(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_program_shows_its_log() {
        let folder = tempfile::tempdir().expect("folder");
        let mut command = Command::new("sh");
        command.args(["-c", "echo no luck; exit 3"]);
        let mut process =
            Process::start("sh", command, Started::Directly, &folder.path().join("log"))
                .expect("start");
        let (status, _) = process.wait_exit().expect("end");
        assert_eq!(status.code(), Some(3));
        let error = process.running().expect_err("it has ended");
        assert!(error.to_string().contains("no luck"), "{error}");
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let folder = tempfile::tempdir().expect("folder");
        let mut command = Command::new("sleep");
        command.arg("1000");
        let process = Process::start(
            "sleep",
            command,
            Started::Directly,
            &folder.path().join("log"),
        )
        .expect("start");
        let pid = process.pid();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn tail_keeps_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }
}
