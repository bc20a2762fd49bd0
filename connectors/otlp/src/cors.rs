//! Which web pages may send: the browser asks first (preflight), and names its page's origin every time.
//!
//! A request that names an origin which is not allowed is refused even if its kind needs no preflight, so that
//! no page can reach a receiver on the visitor's own machine by stealth.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue};

use crate::refusal::Refusal;

/// The origin to answer with: `None` if the request does not come from a web page.
pub(crate) fn allowed_origin(
    headers: &HeaderMap,
    allowed: &[String],
) -> Result<Option<HeaderValue>, Refusal> {
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(None);
    };
    let text = origin.to_str().unwrap_or_default();
    if !text.is_empty() && allowed.iter().any(|pattern| matches(pattern, text)) {
        return Ok(Some(origin.clone()));
    }
    Err(Refusal::Origin {
        origin: text.chars().take(200).collect(),
    })
}

/// Whether `text` is `pattern`, in which one `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern.eq_ignore_ascii_case(text),
        Some((before, after)) => {
            text.len() >= before.len() + after.len()
                && text.is_char_boundary(before.len())
                && text.is_char_boundary(text.len() - after.len())
                && text[..before.len()].eq_ignore_ascii_case(before)
                && text[text.len() - after.len()..].eq_ignore_ascii_case(after)
        }
    }
}

/// Adds what the browser needs to hand the answer to the page.
pub(crate) fn allow(origin: Option<HeaderValue>, headers: &mut HeaderMap) {
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("retry-after"),
        );
        headers.insert(VARY, HeaderValue::from_static("origin"));
    }
}

/// Answers a preflight: the headers that the page wants to send are allowed, whatever they are.
pub(crate) fn allow_preflight(request: &HeaderMap, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
    if let Some(wanted) = request.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    headers.insert(
        VARY,
        HeaderValue::from_static("origin, access-control-request-headers"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_star_stands_for_any_text() {
        assert!(matches("*", "https://a.example"));
        assert!(matches("http://localhost:*", "http://localhost:3000"));
        assert!(matches("https://*.example.com", "https://app.example.com"));
        assert!(matches("https://app.example.com", "HTTPS://app.example.com"));
        assert!(!matches("https://*.example.com", "https://example.com.evil"));
        assert!(!matches("http://localhost:*", "http://localhost.evil:3000"));
        assert!(!matches("https://a*a", "https://a"));
        assert!(!matches("https://a.example", "https://é.example"));
    }
}
