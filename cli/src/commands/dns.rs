//! `dns`: a name explained, with its records and what is not among them.

use gateway::v1::types::NameReport;

use super::client::Client;
use super::error::CommandError;
use super::{dns_install, lists, output};
use crate::args::{DnsAction, DnsArgs, Format, GlobalArgs};

pub(super) async fn run(args: &DnsArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    match &args.action {
        Some(DnsAction::Install(args)) => dns_install::install(args, global).await,
        Some(DnsAction::Uninstall) => dns_install::uninstall(),
        None => explain(args.name.as_deref().unwrap_or_default(), global).await,
    }
}

async fn explain(name: &str, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let name: NameReport = client.get(&format!("dns/{name}")).await?;
    if global.output == Format::Json {
        return output::json(&name);
    }
    lists::note_age(name.stale, &name.notices);
    output::print_lines(&text(&name))
}

fn text(name: &NameReport) -> String {
    let mut lines = vec![format!(
        "{}: {}",
        name.name.trim_end_matches('.'),
        name.meaning
    )];
    lines.extend(name.records.iter().map(|record| format!("  {record}")));
    if !name.left_out.is_empty() {
        lines.push(String::new());
        lines.push("not in the answers".to_owned());
        let left_out = name.left_out.iter();
        lines.extend(left_out.map(|one| format!("  {} on {}: {}", one.slot, one.host, one.reason)));
    }
    if name.hidden > 0 {
        lines.push(String::new());
        lines.push(format!(
            "not answered either: {} under /skydns, since the cluster has this name",
            output::count(name.hidden, "key")
        ));
    }
    if !name.unreadable.is_empty() {
        lines.push(String::new());
        lines.extend(name.unreadable.sentences(usize::MAX));
    }
    lines.join("\n") + "\n"
}
