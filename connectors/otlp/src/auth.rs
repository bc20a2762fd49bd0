//! Who sends, and for which project.
//!
//! The receiver is given an [`Authenticate`] function; [`IngestKeys`] makes one from configured keys. A key is
//! looked for in, in this order:
//! 1. `x-pyflare-key: pf_…`;
//! 2. `authorization: Bearer pf_…`;
//! 3. `authorization: Basic …`, whose password is the key (the user name does not matter): what Langfuse SDKs
//!    send with the public key as user and `LANGFUSE_SECRET_KEY=pf_…` as password.
//!
//! A key belongs to one project. `x-pyflare-project` may name it too, and is refused if it names another.
//! Without configured keys (open mode) the header alone decides, `default` if it is missing; then only senders
//! on this machine are heard, unless `--insecure-open` says otherwise.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::options::OpenMode;

/// Names the project in open mode.
pub const PROJECT_HEADER: &str = "x-pyflare-project";
const KEY_HEADER: &str = "x-pyflare-key";
const KEY_PREFIX: &str = "pf_";
/// Shorter keys could be guessed.
const SHORTEST_KEY: usize = 19;
const DEFAULT_PROJECT: &str = "default";

/// What is known about a request before its body is read.
#[derive(Debug, Clone, Copy)]
pub struct AuthRequest<'a> {
    pub headers: &'a HeaderMap,
    pub peer: SocketAddr,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthFailure {
    #[error(
        "PF-1001: an ingest key is needed; send it as x-pyflare-key, as authorization: Bearer, or as the password of Basic"
    )]
    MissingKey,
    #[error("PF-1002: this ingest key is not known; check it against the server's configuration")]
    UnknownKey,
    #[error("PF-1003: this ingest key belongs to another project than {project:?}")]
    OtherProject { project: String },
    #[error(
        "PF-1004: {project:?} is not a project name; use 1 to 64 of a-z, 0-9, _ and -, beginning with a letter or digit"
    )]
    ProjectName { project: String },
    #[error(
        "PF-1005: without keys only senders on this machine are accepted, not {peer}; configure auth.keys on the server"
    )]
    NotLocal { peer: String },
}

/// Derives the project of a request, or says why it may not send. Called before the body is read; must be cheap.
pub type Authenticate = Arc<dyn Fn(&AuthRequest<'_>) -> Result<Arc<str>, AuthFailure> + Send + Sync>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error(
        "PF-1023: the ingest key of project {project:?} must begin with pf_ and have at least 16 more characters"
    )]
    Weak { project: String },
    #[error("PF-1024: one ingest key is configured for two projects, {first:?} and {second:?}")]
    Shared { first: String, second: String },
    #[error(transparent)]
    Project(#[from] AuthFailure),
}

/// Checks a project's name: 1 to 64 of `a-z0-9_-`, beginning with a letter or digit.
pub fn check_project_name(name: &str) -> Result<(), AuthFailure> {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    let good = (1..=64).contains(&name.len())
        && name.bytes().all(allowed)
        && name.as_bytes()[0].is_ascii_alphanumeric();
    if good {
        return Ok(());
    }
    Err(AuthFailure::ProjectName {
        project: name.chars().take(80).collect(),
    })
}

/// The configured keys, or open mode if there are none.
#[derive(Clone)]
pub struct IngestKeys {
    keys: Vec<(Box<[u8]>, Arc<str>)>,
    open_mode: OpenMode,
    default_project: Arc<str>,
}

impl IngestKeys {
    /// Keys with the project of each. None at all means open mode: for this machine, or for everybody who can
    /// reach the port with `insecure_open`.
    pub fn new(
        keys: impl IntoIterator<Item = (String, String)>,
        insecure_open: bool,
    ) -> Result<IngestKeys, KeyError> {
        let mut known: Vec<(Box<[u8]>, Arc<str>)> = Vec::new();
        let mut projects: HashSet<Arc<str>> = HashSet::new();
        for (key, project) in keys {
            check_project_name(&project)?;
            if !key.starts_with(KEY_PREFIX) || key.len() < SHORTEST_KEY {
                return Err(KeyError::Weak { project });
            }
            if let Some((_, first)) = known.iter().find(|(known, _)| **known == *key.as_bytes()) {
                return Err(KeyError::Shared {
                    first: first.to_string(),
                    second: project,
                });
            }
            let project: Arc<str> = Arc::from(project);
            projects.insert(Arc::clone(&project));
            known.push((key.into_bytes().into_boxed_slice(), project));
        }
        let open_mode = match (known.is_empty(), insecure_open) {
            (false, _) => OpenMode::Never,
            (true, false) => OpenMode::Loopback,
            (true, true) => OpenMode::Anywhere,
        };
        Ok(IngestKeys {
            keys: known,
            open_mode,
            default_project: Arc::from(DEFAULT_PROJECT),
        })
    }

    /// Whether requests need no key, and from where.
    pub fn open_mode(&self) -> OpenMode {
        self.open_mode
    }

    /// The project of a request.
    pub fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Arc<str>, AuthFailure> {
        let named = match request.headers.get(PROJECT_HEADER) {
            Some(value) => {
                let name = String::from_utf8_lossy(value.as_bytes());
                check_project_name(&name)?;
                Some(name)
            }
            None => None,
        };
        match self.open_mode {
            OpenMode::Never => {
                let key = presented_key(request.headers).ok_or(AuthFailure::MissingKey)?;
                let project = self.project_of(&key).ok_or(AuthFailure::UnknownKey)?;
                match named {
                    Some(name) if name != *project => Err(AuthFailure::OtherProject {
                        project: name.into_owned(),
                    }),
                    _ => Ok(project),
                }
            }
            OpenMode::Loopback if !request.peer.ip().to_canonical().is_loopback() => {
                Err(AuthFailure::NotLocal {
                    peer: request.peer.ip().to_string(),
                })
            }
            OpenMode::Loopback | OpenMode::Anywhere => Ok(match named {
                Some(name) if name != *self.default_project => Arc::from(name),
                _ => Arc::clone(&self.default_project),
            }),
        }
    }

    /// The function that a receiver is given.
    pub fn into_authenticate(self) -> Authenticate {
        Arc::new(move |request| self.authenticate(request))
    }

    /// Compares with every key and every byte, so that the time says nothing about how much of it was right.
    fn project_of(&self, presented: &[u8]) -> Option<Arc<str>> {
        let mut found = None;
        for (key, project) in &self.keys {
            if equal_in_constant_time(key, presented) {
                found = Some(Arc::clone(project));
            }
        }
        found
    }
}

/// Takes the same time for all texts of one length.
fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let difference = left.iter().zip(right).fold(0_u8, |difference, (left, right)| {
        std::hint::black_box(difference | (left ^ right))
    });
    difference == 0
}

fn presented_key(headers: &HeaderMap) -> Option<Vec<u8>> {
    if let Some(key) = headers.get(KEY_HEADER) {
        return Some(key.as_bytes().to_vec());
    }
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, credentials) = value.split_once(' ')?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(credentials.as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD
        .decode(credentials)
        .or_else(|_| STANDARD_NO_PAD.decode(credentials))
        .ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded[colon + 1..].to_vec())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;

    use super::*;

    const KEY_A: &str = "pf_aaaaaaaaaaaaaaaa";
    const KEY_B: &str = "pf_bbbbbbbbbbbbbbbbbbbb";

    fn keys(pairs: &[(&str, &str)]) -> Result<IngestKeys, KeyError> {
        IngestKeys::new(
            pairs
                .iter()
                .map(|(key, project)| (key.to_string(), project.to_string())),
            false,
        )
    }

    fn ask(keys: &IngestKeys, peer: &str, headers: &[(&'static str, &str)]) -> Result<String, AuthFailure> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect();
        let request = AuthRequest {
            headers: &headers,
            peer: peer.parse().unwrap(),
        };
        keys.authenticate(&request).map(|project| project.to_string())
    }

    #[test]
    fn a_key_is_found_wherever_clients_put_it_and_gives_its_project() {
        let keys = keys(&[(KEY_A, "shop"), (KEY_B, "search")]).unwrap();
        let peer = "203.0.113.9:5000";
        assert_eq!(ask(&keys, peer, &[("x-pyflare-key", KEY_A)]).unwrap(), "shop");
        assert_eq!(
            ask(&keys, peer, &[("authorization", &format!("Bearer {KEY_B}"))]).unwrap(),
            "search"
        );
        assert_eq!(
            ask(&keys, peer, &[("authorization", &format!("bearer  {KEY_B}"))]).unwrap(),
            "search"
        );
        let basic = format!("Basic {}", STANDARD.encode(format!("pk-lf-1:{KEY_A}")));
        assert_eq!(ask(&keys, peer, &[("authorization", &basic)]).unwrap(), "shop");
        let agreeing = [("x-pyflare-key", KEY_A), (PROJECT_HEADER, "shop")];
        assert_eq!(ask(&keys, peer, &agreeing).unwrap(), "shop");
    }

    #[test]
    fn wrong_missing_and_mismatched_keys_are_refused() {
        let keys = keys(&[(KEY_A, "shop")]).unwrap();
        let peer = "127.0.0.1:5000";
        assert_eq!(ask(&keys, peer, &[]), Err(AuthFailure::MissingKey));
        assert_eq!(
            ask(&keys, peer, &[("authorization", "Digest x")]),
            Err(AuthFailure::MissingKey)
        );
        assert_eq!(
            ask(&keys, peer, &[("authorization", "Basic !!")]),
            Err(AuthFailure::MissingKey)
        );
        for wrong in [KEY_B, "", "pf_", &KEY_A[..18], &format!("{KEY_A}a")] {
            assert_eq!(
                ask(&keys, peer, &[("x-pyflare-key", wrong)]),
                Err(AuthFailure::UnknownKey)
            );
        }
        let other = [("x-pyflare-key", KEY_A), (PROJECT_HEADER, "search")];
        assert!(matches!(
            ask(&keys, peer, &other),
            Err(AuthFailure::OtherProject { .. })
        ));
    }

    #[test]
    fn open_mode_hears_this_machine_only_and_takes_the_project_from_the_header() {
        let keys = keys(&[]).unwrap();
        assert_eq!(keys.open_mode(), OpenMode::Loopback);
        for peer in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(ask(&keys, peer, &[]).unwrap(), "default");
            assert_eq!(
                ask(&keys, peer, &[(PROJECT_HEADER, "shop-2_x")]).unwrap(),
                "shop-2_x"
            );
        }
        for peer in ["203.0.113.9:1", "[::ffff:203.0.113.9]:1"] {
            assert!(matches!(ask(&keys, peer, &[]), Err(AuthFailure::NotLocal { .. })));
        }
        let anywhere = IngestKeys::new([], true).unwrap();
        assert_eq!(ask(&anywhere, "203.0.113.9:1", &[]).unwrap(), "default");
        let long = "x".repeat(65);
        for name in ["", "Shop", "a b", "-a", "_a", "a/b", "..", &long] {
            let refused = ask(&keys, "127.0.0.1:1", &[(PROJECT_HEADER, name)]);
            assert!(
                matches!(refused, Err(AuthFailure::ProjectName { .. })),
                "{name:?}"
            );
        }
    }

    #[test]
    fn configured_keys_are_checked() {
        assert!(matches!(
            keys(&[("secret-but-unprefixed", "a")]),
            Err(KeyError::Weak { .. })
        ));
        assert!(matches!(keys(&[("pf_short", "a")]), Err(KeyError::Weak { .. })));
        assert!(matches!(keys(&[(KEY_A, "A")]), Err(KeyError::Project(_))));
        assert!(matches!(
            keys(&[(KEY_A, "a"), (KEY_A, "b")]),
            Err(KeyError::Shared { .. })
        ));
    }
}
