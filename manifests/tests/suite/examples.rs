//! Every example is a valid manifest.

use std::path::Path;

use super::{path, schema};

#[test]
fn all_are_valid() {
    let mut seen = 0;
    check(&path("examples"), &mut seen);
    assert!(seen > 0);
}

fn check(folder: &Path, seen: &mut usize) {
    for entry in std::fs::read_dir(folder).expect("examples") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            check(&path, seen);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let text = std::fs::read(&path).expect("readable");
            let parsed = manifests::parse::strict(&text)
                .unwrap_or_else(|problems| panic!("{}: {problems:?}", path.display()));
            assert!(parsed.warnings.is_empty(), "{}", path.display());
            assert!(schema().is_valid(&parsed.json), "{}", path.display());
            *seen += 1;
        }
    }
}
