//! What every [`CheckpointStore`] must do.

use std::sync::Arc;

use crate::{CheckpointError, CheckpointStore};

/// Checks a store that is empty at first; `open` opens it again.
pub fn checkpoints(open: &dyn Fn() -> Arc<dyn CheckpointStore>) {
    let store = open();
    assert_eq!(store.list().expect("list"), [], "a new store has no files");
    assert_eq!(store.read("manifests/1.json").expect("read"), None);
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    let files: [(&str, &[u8]); 4] = [
        ("manifests/00000000000000000001.json", b"one"),
        ("state/1-1/w0-0.parquet", &large),
        ("state/1-1/w1-0.parquet", b""),
        ("state/2-10/w0-0.parquet", &[0, 255, 10]),
    ];
    for (name, content) in files {
        assert!(store.create(name, content).expect("create"), "it was not there");
    }
    assert!(
        !store.create(files[0].0, b"another").expect("create"),
        "a name is used once"
    );
    let check = |store: &Arc<dyn CheckpointStore>, when: &str| {
        let listed = store.list().expect("list");
        let expected = files.map(|(name, content)| (name.to_string(), content.len() as u64));
        assert_eq!(listed, expected, "{when}: all files, in order, with their sizes");
        for (name, content) in files {
            assert_eq!(
                store.read(name).expect("read").as_deref(),
                Some(content),
                "{when}"
            );
        }
    };
    check(&store, "at once");
    drop(store);
    let store = open();
    check(&store, "after reopening");

    for name in ["", "/a", "a//b", "../a", "a/../b", "a/.b", "a b", "ä", "a\0"] {
        let refused = store.create(name, b"x").expect_err("a name like this is refused");
        assert!(matches!(refused, CheckpointError::Name { .. }), "{refused}");
    }
    let winners: usize = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..4_u8)
            .map(|racer| {
                let store = Arc::clone(&store);
                scope.spawn(move || {
                    (0..10)
                        .filter(|at| {
                            store
                                .create(&format!("race/{at}"), &[racer; 10_000])
                                .expect("create")
                        })
                        .count()
                })
            })
            .collect();
        racers
            .into_iter()
            .map(|racer| racer.join().expect("no racer panics"))
            .sum()
    });
    assert_eq!(winners, 10, "of several that create one name exactly one does");
    for at in 0..10 {
        let content = store
            .read(&format!("race/{at}"))
            .expect("read")
            .expect("it is there");
        assert_eq!(content, [content[0]; 10_000], "the winner's content is whole");
        store.delete(&format!("race/{at}")).expect("delete");
    }
    store
        .delete("race/0")
        .expect("deleting what is absent does nothing");
    check(&store, "after deleting others");
}
