//! `dokkaa up --example` on a machine with Docker and etcd.

use std::collections::BTreeSet;

use dokkaa_tests::host::Host;
use dokkaa_tests::images::{NGINX, WELCOME};
use dokkaa_tests::process::Ran;
use dokkaa_tests::{Lab, LabOptions, binary, wait_for};

use super::CAP;

#[test]
fn the_example_runs_and_what_was_changed_stays() {
    let lab = Lab::start(&LabOptions {
        hosts: 1,
        images: true,
        agents: None,
        ..LabOptions::default()
    })
    .expect("a lab");
    let host = lab.host(1);
    host.docker(&["tag", NGINX, "nginx:alpine"]).expect("tag");
    let program = binary::dokkaa().expect("dokkaa").display().to_string();
    let dokkaa = |words: &[&str]| {
        let words = [&[program.as_str()], words].concat();
        host.run(&words).and_then(Ran::ok).expect("dokkaa")
    };
    let address = host.address().to_string();
    let example = || dokkaa(&["up", "--example", "--host-ip", &address]);

    let said = example();
    assert!(page(host, &said).contains(WELCOME), "{said}");
    let containers = running(host);
    assert_eq!(containers.len(), 2, "{said}");

    dokkaa(&["scale", "hello/web=2", "--wait"]);
    let said = example();
    assert!(page(host, &said).contains(WELCOME), "{said}");
    assert!(dokkaa(&["get", "hello/web"]).contains("\"scale\": 2"));
    assert_eq!(running(host).intersection(&containers).count(), 2);
    assert_eq!(running(host).len(), 3);

    // Removed by somebody, it is asked for anew.
    dokkaa(&["rm", "hello", "--yes"]);
    wait_for("the example to be gone", CAP, || match running(host) {
        gone if gone.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    let said = example();
    assert!(page(host, &said).contains(WELCOME), "{said}");

    dokkaa(&["down"]);
    assert!(running(host).is_empty());
}

/// What is at the address that `up --example` said.
fn page(host: &Host, said: &str) -> String {
    let url = said
        .lines()
        .find_map(|line| line.strip_prefix("The example runs: "))
        .unwrap_or_else(|| panic!("no address in {said}"));
    host.curl(&["-sS", url]).expect("curl")
}

fn running(host: &Host) -> BTreeSet<String> {
    let ids = host.docker(&["ps", "-q"]).expect("docker");
    ids.lines().map(str::to_owned).collect()
}
