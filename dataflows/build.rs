//! Lists the built-in views: whatever lies in `views/*.sql`, by name.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=views");
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("views");
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            let name = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .ok_or("a view's file name is not text")?;
            files.push((
                name.to_string(),
                path.to_str()
                    .ok_or("the path of the views is not text")?
                    .to_string(),
            ));
        }
    }
    files.sort();
    let mut list = String::from(
        "/// Name and statement of every built-in view, sorted by name.\npub const FILES: &[(&str, &str)] = &[\n",
    );
    for (name, path) in files {
        println!("cargo:rerun-if-changed={path}");
        list.push_str(&format!("    ({name:?}, include_str!({path:?})),\n"));
    }
    list.push_str("];\n");
    fs::write(Path::new(&env::var("OUT_DIR")?).join("builtin_views.rs"), list)?;
    Ok(())
}
