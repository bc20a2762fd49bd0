//! Decides whether the UI is embedded, and refuses a release build that would silently lack it.
//!
//! `ui/dist/index.html` is there: the folder is embedded. It is not: a release build stops and says what to do, unless
//! `PYFLARE_WITHOUT_UI=1` asks for a server whose start page says how the UI is built. Development builds and the tests
//! of the library never need the UI.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-env-changed=PYFLARE_WITHOUT_UI");
    println!("cargo:rerun-if-changed=../../ui/dist");
    let without = std::env::var("PYFLARE_WITHOUT_UI").is_ok_and(|value| !value.is_empty() && value != "0");
    if without {
        return;
    }
    if Path::new("../../ui/dist/index.html").is_file() {
        println!("cargo:rustc-cfg=pyflare_with_ui");
        return;
    }
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if release {
        println!(
            "cargo::error=ui/dist/index.html is missing, so this release build would have no UI. Build it with \
             `npm ci && npm run build` in ui/ (`make` does this for you), or set PYFLARE_WITHOUT_UI=1 to build a server \
             without one."
        );
    }
}
