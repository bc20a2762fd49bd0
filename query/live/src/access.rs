//! Who may read what, and which web pages may talk to us.
//!
//! The binary supplies the rule that turns headers into a [`Scope`]. On top of it stands a guard for servers that
//! need no key: a browser sends requests to a local port on behalf of any page it shows, so a request that names
//! an `Origin` must come from the same host or from loopback, and a request over loopback must also *address*
//! loopback (otherwise a page could rebind its own name to 127.0.0.1 and be "the same host").

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::{Failure, FailureKind};

/// What a caller may see and change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Only this project; `None`: every project (open mode without the header `x-pyflare-project`).
    pub project: Option<String>,
}

impl Scope {
    /// The project that things this caller creates belong to.
    pub fn owner(&self) -> &str {
        self.project.as_deref().unwrap_or("default")
    }
}

/// The subprotocol that is agreed on where one is offered.
pub const SUBPROTOCOL: &str = "pyflare";
/// A second offered "subprotocol" begins so and carries a key in base64url: the one header that a web page can
/// fill when it opens a WebSocket. An address would not do, since proxies write addresses into their logs.
const KEY_SUBPROTOCOL: &str = "pyflare.key.";

/// The key among the offered subprotocols, if there is one.
pub(crate) fn key_of_subprotocols(headers: &HeaderMap) -> Option<HeaderValue> {
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mut names = offers
        .iter()
        .filter_map(|offer| offer.to_str().ok())
        .flat_map(|offer| offer.split(','));
    let encoded = names.find_map(|name| name.trim().strip_prefix(KEY_SUBPROTOCOL))?;
    let key = URL_SAFE_NO_PAD.decode(encoded).ok()?;
    HeaderValue::from_bytes(&key).ok()
}

/// Headers and the peer's address to a scope, or a refusal.
pub type Authorize = Arc<dyn Fn(&HeaderMap, Option<SocketAddr>) -> Result<Scope, Failure> + Send + Sync>;

/// The rule for everything under `/api`.
#[derive(Clone)]
pub struct Access {
    pub authorize: Authorize,
    /// No key is needed: web pages are then kept out by `Origin` and `Host`.
    pub open: bool,
    /// Every caller must show a key, which says the project.
    pub keys: bool,
    /// Host names besides loopback under which a reverse proxy on this machine publishes us.
    pub allowed_hosts: Vec<String>,
}

impl Access {
    /// Open mode: `x-pyflare-project` narrows, without it every project is visible.
    pub fn open() -> Access {
        let authorize: Authorize = Arc::new(|headers, _peer| match headers.get("x-pyflare-project") {
            None => Ok(Scope { project: None }),
            Some(value) => match value.to_str() {
                Ok(project) if valid_project(project) => Ok(Scope {
                    project: Some(project.to_string()),
                }),
                _ => Err(Failure::new(
                    FailureKind::Invalid,
                    "PF-5026",
                    "the header x-pyflare-project must be 1 to 128 visible ASCII characters",
                )),
            },
        });
        Access {
            authorize,
            open: true,
            keys: false,
            allowed_hosts: Vec::new(),
        }
    }

    /// The guard and the rule, in this order.
    pub fn check(&self, headers: &HeaderMap, peer: Option<SocketAddr>) -> Result<Scope, Failure> {
        if self.open {
            self.check_page(headers, peer)?;
        }
        (self.authorize)(headers, peer)
    }

    fn check_page(&self, headers: &HeaderMap, peer: Option<SocketAddr>) -> Result<(), Failure> {
        let host = match headers.get(header::HOST) {
            Some(value) => value.to_str().ok().and_then(host_of_authority),
            None => None,
        };
        let over_loopback = peer.is_none_or(|peer| peer.ip().to_canonical().is_loopback());
        if let Some(host) = host
            && over_loopback
            && !is_loopback(host)
            && !self.allows(host)
        {
            return Err(Failure::new(
                FailureKind::Forbidden,
                "PF-5011",
                format!(
                    "a server without keys does not answer to the host name {}",
                    crate::failure::shown(host)
                ),
            )
            .with_hint("use http://127.0.0.1 or http://localhost, or list the name in the allowed hosts"));
        }
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Ok(());
        };
        let page = origin.to_str().ok().and_then(host_of_origin);
        let trusted = page.is_some_and(|page| {
            is_loopback(page) || self.allows(page) || host.is_some_and(|host| host.eq_ignore_ascii_case(page))
        });
        if trusted {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::Forbidden,
            "PF-5011",
            format!(
                "pages of {} may not use a server without keys",
                crate::failure::shown(&String::from_utf8_lossy(origin.as_bytes()))
            ),
        )
        .with_hint("open the UI of this server itself, or configure keys"))
    }

    fn allows(&self, host: &str) -> bool {
        self.allowed_hosts
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(host))
    }
}

fn valid_project(project: &str) -> bool {
    !project.is_empty() && project.len() <= 128 && project.bytes().all(|byte| byte.is_ascii_graphic())
}

/// `example.org:80` → `example.org`, `[::1]:80` → `::1`.
fn host_of_authority(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (
                host,
                if port.is_empty() {
                    ""
                } else {
                    port.strip_prefix(':')?
                },
            )
        }
        None => authority.rsplit_once(':').unwrap_or((authority, "")),
    };
    let whole = !host.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    whole.then_some(host)
}

/// `https://example.org:80` → `example.org`; `null` and other schemes have no host.
fn host_of_origin(origin: &str) -> Option<&str> {
    let (scheme, authority) = origin.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    host_of_authority(authority)
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn verdict(host: &str, origin: Option<&str>, peer: &str) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        let peer = peer.parse().unwrap();
        Access::open()
            .check(&headers, Some(peer))
            .map(|_| ())
            .map_err(|failure| failure.code)
    }

    #[test]
    fn programs_and_our_own_pages_pass() {
        let local = "127.0.0.1:50000";
        assert_eq!(verdict("127.0.0.1:4319", None, local), Ok(()));
        assert_eq!(
            verdict("localhost:4319", Some("http://localhost:4319"), local),
            Ok(())
        );
        assert_eq!(
            verdict("127.0.0.1:4319", Some("http://localhost:5173"), local),
            Ok(())
        );
        assert_eq!(
            verdict("[::1]:4319", Some("http://[::1]:4319"), "[::1]:50000"),
            Ok(())
        );
        assert_eq!(verdict("[::1]:4319", None, "[::ffff:127.0.0.1]:50000"), Ok(()));
        // Reached over the network (`--insecure-open`), the name is whatever the network calls us.
        assert_eq!(
            verdict("box.lan:4319", Some("http://box.lan:4319"), "10.0.0.7:50000"),
            Ok(())
        );
    }

    #[test]
    fn foreign_pages_are_refused() {
        let local = "127.0.0.1:50000";
        let refused = Err("PF-5011".to_string());
        for origin in [
            "https://evil.example",
            "http://127.0.0.1.evil.example",
            "http://localhost.evil.example",
            "http://evil.example/127.0.0.1",
            "null",
            "file://",
            "chrome-extension://127.0.0.1",
            "http://127.0.0.1@evil.example",
            "http://127.0.0.1:80@evil.example",
            "http://[::1].evil.example",
            "http://",
            "",
        ] {
            assert_eq!(
                verdict("127.0.0.1:4319", Some(origin), local),
                refused,
                "{origin}"
            );
        }
        assert_eq!(
            verdict("box.lan:4319", Some("http://evil.example"), "10.0.0.7:50000"),
            refused
        );
    }

    #[test]
    fn a_name_rebound_to_loopback_is_refused() {
        let refused = Err("PF-5011".to_string());
        assert_eq!(
            verdict(
                "evil.example:4319",
                Some("http://evil.example:4319"),
                "127.0.0.1:50000"
            ),
            refused
        );
        assert_eq!(verdict("evil.example:4319", None, "127.0.0.1:50000"), refused);
    }

    #[test]
    fn the_project_header_narrows_and_is_checked() {
        let mut headers = HeaderMap::new();
        assert_eq!(Access::open().check(&headers, None).unwrap().project, None);
        headers.insert("x-pyflare-project", "blue".parse().unwrap());
        assert_eq!(
            Access::open().check(&headers, None).unwrap().project.as_deref(),
            Some("blue")
        );
        headers.insert("x-pyflare-project", "".parse().unwrap());
        assert_eq!(Access::open().check(&headers, None).unwrap_err().code, "PF-5026");
        headers.insert("x-pyflare-project", "x".repeat(200).parse().unwrap());
        assert_eq!(Access::open().check(&headers, None).unwrap_err().code, "PF-5026");
    }
}
