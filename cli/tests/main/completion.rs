//! What shells complete.

use super::*;

/// What bash offers for the last word.
pub(super) fn completed(mut command: Command, words: &[&str]) -> Vec<String> {
    command
        .env("DOKKAA_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", words.len().to_string())
        .args(["--", "dokkaa"])
        .args(words);
    let ended = Ended::of(command.output().unwrap()).with(0);
    assert_eq!(ended.err, "");
    ended.out.lines().map(str::to_owned).collect()
}

#[test]
fn completion_knows_apps_containers_slots_and_hosts() {
    let api = TestApi::open();
    for id in ["shop/web", "shop/db", "blog/site"] {
        let id: ContainerId = id.parse().unwrap();
        let revision = api.agent.put_manifest(&id, WEB);
        api.make_ready(&id, 0, revision);
    }
    api.file("shop-manifests/shop/web.json", WEB);
    let offered = |words: &[&str]| completed(api.command(&[]), words);
    assert_eq!(offered(&["get", "sh"]), ["shop/db", "shop/web"]);
    assert_eq!(offered(&["ps", "s"]), ["shop", "shop/db", "shop/web"]);
    assert_eq!(offered(&["scale", "shop/w"]), ["shop/web="]);
    assert_eq!(
        offered(&["volumes", "rm", "blog"]),
        ["blog/site/0", "blog/site/1"]
    );
    assert_eq!(
        offered(&["logs", "-f", "shop/web/"]),
        ["shop/web/0", "shop/web/1"]
    );
    assert_eq!(
        offered(&["apply", "shop"]),
        ["shop/db", "shop/web", "shop-manifests/"]
    );
    assert_eq!(
        offered(&["plan", "shop"]),
        ["shop/db", "shop/web", "shop-manifests/"]
    );
    for command in [&["pause", ""][..], &["hosts", "rm", "h"], &["label", "h"]] {
        assert!(offered(command).contains(&"h1".to_owned()), "{command:?}");
    }
    // Without an agent there are no names, and no words about it.
    let away = |words: &[&str]| {
        let mut command = dokkaa(&[]);
        command.env("DOKKAA_ADDR", "http://127.0.0.1:1");
        completed(command, words)
    };
    assert_eq!(away(&["get", "sh"]), Vec::<String>::new());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut silent = dokkaa(&[]);
    silent.env("DOKKAA_ADDR", listener.local_addr().unwrap().to_string());
    assert_eq!(completed(silent, &["pause", "h"]), Vec::<String>::new());
}

#[test]
fn bash_completes_with_the_script() {
    let api = TestApi::open();
    api.agent.put_manifest(&web(), WEB);
    let program = PathBuf::from(env!("CARGO_BIN_EXE_dokkaa"));
    let mut bash = Command::new("bash");
    bash.args([
        "-c",
        "source <(dokkaa completion bash); COMP_WORDS=(dokkaa get sh); COMP_CWORD=2; COMP_TYPE=9
         _clap_complete_dokkaa dokkaa sh get 2>&1; printf '%s\\n' \"${COMPREPLY[@]}\"",
    ])
    .env(
        "PATH",
        format!("{}:/usr/bin:/bin", program.parent().unwrap().display()),
    )
    .env("DOKKAA_ADDR", format!("http://{}", api.addr));
    let ended = Ended::of(bash.output().expect("bash")).with(0);
    assert_eq!(ended.out, "shop/web\n");
}
