//! The built-in views: the statements in `views/*.sql`, as a user could have typed them.
//!
//! The list is made from the folder when the crate is built, so a view is there exactly if its file is. They are
//! planned at start-up by the same planner as any statement; nothing here knows what they compute.

include!(concat!(env!("OUT_DIR"), "/builtin_views.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_creates_the_monitor_it_is_named_after() {
        for (name, sql) in FILES {
            assert!(sql.contains(&format!("CREATE MONITOR {name} ")), "{name}");
        }
    }
}
