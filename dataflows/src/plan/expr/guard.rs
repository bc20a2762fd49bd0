//! Evaluation that takes no worker down: where a function of DataFusion or arrow panics, the rows are in error.
//!
//! A worker that panics fails the engine, and the replay would meet the same row again. Panics are told like any other
//! error of a row, so they are not printed as well: a batch is halved until the bad rows are alone, and each of them
//! panics some ten times on the way.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use datafusion::error::DataFusionError;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; a panic in it becomes an error.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, DataFusionError>) -> Result<T, DataFusionError> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                print(panic);
            }
        }));
    });
    let before = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    outcome.unwrap_or_else(|panic| {
        let said = message(panic.as_ref());
        Err(DataFusionError::Execution(format!(
            "a function cannot be evaluated: {said}"
        )))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it gave no reason")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_the_next_one_is_printed_again() {
        let error = guarded::<()>(|| panic!("of a kernel")).unwrap_err();
        assert!(error.to_string().contains("of a kernel"), "{error}");
        assert_eq!(guarded(|| Ok(7)).unwrap(), 7);
        assert!(!GUARDED.get());
    }
}
