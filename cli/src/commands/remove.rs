//! `rm`: manifests go; the hosts stop what runs of them. Volumes stay.

use std::io::{self, BufRead, IsTerminal, Write};

use bytes::Bytes;
use gateway::v1::types::Removed;
use hyper::Method;

use super::client::Client;
use super::error::CommandError;
use super::output;
use crate::args::{RmArgs, Selection};

pub(super) async fn run(args: &RmArgs) -> Result<(), CommandError> {
    if !args.yes && !io::stdin().is_terminal() {
        return Err(CommandError::Usage(
            "there is no terminal to ask on; add --yes".to_owned(),
        ));
    }
    let client = Client::new(&args.client)?;
    if !args.yes && !confirm(&client, &args.of).await? {
        return Err(CommandError::Failed("nothing was removed".to_owned()));
    }
    let path = format!("manifests/{}", args.of);
    let removed: Removed = client
        .send(Method::DELETE, &path, &[], Bytes::new())
        .await?;
    for id in &removed.containers {
        output::print(&format!("{id} removed\n"))?;
    }
    Ok(())
}

async fn confirm(client: &Client, of: &Selection) -> Result<bool, CommandError> {
    let found = client.slots(Some(of)).await?;
    let names: Vec<String> = found
        .containers
        .iter()
        .filter(|row| row.revision.is_some())
        .map(|row| row.id().to_string())
        .collect();
    if names.is_empty() {
        return Err(CommandError::Failed(format!("there is no {of}")));
    }
    let running = found.slots.iter().filter(|row| row.host.is_some()).count();
    let mut terminal = io::stderr().lock();
    let asked = write!(
        terminal,
        "remove {} ({running} running; volumes stay)? [y/N] ",
        names.join(", ")
    )
    .and_then(|()| terminal.flush());
    let mut answer = String::new();
    asked
        .and_then(|()| io::stdin().lock().read_line(&mut answer))
        .map_err(|error| CommandError::Failed(error.to_string()))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
