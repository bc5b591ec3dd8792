//! `make lab`: hosts with agents to play with, until ctrl-C.

use std::io::Write;

use anyhow::{Context, bail};
use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::{Lab, LabOptions};

const USAGE: &str = "usage: lab [--hosts N] [--without-agents] [-- AGENT ARGUMENTS]";

fn main() -> anyhow::Result<()> {
    let options = options(std::env::args().skip(1))?;
    let mut out = std::io::stdout();
    writeln!(out, "starting etcd and {} hosts …", options.hosts)?;
    let lab = Lab::start(&options)?;
    write!(out, "{}", guide(&lab, options.agents.is_some()))?;
    out.flush()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(tokio::signal::ctrl_c())
        .context("waiting for ctrl-C")?;
    writeln!(out, "\nremoving everything …")?;
    Ok(())
}

fn options(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<LabOptions> {
    let mut hosts = 3;
    let mut agents = Some(AgentOptions::default());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--hosts" => {
                hosts = arguments
                    .next()
                    .and_then(|text| text.parse().ok())
                    .filter(|number| (1..=99).contains(number))
                    .context("--hosts takes a number from 1 to 99")?;
            }
            "--without-agents" => agents = None,
            "--" => {
                if let Some(agents) = &mut agents {
                    agents.arguments = arguments.by_ref().collect();
                }
            }
            _ => bail!("{USAGE}"),
        }
    }
    Ok(LabOptions {
        hosts,
        agents,
        ..LabOptions::default()
    })
}

fn guide(lab: &Lab, agents: bool) -> String {
    use std::fmt::Write as _;
    let folder = lab.folder().display();
    let mut text = String::new();
    let mut line = |words: String| {
        writeln!(text, "{words}").ok();
    };
    line(format!("\netcd   {}", lab.etcd().url()));
    for host in lab.hosts() {
        line(format!(
            "{:<6} {:<12} log {folder}/{}/agent.log",
            host.name(),
            host.address(),
            host.name()
        ));
    }
    line(format!(
        "\nEnter a host with {folder}/on-h1, or run one command there:\n"
    ));
    if agents {
        for command in [
            r#"curl -L -XPUT --data-urlencode value='{"image": "dockerfile/nginx", "services": {"nginx": 80}}' http://127.0.0.1:4001/v2/keys/apps/dummy/nginx/manifest"#,
            r#"curl -L -XPUT --data-urlencode value='{"image": "dockerfile/ubuntu", "command": ["/bin/bash", "-c", "while true; do curl http://$SERVICE_NGINX_ADDR:$SERVICE_NGINX_PORT; sleep 2; done"], "links": ["nginx"]}' http://127.0.0.1:4001/v2/keys/apps/dummy/crawler/manifest"#,
            "dokkaa ps",
            "dig @172.17.0.1 nginx.dummy.skydns.local SRV",
        ] {
            line(format!("  {folder}/on-h1 {command}"));
        }
    }
    line(format!("  {folder}/on-h2 docker ps"));
    line("\nctrl-C ends all of it.".to_owned());
    text
}
