//! `dokkaa validate`: the API's checks of a manifest, without an agent.

use super::error::CommandError;
use super::{files, output};
use crate::args::ValidateArgs;

pub(super) fn run(args: &ValidateArgs) -> Result<(), CommandError> {
    let mut sources = Vec::new();
    for path in &args.files {
        if path.is_dir() {
            for (_, file) in files::directory(path)? {
                sources.push(files::read(&file)?);
            }
        } else {
            sources.push(files::read(path)?);
        }
    }
    files::check_all(&sources, |source, warnings| {
        output::print(&format!("{}: valid\n", source.name))?;
        for warning in warnings {
            let warning = output::one_line(&warning.to_string());
            output::note(&format!("{}:{warning} (warning)", source.name));
        }
        Ok(())
    })
}
