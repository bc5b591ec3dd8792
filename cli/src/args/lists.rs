//! `apps`, `ps`, `why`, `dns` and `completion`.

use clap::{Args, Subcommand};
use manifests::ContainerId;

use super::values::{Selection, container_or_slot, domain_name, selection};

/// `dokkaa apps`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa apps
  dokkaa apps shop
  dokkaa apps -o json | jq -r '.apps[].containers[].image'

Containers scaled to 0 are listed, too. For single slots: dokkaa ps.")]
pub(crate) struct AppsArgs {
    /// Only this app or container
    #[arg(value_name = "APP|APP/CONTAINER", value_parser = selection)]
    pub(crate) of: Option<Selection>,
}

/// `dokkaa ps`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa ps
  dokkaa ps shop
  dokkaa ps -o wide                     with image, version and container ID
  dokkaa ps shop/web --watch
  dokkaa ps -o json | jq '.slots[] | select(.status != \"ready\")'

PORTS shows where each service listens on the slot's host; (public) marks a
host_port that is open to everybody.")]
pub(crate) struct PsArgs {
    /// Only this app or container
    #[arg(value_name = "APP|APP/CONTAINER", value_parser = selection)]
    pub(crate) of: Option<Selection>,
    /// Keep running and print every change
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// `dokkaa why`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa why shop/web
  dokkaa why shop/web/2                 one slot: each host, and why not there
  dokkaa why shop/web -o json")]
pub(crate) struct WhyArgs {
    /// Container or slot to explain
    #[arg(value_name = "APP/CONTAINER[/SLOT]", value_parser = container_or_slot)]
    pub(crate) of: (ContainerId, Option<u32>),
}

/// `dokkaa dns`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa dns web.shop.skydns.local
  dokkaa dns web.shop                   the same
  dokkaa dns '*.shop'                   all services of an app
  dokkaa dns 1.0.0.10.in-addr.arpa

It is what the agent at --addr answers. Which names there are: docs/dns.md.")]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(disable_help_subcommand = true)]
pub(crate) struct DnsArgs {
    /// Name to explain, with or without the domain
    #[arg(value_name = "NAME", value_parser = domain_name, required = true)]
    pub(crate) name: Option<String>,
    /// What to do instead of explaining
    #[command(subcommand)]
    pub(crate) action: Option<DnsAction>,
}

/// Subcommands of `dokkaa dns`.
#[derive(Debug, Subcommand)]
pub(crate) enum DnsAction {
    /// Have this host's own resolver ask the agent for the cluster's names
    Install(DnsInstallArgs),
    /// Undo `install`
    #[command(after_help = "Examples:
  dokkaa dns uninstall                  as root")]
    Uninstall,
}

/// `dokkaa dns install`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa dns install                    as root
  dokkaa dns install --print            what it would write, and where

Where systemd-resolved runs it writes a drop-in, which sends names below the
domain to the agent and leaves all others alone, and restarts it; not where it
has servers for all interfaces (DNS= in resolved.conf). For dnsmasq, unbound,
resolvconf and a plain resolv.conf it prints the lines to add.")]
pub(crate) struct DnsInstallArgs {
    /// Print it only
    #[arg(long)]
    pub(crate) print: bool,
}

/// `dokkaa completion`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa completion bash > /etc/bash_completion.d/dokkaa
  dokkaa completion zsh > \"${fpath[1]}/_dokkaa\"
  dokkaa completion fish > ~/.config/fish/completions/dokkaa.fish

At each TAB it asks the agent at DOKKAA_ADDR for the names of apps, containers,
slots and hosts, for 300 ms at most.")]
pub(crate) struct CompletionArgs {
    /// Shell to print it for
    pub(crate) shell: clap_complete::Shell,
}
