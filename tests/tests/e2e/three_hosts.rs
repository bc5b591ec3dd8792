//! Three hosts, set up by exactly what `docs/three-hosts.md` says.
//!
//! Only the addresses are filled in. What the machine does not have is stood
//! in for: `ssh` and `scp` enter the hosts of the lab, `apt-get` finds its
//! packages installed, and `systemctl` starts what the units say.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use dokkaa_tests::process::Ran;
use dokkaa_tests::{Lab, LabOptions, binary, wait_for};

use super::CAP;

const PAGE: &str = include_str!("../../../docs/three-hosts.md");
const SYSTEMCTL: &str = include_str!("systemctl.sh");
const APT_GET: &str = "#!/bin/sh
# update, or install -y of what the machine has already.
[ \"$1\" = install ] || exit 0
shift
for package; do
    [ \"$package\" = -y ] || dpkg-query -W \"$package\" >/dev/null || exit 100
done
";
/// The page's commands run as on a machine of their own that has dokkaa; `$1`
/// is the folder with what they are to find there.
const WORKPLACE: &str = r#"
set -e
mount -t tmpfs tmpfs /usr/local/bin
cp "$1"/bin/* /usr/local/bin/
cd "$1"
exec bash -eu -o pipefail page.sh
"#;

#[test]
fn the_page_makes_a_cluster_with_tls() {
    let lab = Lab::start(&LabOptions {
        hosts: 3,
        images: true,
        agents: None,
        ..LabOptions::default()
    })
    .expect("a lab");
    let folder = lab.folder().join("workplace");
    prepare(&lab, &folder);

    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--", "sh", "-c", WORKPLACE, "page"])
        .arg(&folder);
    let ran = Ran::run(command, None).expect("the page");
    let logs = || {
        let mut text = String::new();
        for host in lab.hosts() {
            let log = host.sh("tail -n 15 /var/log/etcd.log /var/log/dokkaa.log 2>&1 || true");
            writeln!(text, "--- {}\n{}", host.name(), log.unwrap_or_default()).ok();
        }
        text
    };
    assert_eq!(ran.code(), 0, "{ran}\n{}", logs());
    let shown: Vec<&str> = ran
        .stdout
        .lines()
        .filter(|line| line.starts_with('h') && line.contains(" up"))
        .collect();
    assert_eq!(shown.len(), 3, "three hosts, up: {ran}");

    // Nothing warns of what is not encrypted, and nobody gets in without a
    // certificate.
    for host in lab.hosts() {
        let log = host.sh("cat /var/log/dokkaa.log").expect("its log");
        assert!(!log.to_lowercase().contains("plaintext"), "{log}");
        let bare = host
            .run(&[
                "etcdctl",
                "--endpoints",
                &format!("https://{}:2379", host.address()),
                "--insecure-skip-tls-verify",
                "--command-timeout=2s",
                "get",
                "/",
            ])
            .expect("etcdctl");
        assert_ne!(bare.code(), 0, "{bare}");
    }

    // It is a cluster: what one API accepts runs, and any host shows it.
    let answer = lab
        .host(2)
        .put(
            "page",
            "web",
            r#"{"image": "dockerfile/nginx", "scale": 3, "services": {"web": 80}}"#,
        )
        .expect("an answer");
    assert_eq!(answer.status, 201, "{answer:?}");
    wait_for("three ready slots", CAP, || {
        let shown = lab
            .host(3)
            .dokkaa(&["ps"])
            .map_err(|error| error.to_string())?;
        if shown.stdout.matches("ready").count() == 3 {
            Ok(())
        } else {
            Err(format!("{shown}\n{}", logs()))
        }
    });
    assert_eq!(lab.containers("page").expect("containers").len(), 3);
}

/// The page's commands with the lab's addresses, and what they call.
fn prepare(lab: &Lab, folder: &Path) {
    std::fs::create_dir_all(folder.join("bin")).expect("a folder");
    let addresses: Vec<String> = lab
        .hosts()
        .iter()
        .map(|host| host.address().to_string())
        .collect();
    let page = commands(PAGE).replace("10.0.0.1 10.0.0.2 10.0.0.3", &addresses.join(" "));
    for address in &addresses {
        assert!(page.contains(address.as_str()), "{address} in {page}");
    }
    std::fs::write(folder.join("page.sh"), page).expect("page.sh");

    let dokkaa = binary::dokkaa().expect("dokkaa");
    std::fs::copy(dokkaa, folder.join("bin/dokkaa")).expect("a copy");
    let mut which = String::from("case ${1#root@} in\n");
    for host in lab.hosts() {
        writeln!(
            which,
            "{}|{0}:*) on={}/on-{} ;;",
            host.address(),
            lab.folder().display(),
            host.name()
        )
        .expect("a line");
    }
    which.push_str("*) echo \"no host $1\" >&2; exit 255 ;;\nesac\n");
    program(
        &folder.join("bin/ssh"),
        &format!("#!/bin/sh\n{which}shift\nexec $on sh -c \"$*\"\n"),
    );
    program(
        &folder.join("bin/scp"),
        &format!(
            "#!/bin/sh\nset -e\nfrom=$1\nshift\n{which}to=${{1#*:}}\n\
             $on sh -c \"cat >$to\" <\"$from\"\n\
             exec $on chmod \"$(stat -c %a \"$from\")\" \"$to\"\n"
        ),
    );
    for host in lab.hosts() {
        for (name, text) in [("systemctl", SYSTEMCTL), ("apt-get", APT_GET)] {
            let path = format!("/usr/local/bin/{name}");
            host.node()
                .run_with(
                    &["sh", "-c", &format!("cat >{path}")],
                    Some(text.as_bytes()),
                )
                .and_then(Ran::ok)
                .expect(name);
            host.sh(&format!("chmod 755 {path}")).expect(name);
        }
    }
}

fn program(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a program");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
}

/// All that stands in the page's shell blocks.
fn commands(page: &str) -> String {
    page.split("```sh\n")
        .skip(1)
        .filter_map(|block| block.split("```").next())
        .collect()
}
