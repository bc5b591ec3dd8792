//! User data for CoreOS Container Linux and Flatcar (`coreos-cloudinit`).
//!
//! The platform substitutes `$private_ipv4`. `/usr` is read-only, so the program
//! lives in `/opt/bin`.

use serde::Serialize;
use serde_saphyr::LitString;

use crate::files::{WriteFile, fetch_script, secret_files, tls_paths, user_data};
use crate::options::{ConfigError, Etcd, Options};
use crate::unit::{Command, Unit, agent_unit};

const PROGRAM: &str = "/opt/bin/dokkaa";
const FETCH: &str = "/opt/bin/dokkaa-fetch";
const ADDRESS: &str = "$private_ipv4";

#[derive(Debug, Serialize)]
struct UserData {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    write_files: Vec<WriteFile>,
    coreos: CoreOs,
}

#[derive(Debug, Serialize)]
struct CoreOs {
    units: Vec<UnitEntry>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct UnitEntry {
    name: &'static str,
    command: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    enable: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    drop_ins: Vec<DropIn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<LitString>,
}

#[derive(Debug, Serialize)]
struct DropIn {
    name: &'static str,
    content: LitString,
}

/// User data of a CoreOS host: units for etcd, Docker and the agent.
pub fn coreos(options: &Options) -> Result<String, ConfigError> {
    options.check()?;
    let mut units = Vec::new();
    if let Etcd::Discovery(url) = &options.etcd {
        units.push(UnitEntry {
            name: "etcd-member.service",
            command: "start",
            enable: true,
            drop_ins: vec![DropIn {
                name: "10-dokkaa.conf",
                content: LitString(member(url, options.tls.is_some())),
            }],
            content: None,
        });
    }
    units.push(UnitEntry {
        name: "docker.service",
        command: "start",
        enable: true,
        ..UnitEntry::default()
    });
    units.push(UnitEntry {
        name: "dokkaa.service",
        command: "start",
        enable: true,
        content: Some(LitString(agent(options)?)),
        ..UnitEntry::default()
    });

    let mut write_files = secret_files(options);
    if let Some(binary) = &options.binary {
        write_files.push(WriteFile::new(
            FETCH,
            "0755",
            &fetch_script(binary, PROGRAM),
        ));
    }
    let data = UserData {
        write_files,
        coreos: CoreOs { units },
    };
    user_data(&data)
}

/// Drop-in that makes the platform's etcd a member. Its only client is the agent.
fn member(discovery: &str, tls: bool) -> String {
    let scheme = if tls { "https" } else { "http" };
    let mut flags = vec![
        "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
        format!("--listen-peer-urls={scheme}://{ADDRESS}:2380"),
        format!("--initial-advertise-peer-urls={scheme}://{ADDRESS}:2380"),
        // systemd's specifiers start with a percent sign.
        format!("--discovery={}", discovery.replace('%', "%%")),
        "--auto-compaction-retention=1h".to_owned(),
    ];
    let mut lines = vec!["[Service]".to_owned()];
    if tls {
        let paths = tls_paths();
        // The member runs in a container with this folder mounted.
        lines.push("Environment=\"ETCD_SSL_DIR=/etc/dokkaa\"".to_owned());
        let inside = |path: &str| path.replace("/etc/dokkaa", "/etc/ssl/certs");
        flags.push(format!("--peer-trusted-ca-file={}", inside(&paths.ca)));
        flags.push(format!("--peer-cert-file={}", inside(&paths.cert)));
        flags.push(format!("--peer-key-file={}", inside(&paths.key)));
        flags.push("--peer-client-cert-auth".to_owned());
    }
    lines.push(format!("Environment=\"ETCD_OPTS={}\"", flags.join(" ")));
    lines.join("\n") + "\n"
}

fn agent(options: &Options) -> Result<String, ConfigError> {
    let mut base = Unit::new(Command::Agent, Vec::new());
    PROGRAM.clone_into(&mut base.program);
    base.environment = vec![("HOST_IP".into(), ADDRESS.into())];
    agent_unit(
        options,
        base,
        ("etcd-member.service", FETCH),
        |base, etcd| {
            base.environment.push(("ETCD_ADDR".into(), etcd));
        },
    )
}
