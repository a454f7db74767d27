//! The command line. Without a subcommand it runs the suite on the embedded models.

use std::process::ExitCode;

fn main() -> ExitCode {
    conformance::cli::main()
}
