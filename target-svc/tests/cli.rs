//! The command line of `target-svc`, which it shares with the other model service.

#[path = "../../crates/service/tests/cli/process.rs"]
mod process;
#[path = "../../crates/service/tests/cli/running.rs"]
mod running;
#[path = "../../crates/service/tests/cli/shared.rs"]
mod shared;

/// The binary.
const BINARY: &str = env!("CARGO_BIN_EXE_target-svc");

/// The model that it serves where none is named.
const MODEL: &str = "embedded:target";
