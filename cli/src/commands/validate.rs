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
    let mut wrong = Vec::new();
    for source in &sources {
        match files::check(source) {
            Ok(()) => output::print(&format!("{}: valid\n", source.name))?,
            Err(CommandError::Invalid { of, problems }) => {
                wrong.extend(problems.into_iter().map(|p| format!("{of}:{p}")));
            }
            Err(error) => return Err(error),
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    for line in &wrong[..wrong.len() - 1] {
        output::note(line);
    }
    // The last is the command's error, which `main` prints.
    let last = wrong.pop().unwrap_or_default();
    let (of, problem) = last.split_once(':').unwrap_or_default();
    Err(CommandError::Invalid {
        of: of.to_owned(),
        problems: vec![problem.to_owned()],
    })
}
