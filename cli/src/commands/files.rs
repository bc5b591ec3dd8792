//! Manifests from files, standard input and directories.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use manifests::parse::Problem;
use manifests::{AppName, ContainerId};

use super::error::CommandError;

/// The text of a manifest, and its name in messages.
#[derive(Debug)]
pub(crate) struct Source {
    /// The path, or `-`.
    pub(crate) name: String,
    /// The content.
    pub(crate) text: Vec<u8>,
}

/// Reads a file; `-` is standard input.
pub(crate) fn read(path: &Path) -> Result<Source, CommandError> {
    let name = path.display().to_string();
    let text = if name == "-" {
        let mut text = Vec::new();
        io::stdin().lock().read_to_end(&mut text).map(|_| text)
    } else {
        fs::read(path)
    };
    match text {
        Ok(text) => Ok(Source { name, text }),
        Err(error) => Err(CommandError::Usage(format!("{name}: {error}"))),
    }
}

/// Validates a manifest as the API does; what is odd about it.
pub(crate) fn check(source: &Source) -> Result<Vec<Problem>, CommandError> {
    match manifests::parse::strict(&source.text) {
        Ok(parsed) => Ok(parsed.warnings),
        Err(problems) => Err(CommandError::invalid(&source.name, problems)),
    }
}

/// Validates several manifests; the error has the problems of all.
pub(crate) fn check_all<'a>(
    sources: impl IntoIterator<Item = &'a Source>,
    valid: impl Fn(&Source, Vec<Problem>) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let mut all = Vec::new();
    for source in sources {
        match check(source) {
            Ok(warnings) => valid(source, warnings)?,
            Err(CommandError::Invalid(problems)) => all.extend(problems),
            Err(error) => return Err(error),
        }
    }
    if all.is_empty() {
        Ok(())
    } else {
        Err(CommandError::Invalid(all))
    }
}

/// Every `<app>/<container>.json` below a directory, by name.
pub(crate) fn directory(dir: &Path) -> Result<Vec<(ContainerId, PathBuf)>, CommandError> {
    let mut found = Vec::new();
    for app in entries(dir)? {
        if is_json(&app) {
            return Err(misplaced_in(dir, &app));
        }
        if !app.is_dir() || is_hidden(&app) {
            continue;
        }
        for file in entries(&app)? {
            if !is_json(&file) || is_hidden(&file) {
                continue;
            }
            let name = |path: &Path| path.file_stem().map(|s| s.to_string_lossy().into_owned());
            let app_name = app.file_name().map(|s| s.to_string_lossy().into_owned());
            let id = app_name
                .zip(name(&file))
                .and_then(|(app, container)| format!("{app}/{container}").parse().ok())
                .ok_or_else(|| misplaced(&file))?;
            found.push((id, file));
        }
    }
    if found.is_empty() {
        return Err(CommandError::Usage(format!(
            "{}: there is no <app>/<container>.json below it",
            dir.display()
        )));
    }
    found.sort();
    Ok(found)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let failed = |error: io::Error| CommandError::Usage(format!("{}: {error}", dir.display()));
    fs::read_dir(dir)
        .map_err(failed)?
        .map(|entry| entry.map(|e| e.path()).map_err(failed))
        .collect()
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "json") && path.is_file()
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// A manifest at the top level: the directory may be that of an app.
fn misplaced_in(dir: &Path, file: &Path) -> CommandError {
    let full = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let is_app = full
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.parse::<AppName>().is_ok());
    if !is_app {
        return misplaced(file);
    }
    let above = match dir.parent() {
        Some(above) if dir.file_name().is_some() && above.as_os_str().is_empty() => Path::new("."),
        Some(above) if dir.file_name().is_some() => above,
        _ => Path::new(".."),
    };
    CommandError::Usage(format!(
        "{}: expected <app>/<container>.json below {}; if that is the app itself, run it on the directory above: dokkaa apply {}",
        file.display(),
        dir.display(),
        above.display()
    ))
}

fn misplaced(path: &Path) -> CommandError {
    CommandError::Usage(format!(
        "{}: expected <app>/<container>.json, with names such as `shop/web-1.json`",
        path.display()
    ))
}
