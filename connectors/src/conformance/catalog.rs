//! What every [`Catalog`] must do.

use std::sync::Arc;

use crate::Catalog;

/// Checks a catalog that is empty at first; `open` opens it again.
pub fn catalog(open: &dyn Fn() -> Arc<dyn Catalog>) {
    let catalog = open();
    let get = |catalog: &Arc<dyn Catalog>, key: &str| catalog.get(key).expect("get");
    assert_eq!(get(&catalog, "monitors/a"), None, "an absent key has no value");
    catalog.put("monitors/b", b"2").expect("put");
    catalog.put("monitors/a", b"1").expect("put");
    catalog.put("monitor", b"before the prefix").expect("put");
    catalog.put("monitors0", b"after the prefix").expect("put");
    catalog
        .put("monitors/é 日本/..%2F", &[0, 255, 10])
        .expect("keys are any text, values any bytes");
    catalog.put("monitors/empty", b"").expect("put");
    assert_eq!(
        get(&catalog, "monitors/empty"),
        Some(Vec::new()),
        "an empty value is not an absent one"
    );

    catalog.put("monitors/b", b"two").expect("put");
    assert_eq!(
        get(&catalog, "monitors/b").as_deref(),
        Some(&b"two"[..]),
        "put replaces"
    );
    assert!(
        !catalog
            .put_if_absent("monitors/b", b"three")
            .expect("put_if_absent"),
        "it was there"
    );
    assert!(
        catalog.put_if_absent("monitors/c", b"3").expect("put_if_absent"),
        "it was not there"
    );
    catalog.delete("monitors/c").expect("delete");
    catalog
        .delete("monitors/c")
        .expect("deleting what is absent does nothing");
    assert!(
        catalog
            .put_if_absent("monitors/c", b"again")
            .expect("put_if_absent"),
        "it was deleted"
    );

    let expected: Vec<(String, Vec<u8>)> = [
        ("monitors/a", b"1".to_vec()),
        ("monitors/b", b"two".to_vec()),
        ("monitors/c", b"again".to_vec()),
        ("monitors/empty", Vec::new()),
        ("monitors/é 日本/..%2F", vec![0, 255, 10]),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .to_vec();
    assert_eq!(
        catalog.list("monitors/").expect("list"),
        expected,
        "list: the prefix only, in key order"
    );
    assert_eq!(
        catalog.list("").expect("list").len(),
        7,
        "the empty prefix lists everything"
    );
    drop(catalog);

    let reopened = open();
    assert_eq!(
        reopened.list("monitors/").expect("list"),
        expected,
        "entries survive reopening"
    );

    let winners: usize = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..4_u8)
            .map(|racer| {
                let catalog = Arc::clone(&reopened);
                scope.spawn(move || {
                    (0..25)
                        .filter(|at| {
                            catalog
                                .put_if_absent(&format!("race/{at}"), &[racer])
                                .expect("put_if_absent")
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
    assert_eq!(
        winners, 25,
        "of several put_if_absent for one key exactly one wins"
    );
}
