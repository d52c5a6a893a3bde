//! The command line of `draft-svc`, which it shares with the other model service.

#[path = "../../crates/service/tests/cli/process.rs"]
mod process;
#[path = "../../crates/service/tests/cli/running.rs"]
mod running;
#[path = "../../crates/service/tests/cli/shared.rs"]
mod shared;

/// The binary.
const BINARY: &str = env!("CARGO_BIN_EXE_draft-svc");

/// The model that it serves where none is named.
const MODEL: &str = "embedded:draft";

/// Flags that the other service does not have, with their variables.
const OWN_FLAGS: [(&str, &str); 1] = [("--max-branches", "OUTRIDER_MAX_BRANCHES")];
