//! Without an agent that answers.

use super::*;

#[test]
fn no_agent_is_exit_code_6_with_what_to_do() {
    // A port that nobody listens on: bound and left.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let addr = format!("http://127.0.0.1:{port}");
    for args in [
        &["ps"][..],
        &["hosts"],
        &["status"],
        &["get", "shop/web"],
        &["why", "shop/web"],
        &["dns", "web.shop"],
        &["logs", "shop/web"],
        &["rm", "shop/web", "--yes"],
        &["scale", "shop/web=1"],
    ] {
        let mut command = dokkaa(args);
        let ended = Ended::of(command.args(["--addr", &addr]).output().unwrap()).with(6);
        assert!(ended.err.contains("dokkaa up") && ended.err.contains("DOKKAA_ADDR"));
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    }
}

#[test]
fn a_silent_agent_is_given_up_after_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let ended = Ended::of(
        dokkaa(&["ps", "--addr", &addr, "--timeout", "300ms"])
            .output()
            .unwrap(),
    )
    .with(6);
    assert!(
        ended.err.contains("no answer within 300ms"),
        "{}",
        ended.err
    );
}

#[test]
fn who_waits_for_long_is_told_for_what() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let mut waiting = dokkaa(&["status", "--addr", &addr]).spawn().unwrap();
    let mut line = String::new();
    let mut stderr = BufReader::new(waiting.stderr.take().unwrap());
    stderr.read_line(&mut line).unwrap();
    assert_eq!(
        line,
        format!("waiting for http://{addr} to answer, for 30s at most; --timeout sets that\n")
    );
    waiting.kill().unwrap();
    waiting.wait().unwrap();
}

#[test]
fn what_is_no_agent_is_said_to_be_none() {
    let runtime = Runtime::new().unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    runtime.spawn(async move { axum::serve(listener, Router::new()).await });
    let ended = Ended::of(dokkaa(&["ps", "--addr", &addr]).output().unwrap()).with(1);
    assert!(ended.err.contains("is not a dokkaa agent"), "{}", ended.err);
}
