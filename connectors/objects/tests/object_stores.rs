//! Checkpoints in object stores keep the contract of `CheckpointStore`, in S3 and in Azure's format, and say what is wrong.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use pyflare_connectors::{CheckpointStore, conformance};
use pyflare_objects::{Address, ObjectCheckpoints};

/// Both stores (`tests/support/objects/objects.py`).
struct Stores {
    process: Child,
    _directory: tempfile::TempDir,
}

impl Stores {
    /// `None`, said aloud, where they cannot be had and need not. The environment says afterwards where they are.
    fn start() -> Option<Stores> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/support/objects/objects.py");
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new("python3")
            .arg("-B")
            .arg(script)
            .arg("run")
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let mut line = String::new();
        let mut answers = BufReader::new(process.stdout.take().unwrap());
        answers.read_line(&mut line).unwrap();
        let ports: Vec<u16> = line
            .split_whitespace()
            .skip(1)
            .map(|port| port.parse().unwrap())
            .collect();
        let [s3, azure] = ports[..] else {
            let required = ["CI", "PYFLARE_REQUIRE_SERVICES"];
            let is_required = required.iter().any(|name| std::env::var_os(name).is_some());
            assert!(!is_required, "the object stores are required here");
            let _ = process.wait();
            println!("skipped: the object stores cannot be had on this machine");
            return None;
        };
        let environment = [
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{s3}")),
            ("AWS_ACCESS_KEY_ID", "pyflare".into()),
            ("AWS_SECRET_ACCESS_KEY", "tell-nobody".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AZURE_STORAGE_USE_EMULATOR", "true".into()),
            ("AZURITE_BLOB_STORAGE_URL", format!("http://127.0.0.1:{azure}")),
            ("AZURE_ALLOW_HTTP", "true".into()),
        ];
        for (name, value) in environment {
            set(name, &value);
        }
        Some(Stores {
            process,
            _directory: directory,
        })
    }
}

impl Drop for Stores {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

fn set(name: &str, value: &str) {
    // SAFETY: this program has one test, and no other thread of it reads the environment meanwhile.
    unsafe { std::env::set_var(name, value) };
}

fn refusal(url: &str, owner: &str) -> (&'static str, String) {
    let error = ObjectCheckpoints::open(&Address::parse(url).unwrap(), owner).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(error.code()), "{text}");
    assert!(
        !text.contains("tell-nobody") && !text.contains("a-secret"),
        "{text}"
    );
    (error.code(), text)
}

/// One program, one test: what it says to the stores' clients is said by the environment.
#[test]
fn object_stores() {
    let Some(_stores) = Stores::start() else { return };
    for scheme in ["s3", "az"] {
        for path in ["", "/some/where"] {
            let address = Address::parse(&format!("{scheme}://bucket{path}")).unwrap();
            let open = || -> Arc<dyn CheckpointStore> { ObjectCheckpoints::open(&address, "ours").unwrap() };
            conformance::checkpoints(&open);
            for (name, _) in open().list().unwrap() {
                open().delete(&name).unwrap();
            }
        }
        belongs_to_one(scheme);
        serves_a_runtime(scheme);
        let (code, text) = refusal(&format!("{scheme}://elsewhere/a"), "ours");
        assert!(code == "PF-2403" && text.contains("elsewhere"), "{text}");
    }
    set("AWS_SECRET_ACCESS_KEY", "a-secret");
    let (code, text) = refusal("s3://bucket/refused", "ours");
    assert_eq!(code, "PF-2404", "{text}");
    set("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
    let (code, text) = refusal("s3://bucket/away", "ours");
    assert_eq!(code, "PF-2401", "{text}");
    set("AWS_ENDPOINT_URL", "http://user:a-secret@127.0.0.1:1");
    let (code, text) = refusal("s3://bucket/away", "ours");
    assert_eq!(code, "PF-2401", "{text}");
    set("AWS_ENDPOINT_URL", "not a URL");
    let (code, text) = refusal("s3://bucket/away", "ours");
    assert!(code == "PF-2403" && text.contains("AWS_ENDPOINT_URL"), "{text}");
}

fn belongs_to_one(scheme: &str) {
    let url = format!("{scheme}://bucket/owned");
    let address = Address::parse(&url).unwrap();
    let open = || ObjectCheckpoints::open(&address, "ours").unwrap();
    assert!(open().create("state/1", b"one").unwrap());
    let (code, text) = refusal(&url, "theirs");
    assert!(code == "PF-2405" && text.contains("ours"), "{text}");
    assert_eq!(open().list().unwrap(), [("state/1".to_string(), 3)]);
    // A path that begins as another one does is another one.
    let beside = Address::parse(&format!("{url}-too")).unwrap();
    assert_eq!(
        ObjectCheckpoints::open(&beside, "theirs")
            .unwrap()
            .list()
            .unwrap(),
        []
    );
}

/// A thread that runs a runtime may wait for it, and drop it.
fn serves_a_runtime(scheme: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let address = Address::parse(&format!("{scheme}://bucket/within")).unwrap();
        let store = ObjectCheckpoints::open(&address, "ours").unwrap();
        assert!(store.create("state/1", b"one").unwrap());
        assert_eq!(store.read("state/1").unwrap().as_deref(), Some(&b"one"[..]));
    });
}
