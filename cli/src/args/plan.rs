//! `plan` and `diff`.

use std::path::PathBuf;

use clap::Args;

/// `dokkaa plan`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa plan shop/web web.json         before `dokkaa apply shop/web web.json`
  dokkaa plan shop/web image=nginx:1.27 before `dokkaa set`
  dokkaa plan manifests/                every <app>/<container>.json below
  dokkaa plan manifests/ --prune        and what would be removed
  dokkaa plan manifests/shop/web.json   a file of such a directory

Nothing is written. For each slot it says what would become of it:
  created   on the host that comes first now
  replaced  by another instance, and for which fields of the manifest
  moved     from a host that is missing or drained
  removed   stopped and removed; volumes stay
  waiting   no host can run it: each host with its reason
  kept      as it is; only those that differ from the manifest are listed
and in which order the instances are replaced. Hosts decide when it is written:
what changes in between may change the outcome.

Exit codes: 0 everything is as the manifests say; 10 something would change;
3 a manifest is invalid.")]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) of: ManifestsOf,
    /// Plan the removal of what the named apps have and the directory has not
    #[arg(long)]
    pub(crate) prune: bool,
}

/// `dokkaa diff`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dokkaa diff manifests/                every <app>/<container>.json below
  dokkaa diff shop/web web.json
  dokkaa diff shop/web scale=3

Fields are compared by what they mean: defaults and short forms are no
difference. `-` is the cluster's value, `+` the file's.

Exit codes: 0 no difference; 10 differences; 3 a manifest is invalid.")]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    pub(crate) of: ManifestsOf,
    /// Show what the named apps have and the directory has not
    #[arg(long)]
    pub(crate) prune: bool,
}

/// Manifests that are not written yet.
#[derive(Debug, Args)]
pub(crate) struct ManifestsOf {
    /// Directory, file in one, or `app/container` with a FILE or with fields
    #[arg(value_name = "APP/CONTAINER|FILE|DIR")]
    pub(crate) target: PathBuf,
    /// Manifest, `-` for standard input; or fields as for `dokkaa set`
    #[arg(value_name = "FILE|FIELD=VALUE")]
    pub(crate) rest: Vec<String>,
}
