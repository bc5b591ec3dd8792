//! A state directory on a full disk: what runs runs on, and nothing is promised that could not be kept.

use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::engine::Container;
use dokkaa_tests::wait_for;
use serde_json::json;

use super::{CAP, Cluster, web, with};

/// On a small file system of its own while `with` runs.
const SMALL: &str = "set -e
rm -rf /run/kept && cp -a /var/lib/dokkaa /run/kept
mount -t tmpfs -o size=1m tmpfs /var/lib/dokkaa
cp -a /run/kept/. /var/lib/dokkaa/";

const BIG: &str = "set -e
rm -f /var/lib/dokkaa/fill
rm -rf /run/kept && cp -a /var/lib/dokkaa /run/kept
umount /var/lib/dokkaa
cp -a /run/kept/. /var/lib/dokkaa/";

#[test]
fn a_full_state_directory_stops_nothing_and_joins_nothing() {
    let cluster = Cluster::take();
    let app = cluster.app("full");
    let host = cluster.lab.host(2);
    host.stop_agent().expect("stop");
    host.sh(SMALL).expect("a small disk");
    host.start_agent(&AgentOptions::default()).expect("start");
    app.put("web", &with(web("first"), "scale", json!(3)));
    app.ready("web", 3);

    host.sh("dd if=/dev/zero of=/var/lib/dokkaa/fill bs=4k 2>&1 | grep -q 'No space left'")
        .expect("a full disk");
    // A running agent needs the disk for nothing that can't wait.
    app.put("web", &with(web("second"), "scale", json!(6)));
    app.ready("web", 6);

    // One that starts can't note its session, so it must not write its record; what runs here runs on.
    let running = || {
        let all = host.containers(&app.name).expect("docker");
        let running = all.into_iter().filter(Container::runs);
        running.map(|c| c.id).collect::<Vec<_>>()
    };
    let before = running();
    assert!(!before.is_empty());
    host.kill_agent().expect("kill");
    host.launch_agent(&AgentOptions::default()).expect("start");
    wait_for("the log to say why", CAP, || {
        let log = host.agent_log();
        if log.contains("No space left") {
            Ok(())
        } else {
            Err(dokkaa_tests::process::tail(&log, 10))
        }
    });
    assert_eq!(running(), before);

    host.sh("rm /var/lib/dokkaa/fill").expect("rm");
    host.wait_agent().expect("it joins");
    app.ready("web", 6);
    host.stop_agent().expect("stop");
    host.sh(BIG).expect("the disk as it was");
    host.start_agent(&AgentOptions::default()).expect("start");
    app.ready("web", 6);
}
