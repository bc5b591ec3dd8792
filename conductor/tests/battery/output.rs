//! What containers write, and commands inside them.

use std::time::Duration;

use engine::{EngineError, LogChunk, LogOptions, OutputStream};
use futures_util::StreamExt;

use crate::harness::{Does, Lab, everywhere, wait_for};

everywhere!(
    a_log_has_both_streams_and_times,
    a_log_can_be_had_from_its_end_or_from_a_time_on,
    a_log_is_followed_until_the_container_ends,
    a_log_of_nobody_is_not_found,
    a_command_inside_gives_code_and_output,
    a_command_inside_that_takes_too_long_is_given_up,
    no_command_runs_in_a_stopped_container,
);

async fn read(lab: &Lab, id: &str, options: LogOptions) -> Vec<LogChunk> {
    let stream = lab.engine.logs(id, options).await.expect("a log");
    let reading = stream.map(|chunk| chunk.expect("a line")).collect();
    let read = tokio::time::timeout(Duration::from_secs(60), reading).await;
    read.expect("it ends")
}

fn lines(chunks: &[LogChunk]) -> Vec<(OutputStream, &str)> {
    let text =
        |chunk: &'_ LogChunk| -> String { String::from_utf8_lossy(&chunk.bytes).into_owned() };
    assert!(chunks.iter().all(|chunk| text(chunk).ends_with('\n')));
    chunks
        .iter()
        .map(|chunk| {
            let line = std::str::from_utf8(&chunk.bytes).expect("text");
            (chunk.stream, line.trim_end())
        })
        .collect()
}

const ALL: [(OutputStream, &str); 3] = [
    (OutputStream::Stdout, "one"),
    (OutputStream::Stderr, "two"),
    (OutputStream::Stdout, "three"),
];

/// The three lines, once they are there.
async fn written(lab: &Lab, id: &str) -> Vec<LogChunk> {
    wait_for(|| async {
        let all = read(lab, id, LogOptions::default()).await;
        if all.len() == ALL.len() {
            Ok(all)
        } else {
            Err(all)
        }
    })
    .await
}

async fn a_log_has_both_streams_and_times(lab: Lab) {
    let id = lab.run(&lab.spec("talk", Does::Writes)).await;
    let started = lab.look(&id).await.running().expect("it runs").started_at;
    let all = written(&lab, &id).await;
    assert_eq!(lines(&all), ALL);
    assert!(all.is_sorted_by_key(|chunk| chunk.at));
    // Docker says to have started it a little after its first words.
    let earliest = (started - 10_000) * 1_000_000;
    assert!(all.iter().all(|chunk| chunk.at > earliest));
}

async fn a_log_can_be_had_from_its_end_or_from_a_time_on(lab: Lab) {
    let id = lab.run(&lab.spec("talk", Does::Writes)).await;
    let all = written(&lab, &id).await;
    let tail = LogOptions {
        tail: Some(1),
        ..LogOptions::default()
    };
    assert_eq!(read(&lab, &id, tail).await, all[2..]);
    let since = |at: i64| LogOptions {
        since: Some(at),
        ..LogOptions::default()
    };
    let from_last = read(&lab, &id, since(all[2].at)).await;
    assert_eq!(from_last.last(), all.last());
    assert!(from_last.iter().all(|chunk| chunk.at >= all[2].at));
    assert_eq!(read(&lab, &id, since(all[2].at + 1)).await, []);
}

async fn a_log_is_followed_until_the_container_ends(lab: Lab) {
    let follow = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let id = lab.run(&lab.spec("talk", Does::Writes)).await;
    let mut stream = lab.engine.logs(&id, follow.clone()).await.expect("a log");
    for (on, line) in ALL {
        let chunk = stream.next().await.expect("more").expect("a line");
        assert_eq!(lines(&[chunk]), [(on, line)]);
    }
    let stopped = lab.engine.stop(&id, Duration::from_secs(30)).await;
    stopped.expect("stopped");
    assert!(stream.next().await.is_none());

    let id = lab.run(&lab.spec("said", Does::WritesAndEnds)).await;
    let all = read(&lab, &id, follow).await;
    assert_eq!(lines(&all), ALL);
}

async fn a_log_of_nobody_is_not_found(lab: Lab) {
    let log = lab.engine.logs("nobody", LogOptions::default()).await;
    assert!(matches!(log.err(), Some(EngineError::NotFound(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_docker_cuts_is_one_line() {
    let lab = Lab::docker().await;
    let long =
        |byte: char| format!("busybox head -c 40000 /dev/zero | busybox tr '\\000' {byte}; echo");
    let mut spec = lab.spec("talk", Does::Runs);
    let script = format!("{}; echo short; {}; printf end", long('x'), long('y'));
    spec.command = Some(shell(&script));
    let id = lab.run(&spec).await;
    let follow = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let followed = read(&lab, &id, follow.clone()).await;
    let lengths = |chunks: &[LogChunk]| -> Vec<(usize, u8)> {
        let last = |chunk: &LogChunk| *chunk.bytes.last().expect("no line is empty");
        chunks.iter().map(|c| (c.bytes.len(), last(c))).collect()
    };
    let all = [(40_001, b'\n'), (6, b'\n'), (40_001, b'\n'), (3, b'd')];
    assert_eq!(lengths(&followed), all);
    assert!(followed.is_sorted_by_key(|chunk| chunk.at));
    assert_eq!(read(&lab, &id, LogOptions::default()).await, followed);
    // Also counted from the end, and from a time on: no part of a line comes twice.
    for lines in 0..=5 {
        let tail = Some(lines);
        for options in [
            LogOptions {
                tail,
                ..LogOptions::default()
            },
            LogOptions {
                tail,
                ..follow.clone()
            },
        ] {
            let wanted = followed.len().saturating_sub(lines as usize);
            assert_eq!(read(&lab, &id, options).await, followed[wanted..]);
        }
    }
    for (index, line) in followed.iter().enumerate() {
        let since = LogOptions {
            since: Some(line.at + 1),
            ..LogOptions::default()
        };
        let later = read(&lab, &id, since).await;
        assert_eq!(later, followed[index + 1..]);
    }
    // Its next process writes lines of its own.
    lab.engine.start(&id).await.expect("started again");
    let twice = lab.until(&id, |seen| seen.running().is_none()).await;
    assert_eq!(twice.docker_id, id);
    let both = read(&lab, &id, LogOptions::default()).await;
    assert_eq!(lengths(&both), [all, all].concat());
}

fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

async fn a_command_inside_gives_code_and_output(lab: Lab) {
    let spec = lab.spec("web", Does::Runs);
    lab.answers(&spec, 7, "out\n", false);
    let id = lab.run(&spec).await;
    let limit = Duration::from_secs(60);
    let output = lab
        .engine
        .exec(&id, &shell("echo out; exit 7"), limit)
        .await;
    let output = output.expect("it ran");
    assert_eq!(output.code, Some(7));
    assert_eq!(String::from_utf8_lossy(&output.output), "out\n");
}

async fn a_command_inside_that_takes_too_long_is_given_up(lab: Lab) {
    let spec = lab.spec("web", Does::Runs);
    lab.answers(&spec, 0, "", true);
    let id = lab.run(&spec).await;
    let limit = Duration::from_millis(300);
    let hangs = shell("echo $$ > /tmp/pid; exec sleep 1000");
    let output = lab.engine.exec(&id, &hangs, limit).await;
    assert_eq!(output.expect("an answer").code, None);
    // Nothing is left of it.
    lab.answers(&spec, 1, "", false);
    let is_there = shell("test -s /tmp/pid && kill -0 $(cat /tmp/pid)");
    let limit = Duration::from_secs(60);
    let gone = async {
        while lab
            .engine
            .exec(&id, &is_there, limit)
            .await
            .expect("it ran")
            .code
            == Some(0)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let gone = tokio::time::timeout(limit, gone).await;
    assert!(gone.is_ok(), "it goes on");
}

async fn no_command_runs_in_a_stopped_container(lab: Lab) {
    let id = lab.create(&lab.spec("web", Does::Runs)).await;
    let limit = Duration::from_secs(60);
    let refused = lab.engine.exec(&id, &shell("exit 0"), limit).await;
    assert!(
        matches!(refused, Err(EngineError::Conflict(_))),
        "{refused:?}"
    );
}
