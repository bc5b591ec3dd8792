//! The texts against golden files, and against the programs that read them.
//!
//! `REWRITE=1 cargo test -p cloud-config` writes the files anew.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use cloud_config::{Binary, Command, Etcd, Options, Tls, Unit, cloud_init, coreos, unit};

fn pem(kind: &str) -> String {
    format!("-----BEGIN {kind}-----\nMIIB\n-----END {kind}-----\n")
}

fn discovery() -> Options {
    Options {
        etcd: Etcd::Discovery("https://discovery.example/3f8a?size=3&x=%41".into()),
        tls: None,
        binary: None,
        etcd_user: None,
        agent_flags: Vec::new(),
    }
}

/// Everything that can be said.
fn full() -> Options {
    Options {
        tls: Some(Tls {
            ca: pem("CERTIFICATE"),
            cert: pem("CERTIFICATE"),
            key: pem("PRIVATE KEY"),
        }),
        binary: Some(Binary {
            url: "https://files.example/dokkaa-0.1.0".into(),
            sha256: "a".repeat(64),
        }),
        etcd_user: Some("agent:pass:word".into()),
        agent_flags: vec!["--label=zone=a".into(), "--label=note=it's 5% full".into()],
        ..discovery()
    }
}

fn elsewhere() -> Options {
    Options {
        etcd: Etcd::Elsewhere(vec![
            "https://10.0.0.1:2379".into(),
            "https://10.0.0.2:2379".into(),
        ]),
        binary: None,
        ..full()
    }
}

fn cases() -> [(&'static str, Options); 3] {
    [
        ("discovery", discovery()),
        ("full", full()),
        ("elsewhere", elsewhere()),
    ]
}

#[track_caller]
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("REWRITE").is_some() {
        fs::write(&path, text).unwrap();
    }
    let wanted = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        wanted == text,
        "{name} is another than its golden file:\n{text}"
    );
}

/// The value of a YAML text, by a reader of its own.
fn read(yaml: &str) -> serde_json::Value {
    serde_saphyr::from_str(yaml).unwrap()
}

#[test]
fn texts_are_the_golden_files() {
    for (name, options) in cases() {
        golden(&format!("coreos-{name}.yaml"), &coreos(&options).unwrap());
        golden(
            &format!("cloud-init-{name}.yaml"),
            &cloud_init(&options).unwrap(),
        );
    }
    golden("agent.service", &unit(&agent_unit()).unwrap());
    golden(
        "up.service",
        &unit(&Unit::new(Command::Up, Vec::new())).unwrap(),
    );
}

#[test]
fn both_name_their_kind_in_the_first_line() {
    for (_, options) in cases() {
        for text in [coreos(&options).unwrap(), cloud_init(&options).unwrap()] {
            assert_eq!(text.lines().next(), Some("#cloud-config"));
        }
    }
}

#[test]
fn units_survive_the_yaml() {
    let data = read(&coreos(&full()).unwrap());
    let units = data["coreos"]["units"].as_array().unwrap();
    let names: Vec<&str> = units.iter().map(|u| u["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["etcd-member.service", "docker.service", "dokkaa.service"]
    );
    let agent = units[2]["content"].as_str().unwrap();
    assert!(
        agent.contains("\nEnvironment=HOST_IP=$private_ipv4\n"),
        "{agent}"
    );
    assert!(agent.ends_with("WantedBy=multi-user.target\n"));
    // Both quotings at once: systemd's percent sign, a blank, an apostrophe.
    assert!(agent.contains("\"--label=note=it's 5%% full\""), "{agent}");

    let data = read(&cloud_init(&full()).unwrap());
    let key = data["write_files"]
        .as_array()
        .unwrap()
        .iter()
        .find(|f| f["path"] == "/etc/dokkaa/etcd-key.pem")
        .unwrap();
    assert_eq!(key["permissions"], "0600");
    assert_eq!(key["content"], pem("PRIVATE KEY"));
}

#[test]
fn a_member_of_etcd_is_started_once_and_waits_for_the_others() {
    let data = read(&cloud_init(&discovery()).unwrap());
    let files = data["write_files"].as_array().unwrap();
    let drop_in = |file: &&serde_json::Value| {
        let path = file["path"].as_str().unwrap();
        path.ends_with("/etcd.service.d/dokkaa.conf")
    };
    let text = files.iter().find(drop_in).unwrap()["content"].as_str();
    for line in ["Type=exec", "Restart=on-failure"] {
        assert!(text.unwrap().lines().any(|has| has == line), "{text:?}");
    }
    let commands = |key: &str| -> Vec<String> {
        let commands = data[key].as_array().unwrap().iter();
        let words = commands.map(|words| words.as_array().unwrap().iter());
        words
            .map(|words| {
                words
                    .map(|word| word.as_str().unwrap())
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect()
    };
    assert!(commands("bootcmd")[0].ends_with("systemctl mask --runtime etcd"));
    let run = commands("runcmd");
    let at = |command: &str| run.iter().position(|run| run == command);
    assert!(at("systemctl unmask --runtime etcd") < at("systemctl restart etcd"));
    assert!(at("systemctl unmask --runtime etcd").is_some());

    let without = read(&cloud_init(&elsewhere()).unwrap());
    assert!(without["bootcmd"].is_null());
}

#[test]
fn cloud_init_accepts_it() {
    let dir = Scratch::new("schema");
    for (name, options) in cases() {
        let file = dir.0.join(format!("{name}.yaml"));
        fs::write(&file, cloud_init(&options).unwrap()).unwrap();
        let answer = cloud_init_program()
            .args(["schema", "--config-file"])
            .arg(&file)
            .output()
            .unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&answer.stdout),
            String::from_utf8_lossy(&answer.stderr)
        );
        assert!(answer.status.success() && said.contains("Valid"), "{said}");
    }
}

#[test]
fn systemd_accepts_every_unit() {
    let dir = Scratch::new("units");
    let mut texts = vec![
        ("agent", unit(&agent_unit()).unwrap()),
        ("up", unit(&Unit::new(Command::Up, Vec::new())).unwrap()),
    ];
    for (name, options) in cases() {
        let data = read(&coreos(&options).unwrap());
        let units = data["coreos"]["units"].as_array().unwrap();
        let agent = units
            .iter()
            .find(|u| u["name"] == "dokkaa.service")
            .unwrap();
        texts.push((name, agent["content"].as_str().unwrap().to_owned()));
    }
    for (name, text) in texts {
        // It also looks whether the programs are there: these always are.
        let text = text
            .replace("/usr/local/bin/dokkaa ", "/bin/true ")
            .replace("/opt/bin/dokkaa-fetch", "/bin/true")
            .replace("/opt/bin/dokkaa ", "/bin/true ");
        let file = dir.0.join(format!("dokkaa-test-{name}.service"));
        fs::write(&file, &text).unwrap();
        let answer = Process::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&answer.stderr);
        let about_ours: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("dokkaa-test"))
            .collect();
        assert!(
            answer.status.success() && about_ours.is_empty(),
            "{text}\n{said}"
        );
    }
}

#[test]
fn scripts_are_scripts() {
    let data = read(&cloud_init(&full()).unwrap());
    let mut seen = 0;
    for file in data["write_files"].as_array().unwrap() {
        let text = file["content"].as_str().unwrap();
        if !text.starts_with("#!/bin/sh\n") {
            continue;
        }
        seen += 1;
        let answer = Process::new("sh")
            .args(["-n", "-c", text])
            .output()
            .unwrap();
        assert!(answer.status.success(), "{text}");
    }
    assert_eq!(seen, 2);
}

fn agent_unit() -> Unit {
    Unit::new(
        Command::Agent,
        [
            "--etcd=https://10.0.0.1:2379,https://10.0.0.2:2379,https://10.0.0.3:2379",
            "--etcd-ca=/etc/dokkaa/ca.pem",
            "--etcd-cert=/etc/dokkaa/host.pem",
            "--etcd-key=/etc/dokkaa/host.key",
        ]
        .map(str::to_owned)
        .into(),
    )
}

/// cloud-init where it is installed, else as `scripts/setup.sh` unpacks it.
fn cloud_init_program() -> Process {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let modules = unpacked.join("usr/lib/python3/dist-packages");
    if !Path::new("/usr/bin/cloud-init").exists() && modules.exists() {
        let mut program = Process::new("/usr/bin/python3");
        program
            .args(["-m", "cloudinit.cmd.main"])
            .env("PYTHONPATH", modules);
        return program;
    }
    Process::new("/usr/bin/cloud-init")
}

/// A folder of one test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("cloud-config-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
