//! The `outrider` command line, as its user meets it: what it refuses and how, what it prints and where.

#[path = "../../crates/service/tests/cli/process.rs"]
mod process;

#[path = "cli/fake.rs"]
mod fake;
#[path = "cli/output.rs"]
mod output;
#[path = "cli/services.rs"]
mod services;
#[path = "cli/study.rs"]
mod study;
#[path = "cli/sweep.rs"]
mod sweep;

use process::{Ended, command, end};

/// The binary.
const BINARY: &str = env!("CARGO_BIN_EXE_outrider");

/// An address at which nothing listens: port 1 is reserved.
const NOBODY: &str = "http://127.0.0.1:1";

/// Runs `outrider` without input.
fn outrider(args: &[&str]) -> Ended {
    fed(args, b"")
}

/// Runs `outrider` with `input` on its standard input.
fn fed(args: &[&str], input: &[u8]) -> Ended {
    end(command(BINARY).args(args), input)
}

#[test]
fn a_value_out_of_range_ends_with_status_2_and_says_what_is_allowed() {
    for (flag, value, allowed) in [
        ("--gamma", "33", "0 to 32"),
        ("--gamma", "-1", "0 to 32"),
        ("--gamma", "x", "0 to 32"),
        ("--gamma", "4.5", "0 to 32"),
        ("--max-tokens", "0", "1 to 1048576"),
        ("--max-tokens", "-5", "1 to 1048576"),
        ("--max-tokens", "many", "1 to 1048576"),
        ("--temperature", "-1", "0 to 100"),
        ("--temperature", "101", "0 to 100"),
        ("--temperature", "NaN", "0 to 100"),
        ("--temperature", "inf", "0 to 100"),
        ("--temperature", "hot", "0 to 100"),
        ("--top-p", "1.5", "above 0, up to 1"),
        ("--top-p", "0", "above 0, up to 1"),
        ("--top-p", "-0.5", "above 0, up to 1"),
        ("--min-p", "2", "0 to 1"),
        ("--min-p", "-0.1", "0 to 1"),
        ("--top-k", "-1", "0 to 4294967295"),
        ("--seed", "-1", "0 to 18446744073709551615"),
        ("--seed", "18446744073709551616", "0 to 18446744073709551615"),
        ("--threads", "0", "1 to 1024"),
        ("--threads", "-2", "1 to 1024"),
        ("--threads", "1000000", "1 to 1024"),
        ("--draft-deadline", "0s", "above 0"),
        ("--draft-deadline", "5", "250ms"),
        ("--target-deadline", "2 years", "1day"),
        ("--min-confidence", "1.1", "0 to 1"),
        ("--min-confidence", "x", "0 to 1"),
        ("--coupling", "none", "gumbel, rejection"),
        ("--anticipate", "65", "1 to 64, auto or off"),
        ("--anticipate", "0", "1 to 64, auto or off"),
        ("--emulate-rtt", "2ms", "draft=… or target=…"),
        ("--emulate-rtt", "client=2ms", "draft=… or target=…"),
        ("--emulate-rtt", "draft=2", "250ms"),
        ("--emulate-jitter", "target=", "250ms"),
        ("--emulate-bandwidth", "draft=10", "10mbit"),
        ("--emulate-bandwidth", "draft=0.5kbit", "1kbit to 1000gbit"),
    ] {
        outrider(&["generate", "ROMEO:", flag, value]).failed(2, &[flag, value, "allowed", allowed]);
    }
    for (flag, value, allowed) in [
        ("--gamma", "0", "1 to 32"),
        ("--gamma", "4,33", "1 to 32"),
        ("--gamma", "4,", "1 to 32"),
        ("--pairs", "0", "1 to 10000"),
        ("--max-tokens", "1", "2 to 1048576"),
    ] {
        let shown = value.rsplit(',').next().unwrap_or(value);
        outrider(&["bench", flag, value]).failed(2, &[flag, shown, "allowed", allowed]);
    }
}

#[test]
fn a_command_line_that_makes_no_sense_ends_with_status_2() {
    let jitter = ["generate", "ROMEO:", "--emulate-rtt", "draft=2ms", "--emulate-jitter", "draft=3ms"];
    let ahead = ["generate", "ROMEO:", "--coupling", "rejection", "--anticipate", "auto"];
    let cases: [(&[&str], &[&str]); 13] = [
        (&jitter, &["draft=3ms", "draft=2ms", "allowed: up to that"]),
        (&ahead, &["--anticipate", "--coupling rejection", "allowed", "off"]),
        (&["bench", "--coupling", "rejection", "--anticipate", "4"], &["--anticipate", "--coupling rejection", "off"]),
        (&["generate", "ROMEO:", "--system", "Be brief."], &["--chat"]),
        (&["generate", "ROMEO:", "--speed", "9"], &["--speed"]),
        (&["generate", "ROMEO:", "JULIET:"], &["JULIET:"]),
        (&["generate", "ROMEO:", "--gamma"], &["--gamma"]),
        (&["generate", "ROMEO:", "--stop", ""], &["--stop"]),
        (&["generate", "ROMEO:", "--gamma", "4", "--ar"], &["--gamma", "--ar"]),
        (&["generate", "ROMEO:", "--draft", NOBODY], &["--draft", "--target", "both or neither"]),
        (&["generate", "ROMEO:", "--target", NOBODY], &["--draft", "--target", "both or neither", "--ar"]),
        (&["bench", "--draft", NOBODY], &["--draft", "--target", "both or neither"]),
        (&["serve-me"], &["serve-me"]),
    ];
    for (args, words) in cases {
        let ended = outrider(args).failed(2, words);
        assert!(!ended.stderr.contains("coordinator"), "the command's name is outrider: {ended:?}");
    }
    outrider(&["describe"]).failed(2, &["<URL>"]);
}

#[test]
fn a_prompt_that_the_model_cannot_take_ends_with_status_1() {
    outrider(&["generate", "ROM\u{c9}O:"]).failed(1, &["prompt", "'\u{c9}'", "byte 3", "allowed: ASCII"]);
    let chat = ["no chat template", "ascii"];
    outrider(&["generate", "ROMEO:", "--chat"]).failed(1, &chat);
    outrider(&["generate", "ROMEO:", "--chat", "--system", "Be brief.", "--json"]).failed(1, &chat);
    outrider(&["bench", "\u{1f916}"]).failed(1, &["prompt", "byte 0", "allowed: ASCII"]);
    outrider(&["generate", ""]).failed(1, &["prompt", "0 tokens", "allowed: 1 to 2047"]);
    outrider(&["generate", "", "--json"]).failed(1, &["prompt", "0 tokens", "allowed: 1 to 2047"]);
    fed(&["generate", "-"], b"").failed(1, &["prompt", "0 tokens", "allowed: 1 to 2047"]);
    fed(&["generate"], b"ab\xff").failed(1, &["prompt", "not UTF-8", "allowed: UTF-8"]);
    let long = "a".repeat(5000);
    outrider(&["generate", &long]).failed(1, &["prompt", "5000 tokens", "allowed: 1 to 2047"]);
    fed(&["generate", "-", "--ar"], long.as_bytes()).failed(1, &["prompt", "5000 tokens", "allowed: 1 to 2047"]);
}

#[test]
fn an_address_that_cannot_be_used_ends_with_status_1_and_is_named() {
    for (url, problem) in [
        ("nowhere", "not an http or https URL"),
        ("127.0.0.1:7101", "not an http or https URL"),
        ("https://127.0.0.1:7101", "https needs --ca"),
        ("ftp://127.0.0.1:7101", "not an http or https URL"),
        ("http://", "URI"),
        ("http://127.0.0.1", "port"),
        ("http://127.0.0.1:99999", "port"),
        ("", "URI"),
        ("http://two words:1", "URI"),
    ] {
        let words = [url, problem, "allowed: http://HOST:PORT"];
        outrider(&["generate", "ROMEO:", "--draft", url, "--target", NOBODY]).failed(1, &words).names("draft");
        outrider(&["generate", "ROMEO:", "--ar", "--target", url]).failed(1, &words).names("target");
        outrider(&["describe", url]).failed(1, &words);
    }
    // One of several is enough to be wrong.
    let several = format!("{NOBODY},nowhere");
    outrider(&["generate", "ROMEO:", "--ar", "--target", &several]).failed(1, &["nowhere", "not an http or https URL"]);
}

#[test]
fn a_service_that_does_not_answer_is_named_with_the_reason() {
    let words = [NOBODY, "does not answer", "Connection refused"];
    outrider(&["generate", "ROMEO:", "--ar", "--target", NOBODY]).failed(1, &words).names("target");
    outrider(&["generate", "ROMEO:", "--draft", NOBODY, "--target", NOBODY]).failed(1, &words).names("draft");
    outrider(&["bench", "--draft", NOBODY, "--target", NOBODY]).failed(1, &words);
    let ended = outrider(&["describe", NOBODY]).failed(1, &words);
    assert_eq!(ended.stderr.matches("Connection refused").count(), 1, "it says so once: {ended:?}");
    let variables = [("OUTRIDER_DRAFT", NOBODY), ("OUTRIDER_TARGET", NOBODY)];
    end(command(BINARY).args(["generate", "ROMEO:"]).envs(variables), b"").failed(1, &words);
}

#[test]
fn the_help_of_each_command_names_each_of_its_flags() {
    let trust = ["--ca ", "--client-cert", "--client-key"];
    let pair = [
        "--draft ",
        "--target ",
        "--threads",
        "--draft-deadline",
        "--target-deadline",
        "--allow-inexact-failover",
        "--record-content",
        "--trace-cycles",
        "--log-format",
        "--emulate-rtt",
        "--emulate-jitter",
        "--emulate-bandwidth",
    ];
    let pair = [&pair[..], &trust].concat();
    let models = ["--draft-model", "--target-model", "--draft-device", "--target-device", "--synthetic-acceptance"];
    let sampling = [
        "--temperature",
        "--top-k",
        "--top-p",
        "--min-p",
        "--presence-penalty",
        "--frequency-penalty",
        "--repetition-penalty",
        "--seed",
    ];
    let generate = [
        "--coupling",
        "--anticipate",
        "--min-confidence",
        "--gamma",
        "--ar",
        "--max-tokens",
        "--stop",
        "--chat",
        "--system",
        "--trace-file",
        "--json",
    ];
    let bench = [
        "--coupling",
        "--anticipate",
        "--min-confidence",
        "--gamma",
        "--pairs",
        "--max-tokens",
        "--workload",
        "--sidecar",
        "--json",
    ];
    let certify = ["--prompt", "--max-tokens", "--windows", "--sessions", "--json"];
    for (name, flags) in [
        ("generate", [&generate[..], &sampling, &pair, &models].concat()),
        ("bench", [&bench[..], &sampling, &pair, &models].concat()),
        ("describe", [&["--json", "--watch"][..], &trust].concat()),
        ("certify", [&certify[..], &sampling, &pair, &models].concat()),
        ("health", trust.to_vec()),
        ("study", [&["--output", "--draw-only", "--log-format", "--json"][..], &trust].concat()),
        ("simulate", vec!["--fit", "--drafts", "--targets", "--output", "--json"]),
        ("trace", vec!["--store", "--trace-id", "--output"]),
        ("explain", vec!["--store", "--trace-id", "--json"]),
    ] {
        let help = outrider(&[name, "--help"]).succeeded().stdout;
        for flag in &flags {
            assert!(help.contains(flag), "{flag} is not in:\n{help}");
        }
        // Every flag is on a line of its own, and there is none that this test does not know.
        let listed = help.lines().filter(|line| line.trim_start().starts_with("--")).count();
        assert_eq!(listed, flags.len(), "{help}");
    }
    let help = outrider(&["--help"]).succeeded().stdout;
    assert!(["generate", "bench", "describe", "certify", "health"].iter().all(|name| help.contains(name)), "{help}");
    assert!(outrider(&["--version"]).succeeded().stdout.starts_with("outrider "));
}

impl Ended {
    #[track_caller]
    fn names(&self, side: &str) {
        assert!(self.stderr.contains(side), "{side} is not named: {self:?}");
    }
}
