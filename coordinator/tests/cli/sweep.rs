//! `outrider study`: what a plan gives, and that breaking it off loses nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    BINARY, NOBODY, outrider,
    process::{command, wait},
};

const PLAN: &str = r#"
title = "Near & far <b>"
rtts = ["0", "0.5 steps", "3ms"]
repetitions = 2
max_tokens = 24
temperatures = [0, 0.9]
sessions = [1, 2]
prompts = ["ROMEO:"]

[[pair]]
name = "small"
draft = "embedded:draft"
target = "embedded:draft"
threads = 1

[[policy]]
name = "in turn"
gamma = [2, "auto"]

[[policy]]
name = "ahead"
gamma = 3
anticipate = 4

[[policy]]
name = "by rejection"
gamma = 2
coupling = "rejection"
"#;

/// Settings of the plan: three distances and co-located, two temperatures, two numbers of sessions.
const SETTINGS: usize = 4 * 2 * 2;

/// AR and each policy at each γ; nothing is drafted ahead on one device.
const CELLS: usize = SETTINGS / 4 * (4 + 3 * 5);

fn written(plan: &str) -> (TempDir, PathBuf) {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("plan.toml");
    fs::write(&path, plan).expect("a plan");
    (directory, path)
}

fn study(plan: &Path, more: &[&str]) -> crate::Ended {
    outrider(&[&["study", plan.to_str().expect("UTF-8")], more].concat())
}

fn journal(plan: &Path) -> Vec<String> {
    let text = fs::read_to_string(plan.with_extension("").join("rounds.jsonl")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_plan_becomes_a_page_tables_and_the_plan_again() {
    let (_directory, plan) = written(PLAN);
    let ended = study(&plan, &["--json"]).succeeded();
    let findings: Value = serde_json::from_str(&ended.stdout).expect("one JSON object");
    assert_eq!(findings["rounds"], serde_json::json!([2 * SETTINGS, 2 * SETTINGS]));
    let cells = findings["cells"].as_array().expect("cells");
    // Co-located AR and three, distributed AR and four.
    assert_eq!(cells.len(), CELLS);
    for cell in cells {
        let is_held = cell["coupling"] == "gumbel" || cell["temperature"] == 0.0;
        assert_eq!(cell["rounds"], 2, "{cell}");
        assert!(!is_held || cell["identical"] == 2, "{cell}");
        let is_ar = cell["policy"] == "AR";
        assert_eq!(is_ar, cell["speedup"] == 1.0, "{cell}");
        // Where a cycle chooses γ itself it may be 0.
        if cell["gamma"] != "auto" {
            assert_eq!(cell["conditional_acceptance"], if is_ar { Value::Null } else { 1.0.into() }, "{cell}");
            let tokens = cell["tokens_per_cycle"].as_f64().expect("a number");
            assert!(if is_ar { tokens == 1.0 } else { tokens > 2.5 }, "{cell}");
        }
    }
    let at = |rtt: &str, policy: &str| {
        let here = |cell: &&Value| cell["rtt"] == rtt && cell["policy"] == policy && cell["placement"] == "distributed";
        cells.iter().find(here).expect("a cell")
    };
    let network = |rtt: &str| at(rtt, "in turn")["cycle"]["draft_network_s"].as_f64().expect("a number");
    assert!(network("3ms") >= 3e-3 && network("0") < 3e-3, "{} {}", network("3ms"), network("0"));
    let ahead = &at("3ms", "ahead")["anticipation"];
    assert!(ahead["hits"].as_u64() > Some(0) || ahead["late_hits"].as_u64() > Some(0), "{ahead}");
    let step_s = findings["pairs"][0]["step_s"].as_f64().expect("a number");
    let half = at("0.5 steps", "AR")["rtt_s"].as_f64().expect("a number");
    assert!((half - step_s / 2.0).abs() < 1e-9, "{half} {step_s}");
    let rests = findings["pairs"][0]["rests"].as_array().expect("rests");
    let lengths: Vec<f64> = rests.iter().filter_map(|rest| rest["rest_s"].as_f64()).collect();
    // None, 3 ms, and half a step, which may be more or less.
    let is_three = |length: &f64| (3e-3..5e-3).contains(length);
    assert!(
        lengths.len() == 3 && lengths.is_sorted() && lengths[0] < 2e-3 && lengths.iter().any(is_three),
        "{lengths:?}"
    );
    let legs = |rest: &Value| ["draft_s", "target_s"].iter().all(|leg| rest[leg].as_f64() > Some(0.0));
    assert!(rests.iter().all(legs), "{rests:?}");
    assert_eq!(findings["theory"].as_array().map(Vec::len), Some(2 * 3));
    assert_eq!(findings["winners"].as_array().map(Vec::len), Some(SETTINGS / 4 * 3));

    let directory = plan.with_extension("");
    let page = fs::read_to_string(directory.join("study.html")).expect("a page");
    assert!(page.contains("<h1>Near &amp; far &lt;b&gt;</h1>"), "the title is text");
    for words in
        ["Speed-up over distance", "γ over distance", "Capacity", "Where a token", "Acceptance over temperature"]
    {
        assert!(page.contains(words), "{words}");
    }
    // Of each temperature speed-up, γ, capacity, budget and roofline, and acceptance over both.
    assert_eq!(page.matches("<svg").count(), 2 * 5 + 1);
    // It asks nobody for anything.
    assert!(!page.replace("http://www.w3.org/2000/svg", "").contains("://"), "an address");
    assert!(!page.contains("<script>") && !page.contains("src="), "something to load");

    let table = fs::read_to_string(directory.join("runs.csv")).expect("a table");
    assert_eq!(table.lines().count(), 1 + 2 * CELLS);
    let fields = |line: &str| line.split(',').count();
    assert!(table.lines().all(|line| fields(line) == fields(table.lines().next().unwrap_or_default())), "{table}");
    let columns: Vec<&str> = table.lines().next().unwrap_or_default().split(',').collect();
    for line in table.lines().skip(1) {
        let number = |name: &str| -> f64 {
            let at = columns.iter().position(|column| *column == name).expect(name);
            line.split(',').nth(at).and_then(|field| field.parse().ok()).expect(name)
        };
        // One session's cycles follow each other with little between; of two, what they do at the same time counts, which on a
        // busy machine is little.
        let share = number("tokens_per_s") * number("seconds") / number("tokens");
        let allowed = if number("sessions") == 1.0 { 0.5..1.001 } else { 0.25..4.0 };
        assert!(allowed.contains(&share), "{share}: {line}");
    }
    assert_eq!(fs::read_to_string(directory.join("plan.toml")).expect("the plan"), PLAN);
}

#[test]
fn a_study_that_is_broken_off_goes_on_where_it_was() {
    let (_directory, plan) = written(PLAN);
    let mut child = command(BINARY)
        .args(["study", plan.to_str().expect("UTF-8")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    // The study, the pair, and the first rounds.
    while journal(&plan).len() < 5 {
        thread::sleep(Duration::from_millis(20));
        assert!(child.try_wait().expect("a child").is_none(), "it ended");
    }
    Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().expect("kill runs");
    assert_eq!(wait(&mut child).code(), Some(130));
    let first = journal(&plan);
    assert!(first.len() < 2 + 2 * SETTINGS, "it was not broken off");
    assert!(plan.with_extension("").join("study.html").exists(), "there is a page of what was measured");

    // A machine that fails leaves half a line.
    let torn = [first.join("\n"), "\n{\"kind\":\"rou".to_owned()].concat();
    fs::write(plan.with_extension("").join("rounds.jsonl"), torn).expect("a journal");
    study(&plan, &[]).succeeded();
    let whole = journal(&plan);
    assert_eq!(whole[..first.len()], first[..], "what was measured stays");
    assert_eq!(whole.len(), 2 + 2 * SETTINGS);

    // There is nothing left to measure, and another plan is another study.
    study(&plan, &["--draw-only"]).succeeded();
    assert_eq!(journal(&plan), whole);
    fs::write(&plan, PLAN.replace("max_tokens = 24", "max_tokens = 25")).expect("a plan");
    study(&plan, &[]).failed(1, &["rounds.jsonl holds a study of another plan", "allowed:"]);
}

#[test]
fn a_plan_that_cannot_be_run_is_refused_before_anything_is() {
    for (from, to, words) in [
        ("embedded:draft", "synthetic:nothing", ["draft of pair \"small\"", "synthetic:nothing"]),
        ("gamma = 3", "gamma = 99", ["gamma is 99", "1 to 32"]),
        ("title", "titel", ["titel", "unknown field"]),
        ("anticipate = 4", "anticipate = -1", ["anticipate", "-1"]),
        ("\"3ms\"", "\"3\"", ["\"3\"", "0.5 steps"]),
    ] {
        let (_directory, plan) = written(&PLAN.replacen(from, to, 1));
        let ended = study(&plan, &[]);
        assert_eq!((ended.status, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
        assert!(words.iter().all(|word| ended.stderr.contains(word)), "{to}: {ended:?}");
        assert!(journal(&plan).len() <= 1, "something was measured");
    }
    let remote = PLAN.replace("embedded:draft", NOBODY).replace("threads = 1", "");
    let (_directory, plan) = written(&remote);
    study(&plan, &[]).failed(1, &[NOBODY, "does not answer"]);
    outrider(&["study", "/nowhere/plan.toml"]).failed(1, &["/nowhere/plan.toml", "cannot be read"]);
}

#[test]
fn a_simulation_predicts_what_a_study_measured_and_can_be_repeated() {
    let (_directory, plan) = written(PLAN);
    study(&plan, &[]).succeeded();
    let measured = plan.with_extension("");
    let plan_path = plan.to_str().expect("UTF-8");
    let simulate = |fit: &Path, more: &[&str]| {
        let flags = ["simulate", plan_path, "--json", "--fit", fit.to_str().expect("UTF-8")];
        outrider(&[&flags[..], more].concat())
    };
    let parsed = |ended: crate::Ended| serde_json::from_str::<Value>(&ended.stdout).expect("one JSON object");
    let first = parsed(simulate(&measured, &[]).succeeded());
    assert_eq!(first["findings"]["simulated"], true);
    assert_eq!(first["findings"]["cells"].as_array().map(Vec::len), Some(CELLS));
    assert_eq!(first["findings"]["pairs"].as_array().map(Vec::len), Some(1), "one pair, fitted at two temperatures");
    assert_eq!(first["findings"]["theory"].as_array().map(Vec::len), Some(2 * 3));
    // What it was fitted to is not predicted: AR and γ 2 near with one session and with two, and with one what goes ahead near and γ 2
    // co-located, at both temperatures.
    let seen: Value = serde_json::from_slice(&fs::read(measured.join("study.json")).expect("findings")).expect("JSON");
    for cell in seen["cells"].as_array().expect("cells") {
        if cell["sessions"] == 1 {
            assert_eq!(cell["target"]["others_rows"], 0, "alone: {cell}");
        }
        let ahead = &cell["anticipation"];
        let (rows, drafting_s) = (ahead["rows"].as_u64(), ahead["drafting_s"].as_f64());
        assert_eq!(rows > Some(0), drafting_s > Some(0.0), "what rows of branches took: {ahead}");
    }
    let predicted = first["prediction"]["cells"].as_array().expect("cells");
    assert_eq!(predicted.len(), CELLS - 2 * 6);
    assert!(predicted.iter().all(|cell| cell["ratio"].as_f64() > Some(0.0)), "{predicted:?}");
    let breaks = first["breaks"].as_array().expect("breaks");
    assert_eq!(breaks.len(), 2 * 2, "each temperature and number of sessions");
    assert!(breaks.iter().all(|at| at["rtt"] == "3ms" && at["tokens_per_s"][2].as_f64() > Some(0.0)), "{breaks:?}");

    let output = plan.with_file_name("plan-simulated");
    let page = fs::read_to_string(output.join("study.html")).expect("a page");
    assert!(page.contains("Simulated on a virtual clock"), "it does not say so");
    let again = parsed(simulate(&output.join("fit.json"), &[]).succeeded());
    // A number read from JSON may be off in its last bit.
    let rates = |all: &Value| -> Vec<f64> {
        let cells = all["findings"]["cells"].as_array().expect("cells");
        cells.iter().map(|cell| cell["tokens_per_s"].as_f64().expect("a rate")).collect()
    };
    for (one, other) in rates(&first).into_iter().zip(rates(&again)) {
        assert!((one / other - 1.0).abs() < 1e-9, "{one} {other}");
    }
    // Where a row more takes its time, twice the targets carry more of two sessions.
    let mut fit: Value =
        serde_json::from_slice(&fs::read(output.join("fit.json")).expect("a fit")).expect("one JSON object");
    for pair in fit["pairs"].as_array_mut().expect("pairs") {
        pair["times"]["target_pass"] = serde_json::json!([[1, 1e-3], [3, 2e-3]]);
    }
    let changed = output.join("changed.json");
    fs::write(&changed, fit.to_string()).expect("a fit");
    let first = parsed(simulate(&changed, &[]).succeeded());
    let more = parsed(simulate(&changed, &["--targets", "2", "--drafts", "2"]).succeeded());
    let rate = |all: &Value| {
        let cells = all["findings"]["cells"].as_array().expect("cells");
        let two = |cell: &&Value| cell["sessions"] == 2 && cell["policy"] == "AR" && cell["rtt"] == "0";
        cells.iter().find(two).and_then(|cell| cell["tokens_per_s"].as_f64()).expect("a rate")
    };
    assert!(rate(&more) > rate(&first), "{} {}", rate(&more), rate(&first));

    fs::write(&plan, PLAN.replace("max_tokens = 24", "max_tokens = 8")).expect("a plan");
    let other = parsed(simulate(&measured, &[]).succeeded());
    assert_eq!(other["prediction"], Value::Null, "nothing of the kind was measured");
    fs::write(&plan, PLAN.replace("[0, 0.9]", "[0.5]")).expect("a plan");
    simulate(&measured, &[]).failed(1, &["pair \"small\" at temperature 0.5 was not measured", "\"small\" at 0"]);
    simulate(Path::new("/nowhere"), &[]).failed(1, &["/nowhere", "No such file"]);
}
