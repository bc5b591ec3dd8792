//! Hashes that were once given out. These files are added to, never changed:
//! a changed hash would replace every container of every cluster.

use manifests::{canonical, parse};
use serde_json::Value;

use super::path;

#[test]
fn every_hash_is_what_it_was() {
    let mut seen = 0;
    for entry in std::fs::read_dir(path("tests/vectors")).expect("vectors") {
        let path = entry.expect("readable").path();
        let text = std::fs::read_to_string(&path).expect("readable");
        let vector: Value = serde_json::from_str(&text).expect("JSON");
        let manifest = parse::from_json(&vector["manifest"])
            .expect("valid")
            .manifest;
        let image = vector["image"].as_str().expect("a string");
        assert_eq!(
            Some(canonical::text(&manifest, image).as_str()),
            vector["text"].as_str(),
            "{}",
            path.display()
        );
        assert_eq!(
            Some(canonical::hash(&manifest, image).as_str()),
            vector["hash"].as_str(),
            "{}",
            path.display()
        );
        seen += 1;
    }
    assert_eq!(seen, 6);
}
