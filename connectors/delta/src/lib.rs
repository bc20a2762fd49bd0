//! Delta Lake tables as the embedded store.
