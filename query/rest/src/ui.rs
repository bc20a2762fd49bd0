//! The embedded UI: its files by their paths, its start page for every other path, because the pages' own paths exist
//! in the browser only.
//!
//! Files under `assets/` carry a hash in their names and are kept for ever by browsers; the start page is asked for
//! again each time and answered with 304 while it is the same.

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::problem::Problem;

/// Scripts and connections of this server only; styles may be set by scripts (the editor does).
pub(crate) const CONTENT_POLICY: &str = "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; \
    base-uri 'self'; form-action 'none'; frame-ancestors 'none'";

#[cfg(pyflare_with_ui)]
#[derive(rust_embed::RustEmbed)]
#[folder = "$CARGO_MANIFEST_DIR/../../ui/dist"]
struct Files;

#[cfg(not(pyflare_with_ui))]
const WITHOUT_UI: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>PyFlare</title>\
    <p>This server was built without its user interface.</p>\
    <p>Build it with <code>npm ci &amp;&amp; npm run build</code> in <code>ui/</code>, then build the server again.</p>\
    <p>The API is there: <a href=\"api/openapi.json\">api/openapi.json</a>, <a href=\"metrics\">metrics</a>.</p></html>";

struct File {
    bytes: Vec<u8>,
    kind: String,
    tag: String,
}

fn find(path: &str) -> Option<File> {
    #[cfg(pyflare_with_ui)]
    {
        use std::fmt::Write;
        let file = Files::get(path)?;
        let mut tag = String::from("\"");
        for byte in &file.metadata.sha256_hash()[..16] {
            let _ = write!(tag, "{byte:02x}");
        }
        tag.push('"');
        let kind = file.metadata.mimetype().to_string();
        let text = kind.starts_with("text/") || kind == "application/javascript";
        let kind = if text {
            format!("{kind}; charset=utf-8")
        } else {
            kind
        };
        Some(File {
            bytes: file.data.into_owned(),
            kind,
            tag,
        })
    }
    #[cfg(not(pyflare_with_ui))]
    {
        let page = || File {
            bytes: WITHOUT_UI.into(),
            kind: "text/html; charset=utf-8".to_string(),
            tag: format!("\"without-ui-{}\"", env!("CARGO_PKG_VERSION")),
        };
        (path == "index.html").then(page)
    }
}

/// Answers a path that is no route.
pub(crate) fn serve(method: &Method, path: &str, headers: &HeaderMap) -> Response {
    if method != Method::GET && method != Method::HEAD {
        let mut response = Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "PF-5002",
            "pages can only be read",
        )
        .into_response();
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("GET,HEAD"));
        return response;
    }
    let name = path.trim_start_matches('/');
    let is_asset = name.starts_with("assets/");
    let found = if name.is_empty() { None } else { find(name) };
    // An asset of another version must not be answered with a page.
    let file = match found {
        Some(file) => Some((file, is_asset)),
        None if is_asset => None,
        None => find("index.html").map(|file| (file, false)),
    };
    let Some((file, lasting)) = file else {
        return Problem::new(
            StatusCode::NOT_FOUND,
            "PF-5001",
            "there is no such file; load the page again",
        )
        .into_response();
    };
    let cache = if lasting {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let unchanged = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|tags| {
            tags.split(',')
                .any(|tag| tag.trim().trim_start_matches("W/") == file.tag || tag.trim() == "*")
        });
    let mut response = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else if method == Method::HEAD {
        let mut response = StatusCode::OK.into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(file.bytes.len()));
        response
    } else {
        file.bytes.into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    if let Ok(tag) = HeaderValue::from_str(&file.tag) {
        headers.insert(header::ETAG, tag);
    }
    if !unchanged && let Ok(kind) = HeaderValue::from_str(&file.kind) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    response
}
