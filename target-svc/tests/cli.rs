//! The command line of `target-svc`, which it shares with the other model service.

use process::{command, end};

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

/// Flags that the other service does not have, with their variables.
const OWN_FLAGS: [(&str, &str); 1] = [("--synthetic-acceptance", "OUTRIDER_SYNTHETIC_ACCEPTANCE")];

#[test]
fn an_acceptance_by_lot_out_of_range_ends_with_status_2() {
    for value in ["1.5", "-0.1", "NaN", "always"] {
        let mut service = command(BINARY);
        service.args(["--synthetic-acceptance", value]);
        end(&mut service, b"").failed(2, &["--synthetic-acceptance", value, "allowed", "0 to 1"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_target_that_accepts_by_lot_says_so() {
    for (flags, expected) in [(&[][..], None), (&["--synthetic-acceptance", "0.7"], Some(0.7))] {
        let mut service = command(BINARY);
        let running = running::Running::spawn(service.args(["--listen", "127.0.0.1:0"]).args(flags));
        let described = running.describe().await;
        assert_eq!((described.synthetic, described.synthetic_acceptance), (false, expected));
        running.stop("TERM").succeeded();
    }
}
