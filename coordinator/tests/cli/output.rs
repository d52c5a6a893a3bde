//! What is printed, and what happens when nobody reads it.

use std::{
    io::{self, Read},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    BINARY, fake, fed, outrider,
    process::{command, wait},
};

/// A run that takes no time.
const SHORT: [&str; 4] = ["generate", "ROMEO:", "--max-tokens", "24"];

/// The only thing on standard output, which is to be one JSON object on one line.
fn object(stdout: &str) -> Value {
    assert_eq!(stdout.matches('\n').count(), 1, "one line: {stdout}");
    let value: Value = serde_json::from_str(stdout).expect("JSON");
    assert!(value.is_object(), "{value}");
    value
}

fn text(report: &Value) -> &str {
    report["text"].as_str().expect("text")
}

#[test]
fn json_is_one_object_on_standard_output_and_nothing_else() {
    let (draft, target) = fake::embedded();
    let at = ["--draft", draft, "--target", target];
    let generate = outrider(&[&SHORT[..], &at, &["--json"]].concat()).succeeded();
    assert_eq!(object(&generate.stdout)["tokens_emitted"], 24);
    let bench = ["bench", "ROMEO:", "--gamma", "2", "--pairs", "1", "--max-tokens", "8", "--json"];
    let bench = outrider(&[&bench[..], &at].concat()).succeeded();
    assert_eq!(object(&bench.stdout)["runs"].as_array().map(Vec::len), Some(2));
    let describe = outrider(&["describe", target, "--json"]).succeeded();
    assert_eq!(object(&describe.stdout)["model"], "embedded:target");
    for ended in [generate, bench, describe] {
        assert_eq!(ended.stderr, "");
    }
}

#[test]
fn standard_output_is_the_text_and_standard_error_the_summary() {
    let plain = outrider(&SHORT).succeeded();
    let json = outrider(&[&SHORT[..], &["--json"]].concat()).succeeded();
    assert_eq!(plain.stdout, format!("{}\n", text(&object(&json.stdout))));
    assert!(!plain.stdout.contains('\x1b') && !plain.stderr.contains('\x1b'), "no colours in a pipe: {plain:?}");
    for word in ["24 tokens at", "speculative cycle", "target network"] {
        assert!(plain.stderr.contains(word), "{word} is not in the summary:\n{}", plain.stderr);
    }
}

#[test]
fn the_prompt_comes_from_standard_input_where_there_is_none_or_a_dash() {
    let flags = ["--max-tokens", "24", "--json"];
    let given = object(&outrider(&[&["generate", "ROMEO:"], &flags[..]].concat()).succeeded().stdout);
    let dash = object(&fed(&[&["generate", "-"], &flags[..]].concat(), b"ROMEO:").succeeded().stdout);
    let none = object(&fed(&[&["generate"], &flags[..]].concat(), b"ROMEO:").succeeded().stdout);
    for read in [dash, none] {
        assert_eq!(read["token_ids"], given["token_ids"]);
        assert_eq!(read["prefill_ctx"], 6);
    }
}

#[test]
fn the_text_ends_before_the_first_stop_string() {
    let run = |flags: &[&str]| {
        let args = ["generate", "ROMEO:", "--max-tokens", "200", "--json"];
        object(&outrider(&[&args, flags].concat()).succeeded().stdout)
    };
    let whole = run(&[]);
    let whole = text(&whole);
    for stops in [vec![&whole[20..23]], vec!["never to be seen", &whole[50..54], &whole[30..32]]] {
        let flags: Vec<&str> = stops.iter().flat_map(|stop| ["--stop", stop]).collect();
        let report = run(&flags);
        let end = stops.iter().filter_map(|stop| whole.find(stop)).min().expect("it stands there");
        assert_eq!(text(&report), &whole[..end]);
        assert_eq!(report["stop_reason"], "stop");
        let emitted = report["token_ids"].as_array().expect("token ids").len();
        assert!(emitted > end && emitted < 200, "the tokens that completed it are there: {emitted}");
    }
    assert_eq!(run(&["--stop", "--no-such-flag"])["stop_reason"], "length");
}

/// Where standard output ends: `outrider … | head`, and the same with standard error in the pipe.
#[test]
fn a_reader_that_goes_away_makes_no_panic() {
    let (draft, target) = fake::embedded();
    let at = ["--draft", draft, "--target", target];
    let bench = ["bench", "ROMEO:", "--gamma", "2", "--pairs", "1", "--max-tokens", "8"];
    for args in [
        [&SHORT[..], &at].concat(),
        [&SHORT[..], &at, &["--json"]].concat(),
        [&bench[..], &at].concat(),
        [&bench[..], &at, &["--json"]].concat(),
        vec!["describe", target],
        vec!["describe", target, "--json"],
        vec!["--help"],
        vec!["generate", "--gamma", "33"],
        vec!["generate", ""],
    ] {
        for both in [false, true] {
            let (mut errors, error_pipe) = io::pipe().expect("a pipe");
            let (reader, out_pipe) = io::pipe().expect("a pipe");
            let mut error_pipe = Some(error_pipe);
            let stderr = match both {
                true => out_pipe.try_clone().expect("a pipe"),
                false => error_pipe.take().expect("taken once"),
            };
            // `errors` ends when the last writer has gone.
            drop(error_pipe);
            drop(reader);
            let mut command = command(BINARY);
            command.args(&args).stdin(Stdio::null()).stdout(out_pipe).stderr(stderr);
            let mut child = command.spawn().expect("the binary starts");
            drop(command);
            let mut said = String::new();
            errors.read_to_string(&mut said).expect("a log in UTF-8");
            let status = wait(&mut child).code();
            assert!(!said.contains("panicked"), "{args:?}: {said}");
            assert!(matches!(status, Some(0..=2)), "{args:?}: {status:?}, and 101 is a panic's");
        }
    }
}

#[test]
fn ctrl_c_ends_a_run_with_what_there_is_and_status_130() {
    let (draft, target) = fake::embedded();
    let mut command = command(BINARY);
    command.args(["generate", "ROMEO:", "--max-tokens", "2000", "--gamma", "1", "--draft", draft, "--target", target]);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a child");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut stderr = child.stderr.take().expect("a pipe");
    let mut text = vec![0];
    stdout.read_exact(&mut text).expect("the first token");
    let kill = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status();
    assert!(kill.expect("kill is there").success());
    stdout.read_to_end(&mut text).expect("the rest");
    let mut summary = String::new();
    stderr.read_to_string(&mut summary).expect("a summary in UTF-8");
    assert_eq!(wait(&mut child).code(), Some(130), "{summary}");
    assert!(text.len() < 2000 && text.ends_with(b"\n"), "{} characters", text.len());
    assert!(summary.contains("cancelled") && !summary.contains("panicked"), "{summary}");
}
