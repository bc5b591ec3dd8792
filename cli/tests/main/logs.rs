//! `logs` and `events`.

use super::*;

#[test]
fn logs_of_an_app_are_merged_and_say_whose_they_are() {
    let api = TestApi::open();
    let job: ContainerId = "shop/job".parse().unwrap();
    for id in [web(), job.clone()] {
        let revision = api.agent.put_manifest(&id, r#"{"image": "a"}"#);
        api.make_ready(&id, 0, revision);
    }
    api.agent
        .log(&web().slot(0), [record(0, "one"), record(20, "three")]);
    api.agent.log(&job.slot(0), [record(10, "two\u{1b}[2J")]);
    let ended = api.run(&["logs", "shop"]).with(0);
    assert_eq!(
        ended.out, "web/0 | one\njob/0 | two\u{1b}[2J\nweb/0 | three\n",
        "in a pipe as they were written"
    );
    let json = api.run(&["logs", "shop", "-o", "json"]).with(0).out;
    assert!(
        json.lines()
            .nth(1)
            .unwrap()
            .contains(r#""container":"job""#),
        "{json}"
    );
    let ended = api.run(&["logs", "none"]).with(1);
    assert_eq!(ended.err, "there is no app none\n");
}

#[test]
fn logs_are_plain_for_one_slot_and_named_for_several() {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(&web(), WEB);
    for slot in 0..2 {
        api.make_ready(&web(), slot, revision);
    }
    api.agent
        .log(&web().slot(0), [record(0, "zero"), record(20, "again")]);
    api.agent.log(&web().slot(1), [record(10, "one")]);
    let ended = api.run(&["logs", "shop/web"]).with(0);
    assert_eq!(ended.out, "h1/0 | zero\nh1/1 | one\nh1/0 | again\n");
    let ended = api
        .run(&["logs", "-t", "--tail", "1", "shop/web/0"])
        .with(0);
    assert_eq!(ended.out, "2023-11-14T22:13:20.02Z again\n");
    let ended = api.run(&["logs", "-o", "json", "shop/web/1"]).with(0);
    assert_eq!(ended.json()["line"], "one");
    let ended = api.run(&["logs", "--previous", "shop/web/0"]).with(0);
    assert_eq!((ended.out.as_str(), ended.err.lines().count()), ("", 1));
    // A host that is not reached is a line, not an error.
    api.agent.claim(&web().slot(1), "h2", revision);
    let ended = api.run(&["logs", "shop/web"]).with(0);
    assert!(
        ended.err.starts_with("(host h2 unreachable"),
        "{}",
        ended.err
    );
    assert_eq!(ended.out.lines().count(), 2);
    api.run(&["logs", "shop/none"]).with(1);
    api.run(&["logs", "shop/web", "--since", "yesterday"])
        .with(2);
}

#[test]
fn followed_logs_go_on_as_lines_come() {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(&web(), WEB);
    api.make_ready(&web(), 0, revision);
    api.agent.log(&web().slot(0), [record(0, "first")]);
    let mut running = Running::start(api.command(&["logs", "-f", "shop/web/0"]));
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "first");
    api.agent.log(&web().slot(0), [record(1, "second")]);
    assert_eq!(lines.next().unwrap().unwrap(), "second");
}

#[test]
fn events_are_a_line_each_and_json_for_programs() {
    let api = TestApi::open();
    let now = jiff::Timestamp::now().as_millisecond();
    let exited = Happened::of_slot(&web().slot(0), Kind::Exited, "exit code 1");
    api.agent.happens(now - 7_200_000, exited.clone());
    api.agent.happens(now - 2_000, exited);
    api.agent
        .happens(now - 1_000, Happened::here(Kind::EngineBack, ""));
    let ended = api.run(&["events"]).with(0);
    let lines: Vec<&str> = ended.out.lines().collect();
    let [first, last] = lines.as_slice() else {
        panic!("those of the last hour: {lines:?}");
    };
    assert!(
        first.ends_with("  h1        shop/web/0        exited      exit code 1"),
        "{first}"
    );
    assert!(
        last.ends_with("  h1        -                 engine-back"),
        "{last}"
    );
    let ended = api
        .run(&["events", "shop/web", "--since", "1d", "-o", "json"])
        .with(0);
    let events: Vec<Value> = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 2, "{}", ended.err);
    assert_eq!(events[0]["kind"], "exited");
    assert_eq!(events[0]["container"], "web");
    let ended = api.run(&["events", "--since", "yesterday"]).with(2);
    assert!(ended.err.contains("10m"), "{}", ended.err);
}

#[test]
fn a_reader_that_goes_away_is_a_clean_end() {
    let api = TestApi::open();
    api.agent.put_manifest(&web(), WEB);
    api.file("web.json", WEB);
    for args in [
        &["ps"][..],
        &["ps", "-o", "json"],
        &["ps", "--watch"],
        &["get", "shop/web"],
        &["validate", "web.json"],
        &["completion", "bash"],
        &["version"],
        &["--help"],
        &["cloud-config", "--format", "unit"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = api.command(args);
        command.stdout(writer);
        let ended = Ended::of(command.output().unwrap());
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{args:?}");
    }
}
