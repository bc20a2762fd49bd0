//! REST API, OpenAPI and the embedded UI.
