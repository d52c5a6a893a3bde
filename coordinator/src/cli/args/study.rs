//! A study's flags.

use std::path::PathBuf;

use clap::Args;
use telemetry::logs;

use super::TrustArgs;

#[derive(Args, Debug)]
#[command(after_help = PLAN)]
pub(in crate::cli) struct StudyArgs {
    /// The plan, a TOML file
    #[arg(value_name = "PLAN")]
    pub(in crate::cli) plan: PathBuf,

    /// The study's directory, which is made; where it holds a part of this study already, the rest is measured [default: the plan's
    /// path without .toml]
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) output: Option<PathBuf>,

    /// Measure nothing: write the page and the tables again from what is in the directory
    #[arg(long)]
    pub(in crate::cli) draw_only: bool,

    #[command(flatten)]
    pub(in crate::cli) trust: TrustArgs,

    /// What a line of the log looks like: text, or json for one object a line
    #[arg(long, env = "OUTRIDER_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub(in crate::cli) log_format: logs::Format,

    /// Print the findings as one JSON object on standard output and nothing else
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

const PLAN: &str = "A plan:
  title = \"Does distance pay?\"
  rtts = [\"0\", \"1 step\", \"5ms\"]  # of the draft; a step is one of the target's plain decoding
  repetitions = 7                # rounds of AR and each policy, in each setting
  temperatures = [0, 0.8]
  sessions = [1]                 # at once
  # max_tokens = 256, seed = 0, prompts = [\"…\"], jitter = \"200us\", target_rtt = \"1ms\"

  [[pair]]
  name = \"embedded\"
  draft = \"embedded:draft\"       # a model as --draft-model takes it, or http://HOST:PORT
  target = \"embedded:target\"
  # threads = 1 for models; colocated_draft = \"http://…\", the draft on the target's own device, for addresses

  [[policy]]
  name = \"in turn\"
  gamma = [2, 4, 8, \"auto\"]

  [[policy]]
  name = \"ahead\"
  gamma = 4
  anticipate = 16
  # min_confidence = 0.3, coupling = \"rejection\" (without anticipate)

The directory then has study.html, study.json, runs.csv, plan.toml and the journal, rounds.jsonl. Ctrl-C loses the round
that is under way and no other; the same command goes on.";
