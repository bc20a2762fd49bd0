//! The reference page of fields is what the declarations render.
//!
//! `PYFLARE_WRITE_FIELDS=1 cargo test -p pyflare-operators --test fields_page` writes it anew.
#![allow(clippy::unwrap_used)]
use std::path::Path;

#[test]
fn the_reference_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/reference/fields.md");
    let page = pyflare_operators::fields::reference_page();
    if std::env::var_os("PYFLARE_WRITE_FIELDS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(
        written == page,
        "docs/src/reference/fields.md is stale; write it with PYFLARE_WRITE_FIELDS=1"
    );
}
