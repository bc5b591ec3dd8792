//! The page about the manifest says what the code does.

use super::same_as_file;

#[test]
fn the_page_is_up_to_date() {
    same_as_file("../docs/manifest.md", &manifests::fields::markdown());
}
