//! The `weigate` binary: arguments, log set-up, signals, exit codes.
//!
//! Exit codes: 0; 2 bad configuration; 64 bad usage; 1 anything else.

mod commands;

/// Keeps less memory than glibc's allocator for the same crowd, and touches none that nobody has written to; when it gives
/// memory back is a matter of [`commands::memory`].
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use commands::{Arguments, Failure};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no faults; clap prints them to stdout.
            let _printed = error.print();
            let is_fault = !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if is_fault { 64 } else { 0 });
        }
    };
    match commands::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configuration(faults)) => {
            commands::tell(format_args!("{faults}"));
            ExitCode::from(2)
        }
        Err(Failure::Other(error)) => {
            commands::tell(format_args!("weigate: {}", commands::chain(&error)));
            ExitCode::FAILURE
        }
    }
}
