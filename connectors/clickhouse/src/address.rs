//! Where a ClickHouse is and as whom it is spoken to: `clickhouse://user@host:port/database`, with `?secure=true` over TLS.
//!
//! The password is given apart from the address, so that the address can be shown, logged and put into a process list.

use std::fmt;

use pyflare_connectors::StoreError;
use url::Url;

const SCHEME: &str = "clickhouse";
/// ClickHouse's ports for HTTP, and for HTTPS.
const PORT: u16 = 8123;
const SECURE_PORT: u16 = 8443;
const USER: &str = "default";
const DATABASE: &str = "pyflare";

/// A database of a server, and the user.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub database: String,
    /// Whether it is spoken to over TLS.
    pub is_secure: bool,
    password: Option<String>,
}

impl Address {
    /// Reads `clickhouse://user@host:port/database?secure=true`; what is left out is `default`, 8123 (8443 with TLS),
    /// `pyflare` and `false`.
    pub fn parse(url: &str, password: Option<String>) -> Result<Address, StoreError> {
        let refuse = |shown: &str, detail: &str| StoreError::Url {
            url: shown.to_owned(),
            detail: detail.to_owned(),
        };
        // A text that cannot be taken apart may hold a password anywhere: it is not repeated.
        let read = Url::parse(url)
            .map_err(|error| refuse("clickhouse://…", &format!("it is not a URL ({error})")))?;
        if read.password().is_some() {
            let mut shown = read.clone();
            // Fails only for URLs without a host, which have no password.
            let _ = shown.set_password(None);
            return Err(refuse(
                shown.as_str(),
                "the password does not belong here; set store.password or PYFLARE_STORE_PASSWORD",
            ));
        }
        if read.scheme() != SCHEME {
            return Err(refuse(url, "it must begin with clickhouse://"));
        }
        let is_secure = match (read.query(), read.fragment()) {
            (None | Some("secure=false"), None) => false,
            (Some("secure=true"), None) => true,
            _ => {
                return Err(refuse(
                    url,
                    "the only option is ?secure=true, for TLS; end it with that or with the database",
                ));
            }
        };
        let host = read.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| refuse(url, "it names no host"))?.to_owned();
        let decode = |text: &str, default: &str| match text {
            "" => Some(default.to_owned()),
            text => percent_decoded(text),
        };
        let user = decode(read.username(), USER);
        let database = decode(read.path().trim_matches('/'), DATABASE);
        let (Some(user), Some(database)) = (user, database) else {
            return Err(refuse(url, "an escape in it is not UTF-8"));
        };
        if database.contains('/') {
            return Err(refuse(url, "the path is the name of one database"));
        }
        Ok(Address {
            host,
            port: read.port().unwrap_or(if is_secure { SECURE_PORT } else { PORT }),
            user,
            database,
            is_secure,
            password: password.filter(|password| !password.is_empty()),
        })
    }

    pub fn password(&self) -> &str {
        self.password.as_deref().unwrap_or("")
    }

    /// `host:port`, as messages show it.
    pub fn server(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Whether what is sent stays on this machine.
    pub fn is_local(&self) -> bool {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let address: Option<std::net::IpAddr> = host.parse().ok();
        host == "localhost" || address.is_some_and(|address| address.is_loopback())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "clickhouse://{}@{}/{}{}",
            self.user,
            self.server(),
            self.database,
            if self.is_secure { "?secure=true" } else { "" }
        )
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (high, low) = (rest.next()?, rest.next()?);
        let digit = |byte: u8| (byte as char).to_digit(16);
        bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_has_defaults() {
        let full = Address::parse("clickhouse://an%20a@db.example:9999/traces", Some("p".into())).unwrap();
        assert_eq!(
            (
                full.host.as_str(),
                full.port,
                full.user.as_str(),
                full.database.as_str()
            ),
            ("db.example", 9999, "an a", "traces")
        );
        assert!(!full.is_local());
        let short = Address::parse("clickhouse://127.0.0.1", None).unwrap();
        assert_eq!((short.port, short.user.as_str()), (8123, "default"));
        assert_eq!(short.database, "pyflare");
        assert!(short.is_local());
        assert!(Address::parse("clickhouse://[::1]:1/x", None).unwrap().is_local());
        let secure = Address::parse("clickhouse://u@h/d?secure=true", None).unwrap();
        assert_eq!(
            (secure.port, secure.is_secure, short.is_secure),
            (8443, true, false)
        );
        assert_eq!(format!("{secure:?}"), "clickhouse://u@h:8443/d?secure=true");
    }

    #[test]
    fn mistakes_are_named_and_no_password_is_repeated() {
        for (url, part) in [
            ("postgres://a/b", "begin with"),
            ("clickhouse://u:secret@h/d", "store.password"),
            ("clickhouse://u:secret@h:notaport/d", "not a URL"),
            ("clickhouse://h/d?secure=1", "?secure=true"),
            ("clickhouse://h/d?secure=true&verify=false", "?secure=true"),
            ("clickhouse:///d", "host"),
            ("clickhouse://h/a/b", "one database"),
            ("clickhouse://h/%ff", "UTF-8"),
        ] {
            let refused = Address::parse(url, None).unwrap_err().to_string();
            assert!(refused.contains("PF-2308") && refused.contains(part), "{refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
        let debug = format!(
            "{:?}",
            Address::parse("clickhouse://u@h/d", Some("secret".into())).unwrap()
        );
        assert_eq!(debug, "clickhouse://u@h:8123/d");
    }
}
