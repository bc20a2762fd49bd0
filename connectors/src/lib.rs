//! Traits at the edge of the world and their conformance suites.
