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

fn written(view: &SavedView) -> Vec<u8> {
    let mut file = Vec::new();
    view.write(&mut file).expect("writes");
    file
}

#[test]
fn a_view_reads_back_as_it_was_saved() {
    for keys in [0, 1, 300] {
        let view = view(keys);
        let read = SavedView::read(&mut written(&view).as_slice()).expect("reads");
        assert_eq!(read, Some(view));
    }
}

#[test]
fn a_torn_or_foreign_file_is_never_half_a_view() {
    let whole = written(&view(20));
    for length in 0..whole.len() {
        let read = SavedView::read(&mut &whole[..length]);
        assert!(matches!(read, Err(_) | Ok(None)), "{length}");
    }
    let foreign = SavedView::read(&mut b"something else, and long enough".as_slice());
    assert!(matches!(foreign, Ok(None)));
}

#[test]
fn a_users_own_keys_are_kept_without_what_they_hold() {
    let mut saved = view(2);
    // As an earlier version saved it.
    let large = Raw {
        value: vec![b'x'; 1 << 20].into(),
        created: 5,
        modified: 9,
    };
    saved.raw.insert_mut("/blob/1".to_owned(), large);
    let loaded = SavedView::read(&mut written(&saved).as_slice())
        .expect("reads")
        .expect("is there");
    assert_eq!(loaded.raw["/blob/1"].value.len(), 0);
    assert!(loaded.keys().any(|key| key == ("/blob/1", 9)));
    assert!(written(&loaded).len() < 1 << 10);
}
