//! `validate`, `apply`, `get`, `set`, `scale` and `rm`.

use std::path::PathBuf;

use clap::Args;
use manifests::ContainerId;
use manifests::manifest::Scale;

use super::values::{Selection, container, scale, selection};

/// `dokkaa validate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa validate nginx.json
  dokkaa validate manifests/            every <app>/<container>.json below
  generate | dokkaa validate -")]
pub(crate) struct ValidateArgs {
    /// Manifests, directories of them, or `-` for standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// `dokkaa apply`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa apply shop/web web.json
  dokkaa apply shop/web - < web.json
  dokkaa apply shop/web web.json --wait --timeout 2m
  dokkaa apply manifests/               every <app>/<container>.json below, all
                                        checked before the first is written
  dokkaa apply manifests/ --prune       removes what its apps have besides;
                                        asks before, unless --yes is given
  dokkaa plan manifests/ --prune        says what that would do

--wait exits with 0 when every slot is ready on this manifest and what was
started for it has run for `update.monitor` (5 s); with 4 when it failed (the
slot, its reason and its last log lines are printed), or when no host could take
a slot for 10 s in all (unless --timeout is given); with 5 after --timeout.
Ctrl-C only ends the waiting.")]
pub(crate) struct ApplyArgs {
    /// `app/container` with a FILE, or a directory with files `<app>/<container>.json`
    #[arg(value_name = "APP/CONTAINER|DIR")]
    pub(crate) target: String,
    /// Manifest, `-` for standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Wait until every slot is ready on this manifest
    #[arg(long)]
    pub(crate) wait: bool,
    /// Remove what the apps in the directory have besides; volumes stay
    #[arg(long)]
    pub(crate) prune: bool,
    /// With --prune: do not ask for confirmation
    #[arg(short, long, requires = "prune")]
    pub(crate) yes: bool,
}

/// `dokkaa get`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa get shop/web
  dokkaa get shop/web > web.json")]
pub(crate) struct GetArgs {
    /// Container
    #[arg(value_name = "APP/CONTAINER", value_parser = container)]
    pub(crate) container: ContainerId,
}

/// `dokkaa set`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa set shop/web image=nginx:1.27
  dokkaa set shop/web env.LEVEL=debug env.OLD-          KEY- removes a field
  dokkaa set shop/web scale=3 services.web.port=8080 --wait

The manifest is read, changed and written only if it has not changed meanwhile;
otherwise this is repeated. A value is JSON where the field takes it
(links='[\"db\"]'), else text.")]
pub(crate) struct SetArgs {
    /// Container to change
    #[arg(value_name = "APP/CONTAINER", value_parser = container)]
    pub(crate) container: ContainerId,
    /// Fields: `image=nginx:1.27`, `env.LEVEL=debug`, `env.OLD-`
    #[arg(required = true, value_name = "FIELD=VALUE")]
    pub(crate) changes: Vec<String>,
    /// Wait until every slot is ready on this manifest
    #[arg(long)]
    pub(crate) wait: bool,
}

/// `dokkaa scale`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa scale shop/web=3
  dokkaa scale shop/web=3 shop/worker=0 --wait
  dokkaa scale shop/proxy=global")]
pub(crate) struct ScaleArgs {
    /// Containers and their number of slots; `global`: one on each host
    #[arg(required = true, value_name = "APP/CONTAINER=N", value_parser = scale)]
    pub(crate) scales: Vec<(ContainerId, Scale)>,
    /// Wait until every slot is ready
    #[arg(long)]
    pub(crate) wait: bool,
}

/// `dokkaa rm`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa rm shop/web
  dokkaa rm shop --yes                  the whole app, without confirmation
  dokkaa rm shop/db --volumes           with its data, once it has stopped

Orphans, containers that a restore left without a manifest, are removed by name,
too.")]
pub(crate) struct RmArgs {
    /// App or container to remove
    #[arg(value_name = "APP|APP/CONTAINER", value_parser = selection)]
    pub(crate) of: Selection,
    /// Delete local volumes, too, once the containers are gone
    #[arg(long)]
    pub(crate) volumes: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(crate) yes: bool,
}
