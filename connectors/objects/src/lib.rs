//! Checkpoints in object stores: Amazon S3, Google Cloud Storage, Azure Blob Storage, and what speaks like one of them.
//!
//! A file is one object below the URL's path, created conditionally, so that of several that create one name exactly one
//! does. Beside the files lies `.owner`, the name of the data directory's history that they belong to: checkpoints of one
//! history are nothing for another, and it would delete them.
//!
//! Credentials, regions and endpoints come from the environment, by the names that each cloud's own tools use; none is ever in
//! a URL or in an error.

mod address;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig};
use pyflare_connectors::checkpoints::check_name;
use pyflare_connectors::{CheckpointError, CheckpointStore};
use tokio::runtime::Runtime;

pub use address::Address;

const OWNER: &str = ".owner";
const ATTEMPTS: usize = 5;
/// How long a request is tried again.
const PATIENCE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(5);
/// For one file, of some tens of megabytes.
const REQUEST: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(100);
/// How long a store may be silent before somebody is told.
const TELL_AFTER: Duration = Duration::from_secs(3);
/// How long a request is waited for once nobody wants to wait.
const COURTESY: Duration = Duration::from_secs(2);
/// Characters of what a store says of an error.
const DETAIL: usize = 400;

/// See the module's head.
#[derive(Debug)]
pub struct ObjectCheckpoints {
    /// As in the settings, for messages.
    place: String,
    root: Path,
    store: Arc<dyn ObjectStore>,
    /// The trait's callers are threads that may wait.
    runtime: Option<Runtime>,
    is_given_up: AtomicBool,
}

impl ObjectCheckpoints {
    /// Blocks until the store has answered. Refuses a place that belongs to another history than `owner`, and stores that
    /// do not create conditionally.
    pub fn open(address: &Address, owner: &str) -> Result<Arc<ObjectCheckpoints>, CheckpointError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("pyflare-objects")
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| CheckpointError::Io {
            path: address.to_string(),
            detail: error.to_string(),
        })?;
        let retry = RetryConfig {
            max_retries: ATTEMPTS,
            retry_timeout: PATIENCE,
            ..RetryConfig::default()
        };
        let client = ClientOptions::new()
            .with_connect_timeout(CONNECT)
            .with_timeout(REQUEST);
        let (store, root) = address.open(retry, client)?;
        let checkpoints = ObjectCheckpoints {
            place: address.to_string(),
            root,
            store,
            runtime: Some(runtime),
            is_given_up: AtomicBool::new(false),
        };
        checkpoints.claim(owner)?;
        Ok(Arc::new(checkpoints))
    }

    fn claim(&self, owner: &str) -> Result<(), CheckpointError> {
        let is_new = self.put(OWNER, owner.as_bytes())?;
        if is_new && self.put(OWNER, b"another")? {
            // Given back as it was.
            self.delete_object(OWNER)?;
            return Err(CheckpointError::Settings {
                detail: format!(
                    "{} overwrites what was to be created only if it is not there (If-None-Match); \
                     checkpoints need a store that has conditional writes",
                    self.place
                ),
            });
        }
        match self.get(OWNER)? {
            Some(known) if known == owner.as_bytes() => Ok(()),
            known => Err(CheckpointError::Owned {
                place: self.place.clone(),
                owner: String::from_utf8_lossy(&known.unwrap_or_default()).into_owned(),
            }),
        }
    }

    fn at(&self, name: &str) -> Path {
        match self.root.as_ref() {
            "" => Path::from(name),
            root => Path::from(format!("{root}/{name}")),
        }
    }

    /// Waits for what is done elsewhere, so that the caller may be a thread that serves a runtime, too.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> object_store::Result<T> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let runtime = self.runtime.as_ref();
        let runtime = runtime.expect("invariant: it is there until it is dropped");
        let task = runtime.spawn(async move {
            let _ = sender.send(work.await);
        });
        let unfinished = |detail: &str| {
            task.abort();
            Err(object_store::Error::Generic {
                store: "object store",
                source: detail.into(),
            })
        };
        let (since, mut is_told) = (Instant::now(), false);
        loop {
            match receiver.recv_timeout(LOOK) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => return unfinished("the request was not finished"),
                Err(RecvTimeoutError::Timeout)
                    if self.is_given_up.load(Ordering::Acquire) && since.elapsed() > COURTESY =>
                {
                    return unfinished("it was given up: the server stops");
                }
                Err(RecvTimeoutError::Timeout) if !is_told && since.elapsed() > TELL_AFTER => {
                    is_told = true;
                    tracing::warn!(place = %self.place, "the object store has not answered yet");
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<bool, CheckpointError> {
        let (store, path) = (Arc::clone(&self.store), self.at(name));
        let content = Bytes::copy_from_slice(content);
        let options = PutOptions::from(PutMode::Create);
        match self.wait(async move { store.put_opts(&path, content.into(), options).await }) {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(false)
            }
            Err(error) => Err(self.failure(name, &error)),
        }
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        let (store, path) = (Arc::clone(&self.store), self.at(name));
        match self.wait(async move { store.get(&path).await?.bytes().await }) {
            Ok(content) => Ok(Some(content.into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failure(name, &error)),
        }
    }

    fn delete_object(&self, name: &str) -> Result<(), CheckpointError> {
        let (store, path) = (Arc::clone(&self.store), self.at(name));
        match self.wait(async move { store.delete(&path).await }) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failure(name, &error)),
        }
    }

    fn failure(&self, name: &str, error: &object_store::Error) -> CheckpointError {
        use object_store::Error;
        let detail = without_secrets(&error.to_string());
        match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => CheckpointError::Refused {
                place: self.place.clone(),
                detail,
            },
            // Of the place itself: a name that is missing is not an error.
            Error::NotFound { .. } => CheckpointError::Settings {
                detail: format!(
                    "{} is not there; create the bucket, or choose another ({detail})",
                    self.place
                ),
            },
            _ => CheckpointError::Io {
                path: format!("{}/{name}", self.place),
                detail,
            },
        }
    }
}

/// A URL's query may have a signature in it, and what stands before its host a password.
fn without_secrets(text: &str) -> String {
    let mut text = text.to_string();
    let mut from = 0;
    while let Some(place) = text[from..].find("://") {
        let begin = from + place + 3;
        let rest = &text[begin..];
        let authority = rest.find(['/', '?', '"', ' ', ')']).unwrap_or(rest.len());
        if let Some(at) = rest[..authority].rfind('@') {
            text.replace_range(begin..=begin + at, "");
        }
        from = begin;
    }
    let mut kept = String::with_capacity(text.len().min(DETAIL));
    let mut is_query = false;
    for letter in text.chars() {
        if kept.len() >= DETAIL {
            kept.push('…');
            break;
        }
        is_query = match letter {
            '?' => true,
            _ if letter.is_whitespace() || "\"'<>)".contains(letter) => false,
            _ => is_query,
        };
        if !is_query {
            kept.push(letter);
        }
    }
    kept
}

impl CheckpointStore for ObjectCheckpoints {
    fn create(&self, name: &str, content: &[u8]) -> Result<bool, CheckpointError> {
        check_name(name)?;
        self.put(name, content)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        check_name(name)?;
        self.get(name)
    }

    fn list(&self) -> Result<Vec<(String, u64)>, CheckpointError> {
        let (store, root) = (Arc::clone(&self.store), self.root.clone());
        let found = self.wait(async move {
            let root = (!root.as_ref().is_empty()).then_some(&root);
            store.list(root).try_collect::<Vec<_>>().await
        });
        let found = found.map_err(|error| self.failure("", &error))?;
        let mut files: Vec<(String, u64)> = found
            .iter()
            .filter_map(|object| {
                let below = object.location.as_ref().strip_prefix(self.root.as_ref())?;
                let name = below.trim_start_matches('/');
                check_name(name).ok()?;
                Some((name.to_string(), object.size))
            })
            .collect();
        files.sort();
        Ok(files)
    }

    fn delete(&self, name: &str) -> Result<(), CheckpointError> {
        check_name(name)?;
        self.delete_object(name)
    }

    fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Release);
    }
}

impl Drop for ObjectCheckpoints {
    fn drop(&mut self) {
        // It may be dropped where nobody may wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_not_told() {
        let told = without_secrets(
            "PUT \"http://h/c/x?sv=1&sig=abc\" in 3 s (http://h/c?sig=abc) and https://h?sig=z",
        );
        assert_eq!(told, "PUT \"http://h/c/x\" in 3 s (http://h/c) and https://h");
        let told = without_secrets("PUT http://u:p@h:1/b in 3 s, http://u:p@h and (https://p@h)");
        assert_eq!(told, "PUT http://h:1/b in 3 s, http://h and (https://h)");
        assert!(without_secrets(&"é".repeat(5_000)).len() < 500);
    }
}
