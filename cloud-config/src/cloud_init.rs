//! User data for Debian and Ubuntu (cloud-init).
//!
//! cloud-init fills in no address, so an etcd member looks up its own when it
//! starts, as the agent does. Files are written before packages are installed,
//! so that their services start with the right configuration.

use serde::Serialize;
use serde_saphyr::FlowSeq;

use crate::files::{WriteFile, fetch_script, secret_files, tls_paths, user_data};
use crate::options::{ConfigError, Etcd, Options};
use crate::unit::{Command, Unit, agent_unit};

const PROGRAM: &str = "/usr/local/bin/dokkaa";
const FETCH: &str = "/usr/local/lib/dokkaa/fetch";
const MEMBER: &str = "/usr/local/lib/dokkaa/etcd";

#[derive(Debug, Serialize)]
struct UserData {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bootcmd: Vec<FlowSeq<Vec<&'static str>>>,
    package_update: bool,
    packages: Vec<&'static str>,
    write_files: Vec<WriteFile>,
    runcmd: Vec<FlowSeq<Vec<&'static str>>>,
}

/// User data of a Debian or Ubuntu host.
pub fn cloud_init(options: &Options) -> Result<String, ConfigError> {
    options.check()?;
    let mut packages = vec!["docker.io", "curl"];
    let mut write_files = secret_files(options);
    let (mut bootcmd, mut runcmd) = (Vec::new(), Vec::new());
    if let Etcd::Discovery(url) = &options.etcd {
        // A member that is stopped while it waits for the others can't register again, so it is started once, by
        // `runcmd`: not by its package, nor with another configuration by an image that brings etcd. `bootcmd` is run at
        // every boot, and before the package is there.
        bootcmd.push(FlowSeq(vec![
            "cloud-init-per",
            "instance",
            "dokkaa-etcd",
            "systemctl",
            "mask",
            "--runtime",
            "etcd",
        ]));
        runcmd.push(FlowSeq(vec!["systemctl", "unmask", "--runtime", "etcd"]));
        packages.extend(["etcd-server", "etcd-client", "iproute2"]);
        write_files.push(WriteFile::new(
            MEMBER,
            "0755",
            &member(url, options.tls.is_some()),
        ));
        write_files.push(WriteFile::new(
            "/etc/systemd/system/etcd.service.d/dokkaa.conf",
            "0644",
            &member_drop_in(options.tls.is_some()),
        ));
    }
    if let Some(binary) = &options.binary {
        write_files.push(WriteFile::new(
            FETCH,
            "0755",
            &fetch_script(binary, PROGRAM),
        ));
    }
    let base = Unit::new(Command::Agent, Vec::new());
    write_files.push(WriteFile::new(
        "/etc/systemd/system/dokkaa.service",
        "0644",
        &agent_unit(options, base, ("etcd.service", FETCH), |base, etcd| {
            base.flags.push(format!("--etcd={etcd}"));
        })?,
    ));
    runcmd.push(FlowSeq(vec!["systemctl", "daemon-reload"]));
    if matches!(options.etcd, Etcd::Discovery(_)) {
        runcmd.push(FlowSeq(vec!["systemctl", "enable", "etcd"]));
        runcmd.push(FlowSeq(vec!["systemctl", "restart", "etcd"]));
    }
    // --no-block: the program may be copied to the host later.
    runcmd.push(FlowSeq(vec![
        "systemctl",
        "enable",
        "--now",
        "--no-block",
        "docker",
        "dokkaa",
    ]));
    let data = UserData {
        bootcmd,
        package_update: true,
        packages,
        write_files,
        runcmd,
    };
    user_data(&data)
}

/// Script that runs the host's etcd member.
fn member(discovery: &str, tls: bool) -> String {
    let scheme = if tls { "https" } else { "http" };
    let peer_tls = if tls {
        let paths = tls_paths();
        // systemd's credential: etcd runs as a user who cannot read root's key.
        format!(
            "\x20   --peer-trusted-ca-file={} \\\n\
             \x20   --peer-cert-file={} \\\n\
             \x20   --peer-key-file=\"$CREDENTIALS_DIRECTORY/key\" \\\n\
             \x20   --peer-client-cert-auth \\\n",
            paths.ca, paths.cert
        )
    } else {
        String::new()
    };
    format!(
        "#!/bin/sh\n\
         # Runs etcd at the address that this host reaches others with.\n\
         set -e\n\
         ip=$(ip -4 -o route get 192.0.2.1 | sed -n 's/.* src \\([0-9.]*\\).*/\\1/p')\n\
         [ -n \"$ip\" ]\n\
         exec env -u ETCD_NAME -u ETCD_DATA_DIR /usr/bin/etcd --name=\"$(hostname)\" --data-dir=/var/lib/etcd/dokkaa \\\n\
         \x20   --listen-client-urls=http://127.0.0.1:2379 \\\n\
         \x20   --advertise-client-urls=http://127.0.0.1:2379 \\\n\
         \x20   --listen-peer-urls=\"{scheme}://$ip:2380\" \\\n\
         \x20   --initial-advertise-peer-urls=\"{scheme}://$ip:2380\" \\\n\
         {peer_tls}\
         \x20   --discovery='{discovery}' --auto-compaction-retention=1h\n"
    )
}

/// What differs from Debian's unit. `Type=exec`: etcd says that it is ready with a quorum, and at first with all members.
/// Debian's unit kills it after 90 s of that, and so long the agent, which is ordered after it, would wait. Nor does it
/// start etcd again that ended by itself.
fn member_drop_in(tls: bool) -> String {
    let credential = if tls {
        format!("LoadCredential=key:{}\n", tls_paths().key)
    } else {
        String::new()
    };
    format!(
        "[Service]\nType=exec\nExecStart=\nExecStart={MEMBER}\nRestart=on-failure\nRestartSec=5\n{credential}"
    )
}
