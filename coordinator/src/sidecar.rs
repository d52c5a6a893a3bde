//! Roofline files of a benchmark, in MLPerf EDU's schema `mlperf-edu-roofline/1.0`, from measured values alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use speculative::{
    policy::Gamma,
    roofline::{Placement, Roofs},
};

use crate::{
    Error, Pair, Service,
    bench::{Outcome, Total},
    report::Machine,
};

#[cfg(test)]
mod tests;

const SCHEMA: &str = "mlperf-edu-roofline/1.0";

/// The workload's name where the plan is of one's own.
const UNNAMED: &str = "outrider-bench";

/// The seed's rule: intensity against the ridge, and utilisation, each with a band where nothing is claimed.
const BANDWIDTH_BOUND_BELOW: f64 = 0.5;
const COMPUTE_BOUND_ABOVE: f64 = 2.0;
const DISPATCH_BOUND_BELOW: f64 = 0.25;
const SATURATED_FROM: f64 = 0.5;

/// A directory that takes the files.
#[derive(Debug)]
pub struct Sidecars {
    directory: PathBuf,
}

#[derive(Serialize)]
struct Sidecar<'a> {
    schema: &'static str,
    workload: &'a str,
    utc: &'a str,
    platform: &'a Platform,
    measurement: Measurement,
    regime_inference: Regime,
    extra: Value,
}

#[derive(Serialize)]
#[expect(non_snake_case, reason = "the schema's keys")]
struct Platform {
    hardware_fingerprint_short: String,
    machine_class: String,
    peak_FLOPS: Option<f64>,
    peak_BW_GBps: Option<f64>,
    ridge_FLOPS_per_byte: Option<f64>,
}

#[derive(Serialize)]
#[expect(non_snake_case, reason = "the schema's keys")]
struct Measurement {
    wall_time_s: f64,
    n_iter: u64,
    analytic_flops_total: u64,
    analytic_bytes_total: u64,
    achieved_FLOPS: f64,
    achieved_BW_GBps: f64,
    intensity_FLOPS_per_byte: f64,
    dispatch_utilization: Option<f64>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Regime {
    axis_arithmetic_intensity: &'static str,
    axis_dispatch: &'static str,
    rule: String,
}

impl Sidecars {
    /// Makes sure that files can be written into `directory`, which is created where it is not there.
    ///
    /// # Errors
    /// They cannot.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let failed = |error| Error::Sidecar { path: directory.to_owned(), error };
        fs::create_dir_all(directory).map_err(failed)?;
        let probe = directory.join(format!(".{UNNAMED}.{}", std::process::id()));
        fs::write(&probe, "").and_then(|()| fs::remove_file(&probe)).map_err(failed)?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// Writes `WORKLOAD_decode.json` for the AR runs and `WORKLOAD_decode-speculative.json` for those of the first γ;
    /// nothing for a phase of which no cycle was measured. `here`: the pair computed on this machine.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, outcome: &Outcome, pair: &Pair, here: bool) -> Result<(), Error> {
        let workload = outcome.workload.unwrap_or(UNNAMED);
        // As the seed writes it, fit for a file's name.
        let utc = humantime::format_rfc3339_seconds(SystemTime::now()).to_string().replace(':', "-");
        let platform = Platform::of(&pair.target, outcome.roofs.as_ref(), here);
        let totals = &outcome.totals;
        for (phase, total) in [("decode", totals.ar), ("decode-speculative", totals.speculative)] {
            if total.cycles == 0 {
                continue;
            }
            let (measurement, regime_inference) = place(total, outcome.roofs.as_ref());
            let extra = extra(phase, outcome, &total, pair);
            let sidecar = Sidecar {
                schema: SCHEMA,
                workload,
                utc: &utc,
                platform: &platform,
                measurement,
                regime_inference,
                extra,
            };
            self.put(&format!("{workload}_{phase}.json"), &sidecar)?;
        }
        Ok(())
    }

    /// The whole file or none of it.
    fn put(&self, name: &str, sidecar: &Sidecar<'_>) -> Result<(), Error> {
        let path = self.directory.join(name);
        let partial = self.directory.join(format!(".{name}.{}", std::process::id()));
        let text = serde_json::to_vec_pretty(sidecar).map_err(io::Error::from);
        let written = text.and_then(|text| fs::write(&partial, text)).and_then(|()| fs::rename(&partial, &path));
        written.map_err(|error| Error::Sidecar { path, error })
    }
}

impl Platform {
    fn of(target: &Service, roofs: Option<&Roofs>, here: bool) -> Self {
        let device = &target.description.device;
        let machine = match here {
            true => {
                let Machine { processor, logical_processors, architecture, .. } = Machine::this();
                format!("{processor}, {logical_processors} cores, {architecture}")
            }
            false => "another machine".to_owned(),
        };
        let digest = Sha256::digest(format!("{machine}\n{device}"));
        Self {
            hardware_fingerprint_short: digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect(),
            machine_class: format!("{machine}: {device}"),
            peak_FLOPS: roofs.map(|roofs| roofs.flops_per_s),
            peak_BW_GBps: roofs.map(|roofs| roofs.bytes_per_s / 1e9),
            ridge_FLOPS_per_byte: roofs.map(Roofs::ridge),
        }
    }
}

fn place(total: Total, roofs: Option<&Roofs>) -> (Measurement, Regime) {
    let seconds = total.wall.as_secs_f64();
    let per_second = |amount: u64| if seconds > 0.0 { amount as f64 / seconds } else { 0.0 };
    let utilisation = roofs.map(|roofs| Placement::of(total.work, seconds, roofs).utilisation);
    let intensity = total.work.intensity();
    let measurement = Measurement {
        wall_time_s: seconds,
        n_iter: total.cycles,
        analytic_flops_total: total.work.flops,
        analytic_bytes_total: total.work.bytes,
        achieved_FLOPS: per_second(total.work.flops),
        achieved_BW_GBps: per_second(total.work.bytes) / 1e9,
        intensity_FLOPS_per_byte: intensity,
        dispatch_utilization: utilisation,
    };
    (measurement, Regime::infer(intensity, utilisation.zip(roofs.map(Roofs::ridge))))
}

impl Regime {
    /// `known`: utilisation and ridge.
    fn infer(intensity: f64, known: Option<(f64, f64)>) -> Self {
        let Some((utilisation, ridge)) = known else {
            let rule = "the roofs were not measured".to_owned();
            return Self { axis_arithmetic_intensity: "unmeasured", axis_dispatch: "unmeasured", rule };
        };
        let (low, high) = (BANDWIDTH_BOUND_BELOW * ridge, COMPUTE_BOUND_ABOVE * ridge);
        let axis_arithmetic_intensity = match intensity {
            _ if intensity > high => "compute_bound",
            _ if intensity < low => "bandwidth_bound",
            _ => "unmeasured",
        };
        let axis_dispatch = match utilisation {
            _ if utilisation >= SATURATED_FROM => "device_saturated",
            _ if utilisation < DISPATCH_BOUND_BELOW => "dispatch_bound",
            _ => "unmeasured",
        };
        let rule = format!(
            "intensity {intensity:.2}: bandwidth_bound below {low:.2}, compute_bound above {high:.2}; utilization \
             {utilisation:.3}: dispatch_bound below {DISPATCH_BOUND_BELOW}, device_saturated from {SATURATED_FROM}"
        );
        Self { axis_arithmetic_intensity, axis_dispatch, rule }
    }
}

fn extra(phase: &str, outcome: &Outcome, total: &Total, pair: &Pair) -> Value {
    let first = outcome.by_gamma.first();
    let speculative = phase == "decode-speculative";
    let gamma = first.filter(|_| speculative).map_or(json!(0), |by| match by.gamma {
        Gamma::Fixed(gamma) => json!(gamma),
        Gamma::Auto => json!("auto"),
    });
    let tokens_per_s = match speculative {
        true => first.and_then(|by| by.output_tokens_per_sec),
        false => outcome.ar.output_tokens_per_sec,
    };
    let target = &pair.target.description;
    let draft = pair.draft.as_ref().filter(|_| speculative).map(|draft| &draft.description);
    json!({
        "phase": phase,
        "batch": 1,
        "gamma": gamma,
        "runs": first.map_or(0, |by| by.pairs),
        "output_tokens_per_sec": tokens_per_s,
        "speedup": first.filter(|_| speculative).and_then(|by| by.speedup),
        "acceptance_rate": first.filter(|_| speculative).and_then(|by| by.acceptance_rate),
        "conditional_acceptance": first.filter(|_| speculative).and_then(|by| by.conditional_acceptance),
        "target": target.model,
        "target_params": target.parameters,
        "target_dtype": target.dtype,
        "draft": draft.map(|draft| &draft.model),
        "draft_params": draft.map(|draft| draft.parameters),
        "synthetic": outcome.synthetic,
        "roofline": total.rooflines,
        "iteration": "one cycle, from proposal to commit",
        "peaks": "measured between the runs by the target: matmul in its dtype, reading at the working set of its weights",
        "version": env!("CARGO_PKG_VERSION"),
    })
}
