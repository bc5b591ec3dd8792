//! `hosts --check`: which host reaches which, and what is in the way.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use gateway::v1::types::{CheckProblem, CheckedPort, HostsCheck, Reach, Tried};
use hyper::Method;
use manifests::HostName;

use super::client::Client;
use super::error::CommandError;
use super::output::{self, wrapped};
use crate::args::{Format, GlobalArgs};

const LEGEND: &str = "peer port/instance port in ms; t timed out, r refused, u unreachable, \
                      s silent, w wrong answer, ? not tried";
/// Between two columns.
const GAP: usize = 2;

pub(super) async fn run(global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let check: HostsCheck = client
        .send(Method::POST, "check", &[], Bytes::new())
        .await?;
    if global.output == Format::Json {
        output::json(&check)?;
    } else {
        check.notices.iter().for_each(|notice| output::note(notice));
        output::print(&text(&check, output::columns()))?;
    }
    match check.problems.len() {
        0 => Ok(()),
        n => Err(CommandError::Failed(format!(
            "{} between hosts",
            output::count(n, "problem")
        ))),
    }
}

fn text(check: &HostsCheck, room: Option<usize>) -> String {
    let mut text = String::new();
    let fails = check.tries.iter().any(|one| one.result != Reach::Open);
    if let Some(matrix) = matrix(check, room) {
        text += &matrix;
        let legend = if fails {
            LEGEND
        } else {
            "peer port/instance port in ms"
        };
        for line in wrapped(legend, room.unwrap_or(usize::MAX)) {
            let _ = writeln!(text, "{line}");
        }
    }
    for problem in &check.problems {
        text += "\n";
        text += &lines(problem, room);
    }
    if check.problems.is_empty() {
        let _ = match check.hosts.as_slice() {
            [only] => writeln!(text, "{only} is the only host"),
            hosts => writeln!(text, "\nall {} hosts reach each other", hosts.len()),
        };
    }
    text
}

/// A problem, and below it the command that helps, in one piece.
fn lines(problem: &CheckProblem, room: Option<usize>) -> String {
    let from: Vec<&str> = problem.from.iter().map(HostName::as_str).collect();
    let way = if from.is_empty() {
        problem.to.to_string()
    } else {
        format!("{} -> {}", from.join(", "), problem.to)
    };
    let what = output::one_line(&format!("{way}: {}", problem.problem));
    let mut text = String::new();
    for (n, line) in wrapped(
        &what,
        room.map_or(usize::MAX, |room| room.saturating_sub(4)),
    )
    .iter()
    .enumerate()
    {
        let indent = if n == 0 { "" } else { "    " };
        let _ = writeln!(text, "{indent}{line}");
    }
    if let Some(help) = &problem.help {
        let _ = writeln!(text, "    {}", output::one_line(help));
    }
    text
}

/// Who tried in the rows, whom in the columns: under their names, under numbers where those don't fit, or none.
fn matrix(check: &HostsCheck, room: Option<usize>) -> Option<String> {
    if check.hosts.len() < 2 {
        return None;
    }
    let mut cells: BTreeMap<(&HostName, &HostName), [Option<&Tried>; 2]> = BTreeMap::new();
    for tried in &check.tries {
        let pair = cells.entry((&tried.from, &tried.to)).or_default();
        pair[usize::from(tried.port == CheckedPort::Instance)] = Some(tried);
    }
    let numbered = |n: usize| (n + 1).to_string();
    let by_name = |_, host: &HostName| host.to_string();
    let rows = |head: &dyn Fn(usize, &HostName) -> String,
                first: &dyn Fn(usize, &HostName) -> String| {
        let mut rows = vec![vec!["FROM \\ TO".to_owned()]];
        rows[0].extend(
            check
                .hosts
                .iter()
                .enumerate()
                .map(|(n, host)| head(n, host)),
        );
        for (n, from) in check.hosts.iter().enumerate() {
            let row = check.hosts.iter().map(|to| {
                if from == to {
                    return "-".to_owned();
                }
                let [peer, instance] = cells.get(&(from, to)).copied().unwrap_or_default();
                format!("{}/{}", cell(peer), cell(instance))
            });
            rows.push(std::iter::once(first(n, from)).chain(row).collect());
        }
        laid_out(&rows, room)
    };
    let numbers = |n, _: &HostName| numbered(n);
    let both = |n, host: &HostName| format!("{} {host}", numbered(n));
    rows(&by_name, &by_name).or_else(|| rows(&numbers, &both))
}

fn cell(tried: Option<&Tried>) -> String {
    let Some(tried) = tried else {
        return "?".to_owned();
    };
    let letter = match tried.result {
        Reach::Open => return tried.ms.unwrap_or(1).to_string(),
        Reach::Refused => "r",
        Reach::TimedOut => "t",
        Reach::Unreachable => "u",
        Reach::Silent => "s",
        Reach::Wrong => "w",
        Reach::Unknown => "?",
    };
    letter.to_owned()
}

/// None if it is wider than the terminal.
fn laid_out(rows: &[Vec<String>], room: Option<usize>) -> Option<String> {
    let columns = rows.first()?.len();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max();
    let widths: Vec<usize> = (0..columns).filter_map(width).collect();
    let all = widths.iter().sum::<usize>() + GAP * (columns - 1);
    if room.is_some_and(|room| all > room) {
        return None;
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}{:GAP$}", "");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(from: &str, to: &str, port: CheckedPort, result: Reach, ms: u64) -> Tried {
        Tried {
            from: from.parse().expect("a name"),
            to: to.parse().expect("a name"),
            port,
            at: None,
            slot: None,
            result,
            ms: (result == Reach::Open).then_some(ms),
            why: None,
            range: None,
            firewall: None,
        }
    }

    fn all(names: &[String], ms: u64) -> HostsCheck {
        let mut tries = Vec::new();
        for from in names {
            for to in names.iter().filter(|to| *to != from) {
                for port in [CheckedPort::Peer, CheckedPort::Instance] {
                    tries.push(tried(from, to, port, Reach::Open, ms));
                }
            }
        }
        HostsCheck {
            hosts: names
                .iter()
                .map(|name| name.parse().expect("a name"))
                .collect(),
            tries,
            ..HostsCheck::default()
        }
    }

    fn names(prefix: &str, count: usize) -> Vec<String> {
        (1..=count).map(|n| format!("{prefix}{n:02}")).collect()
    }

    #[test]
    fn ten_hosts_fit_a_terminal_by_number_if_not_by_name() {
        let check = all(&names("h", 10), 10);
        let shown = text(&check, Some(80));
        assert!(shown.starts_with("FROM \\ TO  h01    h02"), "{shown}");
        let long = all(&names("ip-10-0-0-1", 10), 7);
        let shown = text(&long, Some(80));
        assert!(shown.contains("\n3 ip-10-0-0-103   7/7  7/7  -"), "{shown}");
        assert!(
            shown.ends_with("\nall 10 hosts reach each other\n"),
            "{shown}"
        );
        assert!(shown.lines().all(|line| line.len() <= 80), "{shown}");
        assert!(text(&long, None).contains("FROM \\ TO      ip-10-0-0-101"));
        let many = text(&all(&names("h", 32), 10), Some(80));
        assert_eq!(many, "\nall 32 hosts reach each other\n");
        let one = text(&all(&names("h", 1), 1), Some(80));
        assert_eq!(one, "h01 is the only host\n");
    }

    #[test]
    fn a_problem_is_wrapped_and_its_command_is_not() {
        let mut check = all(&["h1", "h2"].map(str::to_owned), 2);
        check.tries[1].result = Reach::TimedOut;
        check.tries.truncate(2);
        let command = "on h2: iptables -I INPUT -s 10.0.0.1 -p tcp --dport 20000:29999 -j ACCEPT";
        check.problems.push(CheckProblem {
            from: vec!["h1".parse().expect("a name")],
            to: "h2".parse().expect("a name"),
            problem: "port 10.0.0.2:29999/tcp times out: a firewall?".to_owned(),
            help: Some(command.to_owned()),
        });
        assert_eq!(
            text(&check, Some(44)),
            format!(
                "FROM \\ TO  h1   h2\n\
                 h1         -    2/t\n\
                 h2         ?/?  -\n\
                 peer port/instance port in ms; t timed out,\n\
                 r refused, u unreachable, s silent, w wrong\n\
                 answer, ? not tried\n\
                 \n\
                 h1 -> h2: port 10.0.0.2:29999/tcp times\n    out: a firewall?\n    {command}\n"
            )
        );
    }
}
