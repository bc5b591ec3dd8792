//! `make lab`: hosts with agents to play with, until ctrl-C, or until a command
//! on the first one has ended.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::lab::SWITCH;
use dokkaa_tests::{Lab, LabOptions, release};

const USAGE: &str = "\
usage: lab [OPTIONS] [-- AGENT ARGUMENTS]
       lab [OPTIONS] --run COMMAND

  --hosts N            how many hosts (3)
  --engine LIST        their engines in turn: 20, 26, 28, 28-containerd (20)
  --etcd VERSION       3.4 or 3.5 (3.4)
  --min-api VERSION    the oldest API version that the engines speak
  --without-agents     engines and etcd only
  --run COMMAND        run a command on h1, then end with its exit code";

fn main() -> ExitCode {
    let mut given = std::env::args().skip(1);
    if given.any(|argument| argument == "--help" || argument == "-h") {
        writeln!(std::io::stdout(), "{USAGE}").ok();
        return ExitCode::SUCCESS;
    }
    carry_out().unwrap_or_else(|error| {
        // Without a backtrace, which the environment may ask for.
        writeln!(std::io::stderr(), "{error:#}").ok();
        ExitCode::FAILURE
    })
}

fn carry_out() -> anyhow::Result<ExitCode> {
    let (options, command) = arguments(std::env::args().skip(1))?;
    if let Some(command) = command {
        return run(&options, &command);
    }
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
    Ok(ExitCode::SUCCESS)
}

/// Runs a command on the first host, in the folder that this program is in, with
/// its input and output.
fn run(options: &LabOptions, command: &[String]) -> anyhow::Result<ExitCode> {
    let lab = Lab::start(options)?;
    let status = lab
        .host(1)
        .node()
        .command("sh")
        .args(["-c", "cd \"$1\" && shift && exec \"$@\"", "lab"])
        .arg(std::env::current_dir()?)
        .args(command)
        .status()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(1).into())
}

/// What the lab is to have, and the command to run there.
fn arguments(
    mut arguments: impl Iterator<Item = String>,
) -> anyhow::Result<(LabOptions, Option<Vec<String>>)> {
    let mut hosts = 3;
    let mut agents = Some(AgentOptions::default());
    let mut lab = LabOptions::default();
    let mut command = None;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--hosts" => {
                hosts = arguments
                    .next()
                    .and_then(|text| text.parse().ok())
                    .filter(|number| (1..=99).contains(number))
                    .context("--hosts takes a number from 1 to 99")?;
            }
            "--engine" => lab.engines = release::list(&arguments.next().context(USAGE)?)?,
            "--etcd" => lab.etcd.release = Some(arguments.next().context(USAGE)?.parse()?),
            "--min-api" => lab.min_api = Some(arguments.next().context(USAGE)?),
            "--without-agents" => agents = None,
            "--run" => {
                let words: Vec<String> = arguments.by_ref().collect();
                command = Some(words).filter(|words| !words.is_empty());
                command.as_ref().context(USAGE)?;
            }
            "--" => {
                if let Some(agents) = &mut agents {
                    agents.arguments = arguments.by_ref().collect();
                }
            }
            _ => bail!("{USAGE}"),
        }
    }
    let lab = LabOptions {
        hosts,
        agents,
        ..lab
    };
    Ok((lab, command))
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
            "{:<6} {:<12} engine {:<13} log {folder}/{}/agent.log",
            host.name(),
            host.address(),
            host.engine().release().to_string(),
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
    if lab.hosts().len() > 1 {
        line("\nCut h2 off from etcd and the other hosts, and connect it again:\n".to_owned());
        let h2 = format!("{folder}/on-h2");
        line(format!("  {h2} ip link set eth0 down"));
        line(format!(
            "  {h2} sh -c 'ip link set eth0 up && ip route add default via {SWITCH}'"
        ));
    }
    line("\nctrl-C ends all of it.".to_owned());
    text
}
