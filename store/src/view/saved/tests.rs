use uuid::Uuid;

use super::*;

fn view(keys: u32) -> SavedView {
    let mut raw = RedBlackTreeMapSync::new_sync();
    for i in 0..keys {
        let value = Raw {
            value: vec![0xff; i as usize].into(),
            created: i64::from(i),
            modified: i64::from(i) + 1,
        };
        raw.insert_mut(format!("/apps/a/c-{i}/manifest"), value);
    }
    SavedView {
        cluster: Cluster {
            id: Uuid::new_v4(),
            epoch: 3,
        },
        revision: 77,
        raw,
    }
}

#[test]
fn a_view_reads_back_as_it_was_saved() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let file = folder.path().join("view");
    assert_eq!(SavedView::load(&file).expect("reads"), None);
    for keys in [0, 1, 300] {
        let view = view(keys);
        view.save(&file).expect("saves");
        assert_eq!(SavedView::load(&file).expect("reads"), Some(view));
    }
}

#[test]
fn a_torn_or_foreign_file_is_damaged_and_never_half_a_view() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let file = folder.path().join("view");
    view(20).save(&file).expect("saves");
    let whole = std::fs::read(&file).expect("reads");
    for length in 0..whole.len() {
        std::fs::write(&file, &whole[..length]).expect("writes");
        let loaded = SavedView::load(&file);
        assert!(
            matches!(loaded, Err(SavedViewError::Damaged(_))),
            "{length}"
        );
    }
    std::fs::write(&file, b"something else, and long enough").expect("writes");
    assert!(SavedView::load(&file).is_err());
}

#[test]
fn a_users_own_keys_are_kept_without_what_they_hold() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let file = folder.path().join("view");
    let mut saved = view(2);
    // As an earlier version saved it.
    let large = Raw {
        value: vec![b'x'; 1 << 20].into(),
        created: 5,
        modified: 9,
    };
    saved.raw.insert_mut("/blob/1".to_owned(), large);
    saved.save(&file).expect("saves");
    let loaded = SavedView::load(&file).expect("reads").expect("is there");
    assert_eq!(loaded.raw["/blob/1"].value.len(), 0);
    assert!(loaded.keys().any(|key| key == ("/blob/1", 9)));
    loaded.save(&file).expect("saves");
    assert!(std::fs::metadata(&file).expect("is there").len() < 1 << 10);
}
