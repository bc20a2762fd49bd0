//! The embedded durable log, tick log and catalog on local files.
