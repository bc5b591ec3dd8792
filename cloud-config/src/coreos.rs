//! User data for CoreOS Container Linux and Flatcar (`coreos-cloudinit`).
//!
//! The platform puts the host's address in place of `$private_ipv4`. `/usr`
//! cannot be written there, so the program lives in `/opt/bin`.

use serde::Serialize;
use serde_saphyr::LitString;

use crate::files::{ETCD_USER, HEADER, WriteFile, fetch_script, secret_files, tls_paths};
use crate::options::{ConfigError, Etcd, Options};
use crate::unit::{Command, Unit, unit};

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

/// The user data of a CoreOS host: units for etcd, Docker and the agent.
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
    let yaml = serde_saphyr::to_string(&data).map_err(|e| ConfigError::Yaml(e.to_string()))?;
    Ok(format!("{HEADER}{yaml}"))
}

/// The drop-in that makes the platform's etcd a member. Clients are on this
/// host only: the agent.
fn member(discovery: &str, tls: bool) -> String {
    let scheme = if tls { "https" } else { "http" };
    let mut flags = vec![
        "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
        format!("--listen-peer-urls={scheme}://{ADDRESS}:2380"),
        format!("--initial-advertise-peer-urls={scheme}://{ADDRESS}:2380"),
        // systemd's own specifiers start with a percent sign.
        format!("--discovery={}", discovery.replace('%', "%%")),
        "--auto-compaction-retention=1h".to_owned(),
    ];
    let mut lines = vec!["[Service]".to_owned()];
    if tls {
        let paths = tls_paths();
        // The member runs in a container that sees this folder only.
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
    let mut wanted = Unit::new(Command::Agent, Vec::new());
    PROGRAM.clone_into(&mut wanted.program);
    wanted.environment = vec![("HOST_IP".into(), ADDRESS.into())];
    match &options.etcd {
        Etcd::Discovery(_) => {
            wanted
                .environment
                .push(("ETCD_ADDR".into(), "127.0.0.1:2379".into()));
            wanted.after.push("etcd-member.service".into());
        }
        Etcd::Elsewhere(endpoints) => {
            wanted
                .environment
                .push(("ETCD_ADDR".into(), endpoints.join(",")));
            wanted.flags.extend(tls_flags(options));
        }
    }
    if options.etcd_user.is_some() {
        wanted.flags.push(format!("--etcd-user-file={ETCD_USER}"));
    }
    wanted.flags.extend(options.agent_flags.iter().cloned());
    if options.binary.is_some() {
        wanted.before_start.push(vec![FETCH.to_owned()]);
    }
    unit(&wanted)
}

/// The agent's own certificates, for an etcd elsewhere.
pub(crate) fn tls_flags(options: &Options) -> Vec<String> {
    if options.tls.is_none() {
        return Vec::new();
    }
    let paths = tls_paths();
    vec![
        format!("--etcd-ca={}", paths.ca),
        format!("--etcd-cert={}", paths.cert),
        format!("--etcd-key={}", paths.key),
    ]
}
