//! The JSON of `generate` and `bench`: exactly the keys of DESIGN §4, and figures that follow from each other.

use std::collections::BTreeSet;

use coordinator::report::{median, median_interval};
use outrider_tests::processes::Outrider;
use serde_json::Value;

const REPORT: [&str; 31] = [
    "phase",
    "draft_params",
    "target_params",
    "gamma",
    "prefill_ctx",
    "warm_time_s",
    "tokens_emitted",
    "cycles",
    "avg_accepted_per_cycle",
    "acceptance_rate",
    "median_cycle_s",
    "output_tokens_per_sec",
    "text",
    "token_ids",
    "seed",
    "stop_reason",
    "trace_id",
    "conditional_acceptance",
    "acceptance_per_position",
    "time_to_first_token_s",
    "cycle",
    "roofline",
    "synthetic",
    "prompt_token_ids",
    "sampling",
    "windows",
    "models",
    "emulated",
    "gamma_policy",
    "anticipation",
    "coupling",
];

/// A cycle's parts and their sum.
const PARTS: [&str; 8] = [
    "draft_compute_s",
    "draft_queue_s",
    "draft_network_s",
    "target_compute_s",
    "target_queue_s",
    "target_network_s",
    "coordinator_s",
    "wall_s",
];

/// What the parts of the services are made of.
const WITHIN: [&str; 4] = ["draft_forward_s", "draft_select_s", "target_forward_s", "target_select_s"];

const ROOFLINE: [&str; 13] = [
    "flops_per_cycle",
    "bytes_per_cycle",
    "intensity_flops_per_byte",
    "forward_s_per_cycle",
    "achieved_flops_per_s",
    "achieved_bytes_per_s",
    "roof_flops_per_s",
    "roof_bytes_per_s",
    "roof_memory_bytes_per_s",
    "ridge_flops_per_byte",
    "utilisation",
    "bound",
    "link",
];

/// DESIGN's keys, then those of the figures: losslessness, rates, acceptance, rows, overhead over bare echoes.
const BY_GAMMA: [&str; 12] = [
    "gamma",
    "pairs",
    "speedup",
    "speedup_interval",
    "speedup_at_target",
    "theory",
    "identical",
    "output_tokens_per_sec",
    "acceptance_rate",
    "conditional_acceptance",
    "verify_over_decode",
    "overhead",
];

/// Runs `outrider` and reads the one object that it prints.
async fn json(args: &[&str]) -> Value {
    let outcome = Outrider::start(args).expect("outrider").finish().await.expect("a run that ends");
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    serde_json::from_str(&outcome.stdout).expect("one JSON object")
}

#[track_caller]
fn assert_keys<'a>(value: &Value, keys: impl IntoIterator<Item = &'a str>) {
    let found: BTreeSet<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(found, keys.into_iter().collect::<BTreeSet<_>>());
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

fn numbers(values: &Value) -> Vec<f64> {
    values.as_array().expect("a list").iter().map(number).collect()
}

#[track_caller]
fn assert_close(value: f64, expected: f64, what: &str) {
    assert!((value - expected).abs() <= 1e-9 * expected.abs().max(1e-9), "{what}: {value}, not {expected}");
}

/// One run's report, by itself.
fn assert_report(report: &Value, gamma: u64) {
    let drafted = gamma > 0;
    assert_eq!(report["phase"], if drafted { "decode-speculative" } else { "decode" });
    assert_eq!((report["gamma"].as_u64(), report["stop_reason"].as_str()), (Some(gamma), Some("length")));
    assert_eq!(report["target_params"], 11_483_136);
    assert!(report["trace_id"].is_null(), "nothing is exported");
    assert!(report["synthetic"].is_null(), "both models are trained");
    assert_eq!(report["coupling"], "gumbel");
    let ids: Vec<u32> = report["token_ids"].as_array().expect("a list").iter().map(|id| number(id) as u32).collect();
    let text: String = ids.iter().filter_map(|&id| char::from_u32(id)).collect();
    assert_eq!((report["text"].as_str(), report["tokens_emitted"].as_u64()), (Some(&*text), Some(ids.len() as u64)));
    assert!(number(&report["time_to_first_token_s"]) > 0.0 && number(&report["warm_time_s"]) > 0.0);
    assert_keys(&report["cycle"], ["mean", "median"]);
    assert_keys(&report["roofline"], ["draft", "target"]);
    for summary in ["mean", "median"] {
        assert_keys(&report["cycle"][summary], PARTS.into_iter().chain(WITHIN));
    }
    assert_cycles(report, drafted);
    assert_roofline(&report["roofline"]["target"]);
    match drafted {
        true => {
            assert_eq!(report["draft_params"], 1_071_872);
            assert_acceptance(report, gamma as f64);
            assert_roofline(&report["roofline"]["draft"]);
        }
        false => assert_no_draft(report),
    }
}

/// The parts' means add up to the wall's, and the rate is that of the walls.
fn assert_cycles(report: &Value, drafted: bool) {
    let (mean, cycles) = (&report["cycle"]["mean"], number(&report["cycles"]));
    let parts = PARTS[if drafted { 0 } else { 3 }..7].iter();
    let sum: f64 = parts.map(|part| number(&mean[*part])).sum();
    assert_close(sum, number(&mean["wall_s"]), "the parts' means");
    for side in ["draft", "target"].iter().skip(usize::from(!drafted)) {
        let of = |part: &str| number(&mean[format!("{side}_{part}_s")]);
        assert!(of("forward") > 0.0 && of("select") > 0.0 && of("forward") + of("select") < of("compute"), "{mean}");
    }
    let rate = (number(&report["tokens_emitted"]) - 1.0) / (cycles * number(&mean["wall_s"]));
    assert_close(number(&report["output_tokens_per_sec"]), rate, "tokens/s");
    assert_close(number(&report["median_cycle_s"]), number(&report["cycle"]["median"]["wall_s"]), "median wall");
}

/// Every count of accepted tokens is the same one.
fn assert_acceptance(report: &Value, gamma: f64) {
    let (cycles, emitted) = (number(&report["cycles"]), number(&report["tokens_emitted"]));
    let accepted = number(&report["avg_accepted_per_cycle"]) * cycles;
    assert_close(accepted.round(), accepted, "a whole number of accepted tokens");
    assert_close(emitted, 1.0 + accepted + cycles, "each cycle emits what it accepts and one more");
    // The cycles of the last γ tokens want fewer.
    let proposed = accepted / number(&report["acceptance_rate"]);
    assert_close(proposed.round(), proposed, "a whole number of proposed tokens");
    let bounds = gamma * (cycles - gamma).max(0.0)..=gamma * cycles;
    assert!(bounds.contains(&proposed), "{proposed} proposed in {cycles} cycles of γ {gamma}");
    let rejections = accepted / number(&report["conditional_acceptance"]) - accepted;
    assert!((rejections.round() - rejections).abs() < 1e-6 && rejections < cycles + 0.5, "{rejections} rejections");
    let survival = numbers(&report["acceptance_per_position"]);
    assert_eq!(survival.len() as f64, gamma);
    assert!(survival.iter().all(|share| (0.0..=1.0).contains(share)), "{survival:?}");
}

fn assert_no_draft(report: &Value) {
    for key in [
        "draft_params",
        "avg_accepted_per_cycle",
        "acceptance_rate",
        "conditional_acceptance",
        "acceptance_per_position",
    ] {
        assert!(report[key].is_null(), "{key} is {}", report[key]);
    }
    assert!(report["roofline"]["draft"].is_null());
    for summary in ["mean", "median"] {
        assert!(PARTS[..3].iter().all(|part| report["cycle"][summary][*part].is_null()));
    }
    assert_eq!(number(&report["tokens_emitted"]), number(&report["cycles"]) + 1.0);
}

fn assert_roofline(side: &Value) {
    assert_keys(side, ROOFLINE);
    let [flops, bytes, seconds] =
        ["flops_per_cycle", "bytes_per_cycle", "forward_s_per_cycle"].map(|key| number(&side[key]));
    assert_close(number(&side["intensity_flops_per_byte"]), flops / bytes, "intensity");
    assert_close(number(&side["achieved_flops_per_s"]), flops / seconds, "FLOP/s");
    assert_close(number(&side["achieved_bytes_per_s"]), bytes / seconds, "bytes/s");
    let (compute, bandwidth) = (number(&side["roof_flops_per_s"]), number(&side["roof_bytes_per_s"]));
    assert!(number(&side["roof_memory_bytes_per_s"]) > 0.0);
    assert_close(number(&side["ridge_flops_per_byte"]), compute / bandwidth, "ridge");
    let (intensity, ridge) = (flops / bytes, compute / bandwidth);
    let utilisation = flops / seconds / compute.min(bandwidth * intensity);
    assert_close(number(&side["utilisation"]), utilisation, "utilisation");
    let bound = match () {
        () if utilisation < 0.25 => "dispatch_bound",
        () if intensity < ridge / 2.0 => "bandwidth_bound",
        () if intensity > ridge * 2.0 => "compute_bound",
        () => "ridge",
    };
    assert_eq!(side["bound"], bound);

    let link = &side["link"];
    assert_keys(link, ["roof_rtt_s", "rtt_s", "bytes_per_cycle", "utilisation"]);
    let (roof, rtt) = (number(&link["roof_rtt_s"]), number(&link["rtt_s"]));
    assert!(roof <= rtt && number(&link["bytes_per_cycle"]) > 10.0, "{link}");
    assert_close(number(&link["utilisation"]), roof / rtt, "the link's utilisation");
}

#[tokio::test]
async fn the_report_of_a_run_has_the_designs_keys_and_its_figures_agree() {
    for gamma in [0, 1, 4] {
        let flag = gamma.to_string();
        let args = ["generate", "ROMEO:", "--json", "--max-tokens", "60", "--seed", "3", "--gamma", &flag];
        let report = json(&args).await;
        assert_keys(&report, REPORT);
        assert_report(&report, gamma);
        assert_eq!((report["seed"].as_u64(), report["prefill_ctx"].as_u64()), (Some(3), Some(6)));
        assert_eq!(report["tokens_emitted"], 60);
    }
    // The first token is no cycle's: a run of one token has none.
    let report = json(&["generate", "ROMEO:", "--json", "--max-tokens", "1"]).await;
    assert_keys(&report, REPORT);
    assert_eq!((report["cycles"].as_u64(), report["tokens_emitted"].as_u64()), (Some(0), Some(1)));
    assert!(report["median_cycle_s"].is_null() && report["output_tokens_per_sec"].is_null());
}

#[tokio::test]
async fn the_report_of_a_benchmark_has_the_designs_keys_and_its_figures_agree() {
    const GAMMAS: [u64; 2] = [4, 2];
    const PAIRS: usize = 3;
    let bench = json(&["bench", "--json", "--gamma", "4,2", "--pairs", "3", "--max-tokens", "40", "--seed", "5"]).await;
    assert_keys(&bench, ["runs", "by_gamma", "speedup", "ar", "workload", "synthetic"]);
    assert!(bench["workload"].is_null() && bench["synthetic"].is_null());
    let runs = bench["runs"].as_array().expect("runs");
    let by_gamma = bench["by_gamma"].as_array().expect("a summary for each γ");
    assert_eq!((runs.len(), by_gamma.len()), (2 * PAIRS * GAMMAS.len(), GAMMAS.len()));
    assert_eq!(bench["speedup"], by_gamma[0]["speedup"]);

    for (at, (summary, gamma)) in by_gamma.iter().zip(GAMMAS).enumerate() {
        let pairs: Vec<[&Value; 2]> =
            runs[2 * PAIRS * at..][..2 * PAIRS].chunks(2).map(|pair| [&pair[0], &pair[1]]).collect();
        for [ar, speculative] in &pairs {
            for (run, mode, gamma) in [(ar, "ar", 0), (speculative, "speculative", gamma)] {
                assert_keys(run, REPORT.into_iter().chain(["mode"]));
                assert_eq!(run["mode"], mode);
                assert_report(run, gamma);
            }
            for key in ["token_ids", "seed", "prefill_ctx"] {
                assert_eq!(ar[key], speculative[key], "{key} of a pair");
            }
        }
        let seeds: BTreeSet<u64> = pairs.iter().filter_map(|[ar, _]| ar["seed"].as_u64()).collect();
        assert_eq!(seeds, BTreeSet::from([6, 7, 8]), "a seed of its own for each pair, the dropped one's was 5");
        assert_summary(summary, &pairs, gamma);
    }
    assert_baseline(&bench["ar"], runs);
}

/// One γ's summary, recomputed from its runs.
fn assert_summary(summary: &Value, pairs: &[[&Value; 2]], gamma: u64) {
    assert_keys(summary, BY_GAMMA);
    assert_eq!(summary["gamma"], gamma);
    assert_eq!((summary["pairs"].as_u64(), summary["identical"].as_u64()), (Some(3), Some(3)));
    let rate = |run: &Value| number(&run["output_tokens_per_sec"]);
    let middle = |values: &[f64]| median(values).expect("values");
    let ratios: Vec<f64> = pairs.iter().map(|[ar, speculative]| rate(speculative) / rate(ar)).collect();
    assert_close(number(&summary["speedup"]), middle(&ratios), "speed-up");
    let interval = numbers(&summary["speedup_interval"]);
    let expected = median_interval(&ratios).expect("an interval");
    assert_eq!(interval.len(), expected.len());
    interval.iter().zip(expected).for_each(|(end, expected)| assert_close(*end, expected, "95% interval"));
    // Over AR without its network and coordinator, which nothing here can be faster than by more.
    let at_target: Vec<f64> = pairs
        .iter()
        .map(|[ar, speculative]| {
            let mean = &ar["cycle"]["mean"];
            let alone = number(&mean["target_compute_s"]) + number(&mean["target_queue_s"]);
            rate(speculative) * alone
        })
        .collect();
    assert_close(number(&summary["speedup_at_target"]), middle(&at_target), "speed-up at the target");
    let rates: Vec<f64> = pairs.iter().map(|[_, speculative]| rate(speculative)).collect();
    assert_close(number(&summary["output_tokens_per_sec"]), middle(&rates), "tokens/s");

    let sum = |of: &dyn Fn(&Value) -> f64| pairs.iter().map(|[_, run]| of(run)).sum::<f64>();
    let accepted = |run: &Value| number(&run["avg_accepted_per_cycle"]) * number(&run["cycles"]);
    let proposed = |run: &Value| accepted(run) / number(&run["acceptance_rate"]);
    assert_close(number(&summary["acceptance_rate"]), sum(&accepted) / sum(&proposed), "acceptance rate");
    assert!((0.0..=1.0).contains(&number(&summary["conditional_acceptance"])));
    assert!(number(&summary["verify_over_decode"]) > 0.0);

    let overhead = &summary["overhead"];
    assert_keys(overhead, ["cycle_s", "echo_propose_s", "echo_verify_s", "ratio"]);
    let echoes = number(&overhead["echo_propose_s"]) + number(&overhead["echo_verify_s"]);
    assert_close(number(&overhead["ratio"]), number(&overhead["cycle_s"]) / echoes, "overhead");
    assert_theory(&summary["theory"], gamma as f64);
}

/// The cost model of DESIGN §8 with the times that it says it used.
fn assert_theory(theory: &Value, gamma: f64) {
    let keys = [
        "speedup",
        "speedup_at_target",
        "expected_tokens",
        "expected_tokens_constant_a",
        "t_ar_s",
        "t_draft_s",
        "t_verify_s",
        "rtt_draft_s",
        "rtt_target_s",
        "overhead_s",
        "break_even_draft_rtt_s",
    ];
    assert_keys(theory, keys);
    let [expected, ar, draft, verify, to_draft, to_target, overhead] =
        ["expected_tokens", "t_ar_s", "t_draft_s", "t_verify_s", "rtt_draft_s", "rtt_target_s", "overhead_s"]
            .map(|key| number(&theory[key]));
    assert!((1.0..=gamma + 1.0).contains(&expected), "{expected}");
    let cycle = gamma * draft + verify + to_draft + to_target + overhead;
    assert_close(number(&theory["speedup"]), expected * (ar + to_target + overhead) / cycle, "theory");
    assert_close(number(&theory["speedup_at_target"]), expected * ar / cycle, "theory at the target");
    // Where the speed-up is 1; like the speed-up, it has both sides pay the coordinator.
    let break_even = expected * (ar + to_target + overhead) - (cycle - to_draft);
    assert_close(number(&theory["break_even_draft_rtt_s"]), break_even, "break-even");
}

fn assert_baseline(baseline: &Value, runs: &[Value]) {
    let keys = ["output_tokens_per_sec", "forward_s", "read_bytes_per_s", "roof_bytes_per_s", "bandwidth_utilisation"];
    assert_keys(baseline, keys);
    let ar = runs.iter().filter(|run| run["mode"] == "ar");
    let rates: Vec<f64> = ar.map(|run| number(&run["output_tokens_per_sec"])).collect();
    assert_close(number(&baseline["output_tokens_per_sec"]), median(&rates).expect("runs"), "AR's tokens/s");
    let read = number(&baseline["read_bytes_per_s"]);
    let utilisation = read / number(&baseline["roof_bytes_per_s"]);
    assert_close(number(&baseline["bandwidth_utilisation"]), utilisation, "bandwidth utilisation");
}
