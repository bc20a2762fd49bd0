//! `pyflare`: one binary for everything; what it does is in [`cli`].

mod cli;

use std::process::ExitCode;

/// The engine clones many small keys and accumulators; memory must also return after a burst.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cli::run()
}
