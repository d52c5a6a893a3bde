//! What is made for study: models of one's choice in one process, acceptance by lot, the workload, roofline files.

use std::{collections::BTreeSet, fs};

use serde_json::Value;
use tempfile::TempDir;

use crate::{NOBODY, fake, outrider, process::Ended};

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).expect("one JSON object")
}

fn generate(flags: &[&str]) -> Value {
    json(&outrider(&[&["generate", "ROMEO:", "--max-tokens", "40", "--json"], flags].concat()).succeeded())
}

/// No lot accepts, so every token is the target's own; every lot accepts, so only one in γ + 1 is.
#[test]
fn a_target_that_accepts_by_lot_gives_its_own_tokens_and_the_drafts() {
    let alone = generate(&["--ar"]);
    let none = generate(&["--synthetic-acceptance", "0", "--gamma", "4"]);
    assert_eq!((&none["token_ids"], none["conditional_acceptance"].as_f64()), (&alone["token_ids"], Some(0.0)));
    let pair = ["--draft-model", "embedded:target", "--target-model", "embedded:draft"];
    let all = generate(&[&pair[..], &["--synthetic-acceptance", "1", "--gamma", "4"]].concat());
    assert_eq!(all["conditional_acceptance"], 1.0);
    assert_eq!((all["draft_params"].as_u64(), all["target_params"].as_u64()), (Some(11_483_136), Some(1_071_872)));
    assert_ne!(all["token_ids"], generate(&[&pair[..], &["--ar"]].concat())["token_ids"]);
    assert_eq!(none["synthetic"], serde_json::json!({"draft": false, "target": false, "acceptance": 0.0}));
    assert!(alone["synthetic"].is_null(), "nothing is accepted without a draft");
}

#[test]
fn a_benchmark_with_acceptance_by_lot_waives_the_check_of_its_outputs_and_says_so() {
    let bench = ["bench", "ROMEO:", "--gamma", "3", "--pairs", "4", "--max-tokens", "120"];
    let lots = ["--synthetic-acceptance", "0.6", "--temperature", "1.5"];
    let report = json(&outrider(&[&bench[..], &lots, &["--json"]].concat()).succeeded());
    assert_eq!(report["synthetic"]["acceptance"], 0.6);
    let summary = &report["by_gamma"][0];
    assert!(summary["identical"].as_u64() < Some(4), "{summary}");
    // About 370 lots: four standard errors are 0.1.
    let a = summary["conditional_acceptance"].as_f64().expect("a number");
    assert!((a - 0.6).abs() < 0.1, "{a}");
    let said = outrider(&[&bench[..], &lots].concat()).succeeded().stdout;
    assert!(said.contains("synthetic acceptance 0.6") && said.contains("depends on the draft"), "{said}");
}

#[test]
fn a_benchmark_by_rejection_waives_the_check_of_its_outputs_and_says_so() {
    let bench = ["bench", "ROMEO:", "--coupling", "rejection", "--gamma", "3", "--pairs", "2", "--max-tokens", "60"];
    let report = json(&outrider(&[&bench[..], &["--json"]].concat()).succeeded());
    assert_eq!(report["by_gamma"][0]["identical"], 0);
    let couplings: Vec<_> = report["runs"].as_array().expect("runs").iter().map(|run| &run["coupling"]).collect();
    assert_eq!(couplings, ["gumbel", "rejection", "gumbel", "rejection"], "AR is AR");
    let said = outrider(&bench).succeeded().stdout;
    assert!(said.contains("coupling by rejection") && said.contains("depends on the draft"), "{said}");
}

/// The lot decides, however the draft has drawn.
#[test]
fn acceptance_by_lot_is_the_same_by_rejection() {
    for (rate, a) in [("0", 0.0), ("1", 1.0)] {
        let run = generate(&["--coupling", "rejection", "--synthetic-acceptance", rate, "--gamma", "4"]);
        assert_eq!(
            (&run["coupling"], run["conditional_acceptance"].as_f64()),
            (&serde_json::json!("rejection"), Some(a))
        );
    }
}

#[test]
fn the_target_of_ones_choice_decodes_alone() {
    let report = generate(&["--ar", "--target-model", "embedded:draft"]);
    assert_eq!((report["target_params"].as_u64(), report["phase"].as_str()), (Some(1_071_872), Some("decode")));
    let missing = ["generate", "ROMEO:", "--ar", "--target-model", "/nowhere/m.safetensors"];
    outrider(&missing).failed(1, &["target in this process", "/nowhere/m.json"]);
}

#[test]
fn models_and_addresses_do_not_go_together() {
    let model = ["--draft-model", "embedded:draft", "--target-model", "embedded:target"];
    for (args, words) in [
        (&["generate", "a", "--draft-model", "embedded:draft"][..], ["--draft-model", "--target-model", "both"]),
        (&["generate", "a", "--target-model", "embedded:draft"], ["--target-model", "--draft-model", "--ar"]),
        (&["bench", "--target-model", "embedded:draft"], ["--target-model", "--draft-model", "both"]),
        (&["bench", "--target-model", "synthetic:shrunk"], ["--target-model", "synthetic:shrunk", "grown-gpt2"]),
        (&["generate", "a", "--synthetic-acceptance", "1.01"], ["--synthetic-acceptance", "1.01", "0 to 1"]),
        (&["bench", "--workload", "gpt-5"], ["--workload", "gpt-5", "nanogpt-decode-spec"]),
    ] {
        outrider(args).failed(2, &words);
    }
    let addresses = ["--draft", NOBODY, "--target", NOBODY];
    for flags in [&model[..], &["--synthetic-acceptance", "0.5"]] {
        outrider(&[&["generate", "a"], &addresses[..], flags].concat()).failed(2, &["cannot be used with"]);
    }
    for flags in [&model[..], &addresses] {
        let workload = ["bench", "--workload", "nanogpt-decode-spec"];
        outrider(&[&workload[..], flags].concat()).failed(2, &["--workload", "cannot be used with"]);
    }
}

/// The seed's: 11 M drafts for 88 M, γ 4, 64 tokens, greedy; and flags win.
#[test]
fn the_workload_brings_its_pair_and_its_defaults_and_is_marked_synthetic() {
    let directory = TempDir::new().expect("a temporary directory");
    let sidecar = directory.path().join("new").to_str().expect("a UTF-8 path").to_owned();
    let bench = ["bench", "--workload", "nanogpt-decode-spec", "--pairs", "1", "--json", "--sidecar", &sidecar];
    let report = json(&outrider(&bench).succeeded());
    assert_eq!(report["workload"], "nanogpt-decode-spec");
    assert_eq!(report["synthetic"], serde_json::json!({"draft": false, "target": true, "acceptance": null}));
    let runs = report["runs"].as_array().expect("runs");
    assert_eq!(runs.len(), 2);
    for run in runs {
        assert_eq!((run["target_params"].as_u64(), run["tokens_emitted"].as_u64()), (Some(88_300_032), Some(64)));
        assert_eq!((run["prefill_ctx"].as_u64(), &run["synthetic"]["target"]), (Some(256), &Value::Bool(true)));
    }
    assert_eq!((runs[1]["draft_params"].as_u64(), runs[1]["gamma"].as_u64()), (Some(11_483_136), Some(4)));
    assert_eq!(report["by_gamma"][0]["identical"], 1);
    for phase in ["decode", "decode-speculative"] {
        let file = fs::read(format!("{sidecar}/nanogpt-decode-spec_{phase}.json")).expect("it is written");
        let sidecar: Value = serde_json::from_slice(&file).expect("JSON");
        assert_eq!(
            (&sidecar["workload"], &sidecar["extra"]["synthetic"]["target"]),
            (&report["workload"], &Value::Bool(true))
        );
    }

    let flags = ["--gamma", "2", "--max-tokens", "9", "--temperature", "0.5", "--pairs", "1", "--json", "ROMEO:"];
    let report = json(&outrider(&[&bench[..3], &flags].concat()).succeeded());
    let run = &report["runs"][1];
    assert_eq!((run["gamma"].as_u64(), run["tokens_emitted"].as_u64()), (Some(2), Some(9)));
    assert_eq!(run["prefill_ctx"], 6);
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn the_sidecar_has_the_keys_of_the_seeds_schema_and_what_the_report_measured() {
    let (draft, target) = fake::embedded();
    let directory = TempDir::new().expect("a temporary directory");
    let sidecar = directory.path().to_str().expect("a UTF-8 path");
    let bench = ["bench", "ROMEO:", "--gamma", "2,3", "--pairs", "2", "--max-tokens", "20", "--json"];
    let at = ["--draft", draft, "--target", target, "--sidecar", sidecar];
    let report = json(&outrider(&[&bench[..], &at].concat()).succeeded());
    let names: BTreeSet<String> = fs::read_dir(sidecar)
        .expect("a directory")
        .map(|e| e.expect("a file").file_name().into_string().expect("UTF-8"))
        .collect();
    let phases = ["decode", "decode-speculative"].map(|phase| (phase, format!("outrider-bench_{phase}.json")));
    assert_eq!(names, phases.iter().map(|(_, name)| name.clone()).collect(), "and no partial file");
    for (phase, name) in phases {
        let file: Value =
            serde_json::from_slice(&fs::read(directory.path().join(name)).expect("a file")).expect("JSON");
        assert_eq!(
            keys(&file),
            ["schema", "workload", "utc", "platform", "measurement", "regime_inference", "extra"].into()
        );
        assert_eq!((&file["schema"], &file["workload"]), (&"mlperf-edu-roofline/1.0".into(), &"outrider-bench".into()));
        let platform =
            ["hardware_fingerprint_short", "machine_class", "peak_FLOPS", "peak_BW_GBps", "ridge_FLOPS_per_byte"];
        assert_eq!(keys(&file["platform"]), platform.into());
        assert_eq!(keys(&file["regime_inference"]), ["axis_arithmetic_intensity", "axis_dispatch", "rule"].into());
        let measurement = &file["measurement"];
        assert_eq!(
            keys(measurement),
            [
                "wall_time_s",
                "n_iter",
                "analytic_flops_total",
                "analytic_bytes_total",
                "achieved_FLOPS",
                "achieved_BW_GBps",
                "intensity_FLOPS_per_byte",
                "dispatch_utilization"
            ]
            .into()
        );
        let gamma = if phase == "decode" { 0 } else { 2 };
        let runs: Vec<&Value> =
            report["runs"].as_array().expect("runs").iter().filter(|run| run["gamma"] == gamma).collect();
        let sum = |of: &dyn Fn(&Value) -> f64| runs.iter().map(|run| of(run)).sum::<f64>();
        let number = |value: &Value| value.as_f64().expect("a number");
        assert_eq!(number(&measurement["n_iter"]), sum(&|run| number(&run["cycles"])));
        let wall = sum(&|run| number(&run["cycles"]) * number(&run["cycle"]["mean"]["wall_s"]));
        assert!((number(&measurement["wall_time_s"]) / wall - 1.0).abs() < 1e-9, "{measurement} and {wall}");
        let flops = sum(&|run| number(&run["cycles"]) * number(&run["roofline"]["target"]["flops_per_cycle"]));
        let both = number(&measurement["analytic_flops_total"]);
        assert!(if gamma == 0 { (both / flops - 1.0).abs() < 1e-9 } else { both > flops }, "{both} and {flops}");

        let rooflines = &file["extra"]["roofline"];
        assert_eq!(rooflines["draft"].is_null(), gamma == 0, "{rooflines}");
        let target = &rooflines["target"];
        let of_target = number(&target["flops_per_cycle"]) * number(&measurement["n_iter"]);
        assert!((of_target / flops - 1.0).abs() < 1e-9, "{of_target} and {flops}");
        assert_eq!(target["roof_flops_per_s"], file["platform"]["peak_FLOPS"]);
        assert!(number(&target["link"]["rtt_s"]) >= number(&target["link"]["roof_rtt_s"]), "{target}");
    }
}

/// The pair is not even asked for.
#[test]
fn a_directory_that_cannot_be_written_is_an_error_before_anything_runs() {
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("file");
    fs::write(&file, "").expect("a temporary directory can be written");
    for path in [file.clone(), file.join("below")] {
        let path = path.to_str().expect("a UTF-8 path");
        let ended = outrider(&["bench", "--draft", NOBODY, "--target", NOBODY, "--sidecar", path]);
        ended.failed(1, &["sidecar", path, "cannot be written"]);
    }
}
