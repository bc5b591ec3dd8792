//! Pid files: a pid with its start time and boot id.
//!
//! Pids are reused; a process is signalled only if start time and boot id match.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use store::state_file;

const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Identity of a process, also after its pid is reused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessMark {
    pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks since boot.
    started: u64,
    boot: String,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was not running.
    Already,
    /// It ended after SIGTERM.
    Asked,
    /// It had to be killed.
    Killed,
}

impl ProcessMark {
    /// The mark of a process that runs now; none if it does not.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        Some(Self {
            pid,
            started: start_time(pid)?,
            boot: boot_id()?,
        })
    }

    /// What `path` says; none if there is no such file or it is not readable.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let mut words = text.split_whitespace();
        Some(Self {
            pid: words.next()?.parse().ok()?,
            started: words.next()?.parse().ok()?,
            boot: words.next()?.to_owned(),
        })
    }

    /// Replaces `path` with this mark.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let line = format!("{} {} {}\n", self.pid, self.started, self.boot);
        state_file::replace(path, line.as_bytes())
    }

    /// The process id.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// True while this very process runs.
    pub(crate) fn is_running(&self) -> bool {
        boot_id().is_some_and(|boot| boot == self.boot)
            && start_time(self.pid) == Some(self.started)
    }

    /// Sends one signal, if the process still runs.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(());
        };
        // The descriptor holds the pid, so the check below stays true.
        let held = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(held) => held,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        if !self.is_running() {
            return Ok(());
        }
        match pidfd_send_signal(&held, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Ends the process: SIGTERM, and SIGKILL when `grace` has passed.
    pub(crate) fn end(&self, grace: Duration) -> io::Result<Ended> {
        if !self.is_running() {
            return Ok(Ended::Already);
        }
        self.signal(Signal::TERM)?;
        if self.wait(grace) {
            return Ok(Ended::Asked);
        }
        self.signal(Signal::KILL)?;
        if self.wait(Duration::from_secs(10)) {
            return Ok(Ended::Killed);
        }
        Err(io::Error::other(format!(
            "process {} does not end",
            self.pid
        )))
    }

    /// True when the process ended within `limit`.
    fn wait(&self, limit: Duration) -> bool {
        let start = Instant::now();
        while self.is_running() {
            if start.elapsed() > limit {
                return false;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        true
    }
}

/// None for a process that is gone or only waits to be reaped.
fn start_time(pid: i32) -> Option<u64> {
    parse_start_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The second field is a name in brackets that may hold blanks and brackets.
fn parse_start_time(stat: &str) -> Option<u64> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sleeper() -> std::process::Child {
        Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn()
            .expect("sleep starts")
    }

    #[test]
    fn start_time_is_read_past_a_name_with_brackets() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse_start_time(stat), Some(4711));
        assert_eq!(parse_start_time(&stat.replace(" S ", " Z ")), None);
        assert_eq!(parse_start_time("7 (a) S 1"), None);
    }

    #[test]
    fn a_mark_survives_its_file_and_ends_its_process() {
        let dir = tempfile::tempdir().expect("directory");
        let file = dir.path().join("x.pid");
        assert_eq!(ProcessMark::read(&file), None);

        let mut child = sleeper();
        let mark = ProcessMark::of(child.id()).expect("it runs");
        mark.write(&file).expect("written");
        assert_eq!(ProcessMark::read(&file).as_ref(), Some(&mark));

        assert!(mark.is_running());
        // The child is reaped here, so the end is seen by its state alone.
        assert_eq!(
            mark.end(Duration::from_secs(10)).expect("ended"),
            Ended::Asked
        );
        assert!(!mark.is_running());
        assert_eq!(
            mark.end(Duration::from_secs(10)).expect("ended"),
            Ended::Already
        );
        child.wait().expect("reaped");
    }

    #[test]
    fn another_process_with_the_same_pid_is_left_alone() {
        let mut child = sleeper();
        let real = ProcessMark::of(child.id()).expect("it runs");
        for other in [
            ProcessMark {
                started: real.started + 1,
                ..real.clone()
            },
            ProcessMark {
                boot: "another boot".into(),
                ..real.clone()
            },
        ] {
            assert_eq!(
                other.end(Duration::ZERO).expect("nothing to do"),
                Ended::Already
            );
            other.signal(Signal::KILL).expect("nothing to do");
        }
        assert!(real.is_running());
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }
}
