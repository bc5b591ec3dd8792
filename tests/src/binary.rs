//! Finds the `dokkaa` binary that is to be tested.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// `$DOKKAA_BIN`, else the binary that was built beside this program.
pub fn dokkaa() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("DOKKAA_BIN") {
        let path = PathBuf::from(path);
        if path.is_file() {
            return Ok(path.canonicalize()?);
        }
        bail!("DOKKAA_BIN={}: no such file", path.display());
    }
    let own = std::env::current_exe().context("the path of this program")?;
    let beside = beside(&own);
    if beside.is_file() {
        return Ok(beside);
    }
    bail!(
        "no dokkaa binary at {}: build it with `cargo build -p dokkaa`, or set DOKKAA_BIN",
        beside.display()
    );
}

/// The folder of cargo's output, for what is kept between runs.
pub fn target_folder() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|own| {
            own.ancestors()
                // Not CACHEDIR.TAG: cargo writes that only where it makes the folder.
                .find(|folder| folder.join(".rustc_info.json").is_file())
                .map(Path::to_owned)
        })
        .unwrap_or_else(std::env::temp_dir)
}

/// Test binaries lie one folder deeper (`deps`) than programs.
fn beside(own: &Path) -> PathBuf {
    let folder = own.parent().unwrap_or(own);
    let folder = match folder.parent() {
        Some(above) if folder.ends_with("deps") => above,
        _ => folder,
    };
    folder.join("dokkaa")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_looked_for_beside_tests_and_programs() {
        for own in ["/t/debug/deps/main-1", "/t/debug/lab"] {
            assert_eq!(beside(Path::new(own)), Path::new("/t/debug/dokkaa"));
        }
    }
}
