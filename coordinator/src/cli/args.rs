//! The flags, with their ranges.

use std::{num::NonZeroUsize, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, builder::ArgPredicate};
use speculative::{Coupling, Penalties, Sampling, policy::Gamma};
use telemetry::{
    logs,
    tls::{ClientFiles, ClientTls},
    watched::UnusableFiles,
};

use crate::{Access, Deadlines, TraceCycles};

mod emulation;
#[cfg(feature = "embedded")]
mod models;
mod serve;
mod simulate;
mod study;
mod trace;

use emulation::EmulationArgs;
#[cfg(feature = "embedded")]
pub(super) use models::{ModelArgs, Workload};
pub(super) use serve::ServeArgs;
pub(super) use simulate::SimulateArgs;
pub(super) use study::StudyArgs;
pub(super) use trace::{ExplainArgs, SourceArgs, TraceArgs};

/// Most tokens that a run may ask for.
const MOST_TOKENS: u64 = 1 << 20;

/// Most threads that may be asked for.
const MOST_THREADS: u64 = 1024;

#[derive(Args, Debug)]
pub(super) struct GenerateArgs {
    /// What to continue; - reads it from standard input
    #[arg(value_name = "PROMPT", default_value = "-")]
    pub(super) prompt: String,

    /// Tokens that the draft proposes in a cycle, 0 to 32; 0 decodes with the target alone, auto has each cycle choose what
    /// promises most
    #[arg(long, value_name = "N|auto", default_value = "auto", allow_negative_numbers = true)]
    pub(super) gamma: Gamma,

    /// Decode with the target alone, the same as --gamma 0
    #[arg(long, conflicts_with = "gamma")]
    pub(super) ar: bool,

    #[command(flatten)]
    pub(super) coupling: CouplingArgs,

    /// Tokens to generate
    #[arg(long, value_name = "N", default_value = "256", allow_negative_numbers = true, value_parser = whole::<u32>(1..=MOST_TOKENS))]
    pub(super) max_tokens: u32,

    /// End the text before this string; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(super) stop: Vec<String>,

    /// Have the model answer the prompt, put into its own chat template as the user's message
    #[arg(long)]
    pub(super) chat: bool,

    /// What the model is told before the prompt, with --chat
    #[arg(long, value_name = "TEXT", requires = "chat", allow_hyphen_values = true)]
    pub(super) system: Option<String>,

    #[command(flatten)]
    pub(super) sampling: SamplingArgs,

    #[command(flatten)]
    pub(super) services: ServiceArgs,

    /// Write the run's spans into this file, in OTLP's JSON, for `outrider trace` and `outrider explain`; of services
    /// elsewhere it has what they tell the coordinator
    #[arg(long, value_name = "FILE")]
    pub(super) trace_file: Option<PathBuf>,

    /// Print one JSON object on standard output, the text included, and nothing else
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
pub(super) struct BenchArgs {
    /// What to continue, instead of the prompts that are built in
    #[arg(value_name = "PROMPT")]
    pub(super) prompt: Option<String>,

    /// A known benchmark, with a pair in this process and its own prompts, γ, tokens and temperature, unless flags say
    /// otherwise
    #[cfg(feature = "embedded")]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["draft", "target", "draft_model", "target_model"])]
    pub(super) workload: Option<Workload>,

    /// The γ to measure, each 1 to 32 or auto; the first one's speed-up is the benchmark's
    #[arg(long, value_name = "N,N,…", default_value = "4,2,8", default_value_if("workload", ArgPredicate::IsPresent, "4"), value_delimiter = ',', allow_negative_numbers = true, value_parser = some_gamma)]
    pub(super) gamma: Vec<Gamma>,

    #[command(flatten)]
    pub(super) coupling: CouplingArgs,

    /// Counted pairs of an AR and a speculative run for each γ, after one that is dropped
    #[arg(long, value_name = "N", default_value = "15", allow_negative_numbers = true, value_parser = whole::<u32>(1..=10_000))]
    pub(super) pairs: u32,

    /// Tokens of each run
    #[arg(long, value_name = "N", default_value = "256", default_value_if("workload", ArgPredicate::IsPresent, "64"), allow_negative_numbers = true, value_parser = whole::<u32>(2..=MOST_TOKENS))]
    pub(super) max_tokens: u32,

    #[command(flatten)]
    pub(super) sampling: SamplingArgs,

    #[command(flatten)]
    pub(super) services: ServiceArgs,

    /// Write what was measured into this directory too, as roofline files (mlperf-edu-roofline/1.0), one for the AR runs
    /// and one for the speculative runs of the first γ
    #[arg(long, value_name = "DIR")]
    pub(super) sidecar: Option<PathBuf>,

    /// Print one JSON object on standard output and nothing else
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct CouplingArgs {
    /// How the draws of draft and target depend on each other: gumbel, through noise that both share, where the output is that of
    /// the target alone; or rejection, by acceptance and rejection, where it is exact in distribution only
    #[arg(long, value_name = "gumbel|rejection", default_value = "gumbel")]
    pub(super) coupling: Coupling,

    #[command(flatten)]
    pub(super) proposals: ProposalArgs,
}

impl CouplingArgs {
    /// What goes with the coupling. Drafting ahead goes with shared noise alone: it tells which verdicts are likely.
    pub(super) fn check(&self) -> Result<(), String> {
        match (self.coupling, self.proposals.anticipate) {
            (Coupling::Gumbel, _) | (Coupling::Rejection, Anticipate::Branches(0)) => Ok(()),
            (Coupling::Rejection, Anticipate::Auto | Anticipate::Branches(_)) => {
                Err("--anticipate is not off, allowed with --coupling rejection: off".to_owned())
            }
        }
    }
}

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct ProposalArgs {
    /// Have the draft go on while the target verifies, for the likeliest verdicts: so many proposals at once, 1 to 64, auto or
    /// off. auto is 16 where draft and target are services, off where both compute in this process
    #[arg(
        long,
        env = "OUTRIDER_ANTICIPATE",
        value_name = "BRANCHES|auto|off",
        default_value = "off",
        allow_negative_numbers = true
    )]
    anticipate: Anticipate,

    /// Have the draft end a proposal before the first token that it holds less likely than this, 0 to 1; 0 never does
    #[arg(long, env = "OUTRIDER_MIN_CONFIDENCE", value_name = "P", default_value = "0", allow_negative_numbers = true, value_parser = share)]
    pub(super) min_confidence: f32,
}

/// What drafting ahead may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anticipate {
    Auto,
    Branches(usize),
}

/// Branches where nobody says how many, and the most that may be asked for.
const USUAL_BRANCHES: usize = 16;
const MOST_BRANCHES: usize = 64;

impl FromStr for Anticipate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Branches(0)),
            _ => whole(1..=MOST_BRANCHES as u64)(text)
                .map(Self::Branches)
                .map_err(|allowed| format!("{allowed}, auto or off")),
        }
    }
}

impl ProposalArgs {
    /// Branches for a pair that computes in this process or elsewhere.
    pub(super) fn branches(self, is_embedded: bool) -> usize {
        match self.anticipate {
            Anticipate::Auto if is_embedded => 0,
            Anticipate::Auto => USUAL_BRANCHES,
            Anticipate::Branches(branches) => branches,
        }
    }
}

#[derive(Args, Debug)]
pub(super) struct DescribeArgs {
    /// The service's address, http://HOST:PORT or https://HOST:PORT
    #[arg(value_name = "URL")]
    pub(super) url: String,

    #[command(flatten)]
    pub(super) trust: TrustArgs,

    /// Go on until Ctrl-C: each second what it does now, and the passes of that second
    #[arg(long)]
    pub(super) watch: bool,

    /// Print one JSON object on standard output and nothing else
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
pub(super) struct CertifyArgs {
    /// What `outrider generate --json` printed, to be decoded again; - reads it from standard input. Without it a text of its
    /// own is decoded
    #[arg(value_name = "RUN")]
    pub(super) run: Option<String>,

    /// What to continue where there is no recorded run
    #[arg(long, value_name = "PROMPT", default_value = "ROMEO:", conflicts_with = "run", allow_hyphen_values = true)]
    pub(super) prompt: String,

    /// Tokens to decode where there is no recorded run
    #[arg(long, value_name = "N", default_value = "256", conflicts_with = "run", allow_negative_numbers = true, value_parser = whole::<u32>(2..=MOST_TOKENS))]
    pub(super) max_tokens: u32,

    /// Rows of the windows to compare with rows one by one, each 1 to 33
    #[arg(long, value_name = "N,N,…", default_value = "2,3,5,9,17", value_delimiter = ',', allow_negative_numbers = true, value_parser = whole::<usize>(1..=33))]
    pub(super) windows: Vec<usize>,

    /// Sessions that share passes in a last comparison, with windows of the last size; 1 leaves it out
    #[arg(long, value_name = "N", default_value = "4", allow_negative_numbers = true, value_parser = whole::<usize>(1..=256))]
    pub(super) sessions: usize,

    #[command(flatten)]
    pub(super) sampling: SamplingArgs,

    #[command(flatten)]
    pub(super) services: ServiceArgs,

    /// Print one JSON object on standard output and nothing else
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
pub(super) struct HealthArgs {
    /// The service's address, http://HOST:PORT or https://HOST:PORT: a model service, or the gRPC API of `outrider serve`
    #[arg(value_name = "URL")]
    pub(super) url: String,

    #[command(flatten)]
    pub(super) trust: TrustArgs,
}

#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Sampling")]
pub(super) struct SamplingArgs {
    /// 0 always takes the likeliest token; 0 to 100
    #[arg(long, value_name = "T", default_value = "0.8", default_value_if("workload", ArgPredicate::IsPresent, "0"), allow_negative_numbers = true, value_parser = temperature)]
    temperature: f64,

    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value = "0", allow_negative_numbers = true, value_parser = whole::<u32>(0..=u64::from(u32::MAX)))]
    top_k: u32,

    /// Keep the shortest list of tokens that holds this share of the probability, above 0 to 1; 1 keeps all
    #[arg(long, value_name = "P", default_value = "1", allow_negative_numbers = true, value_parser = top_p)]
    top_p: f64,

    /// Keep tokens at least this likely relative to the likeliest, 0 to 1; 0 keeps all
    #[arg(long, value_name = "P", default_value = "0", allow_negative_numbers = true, value_parser = min_p)]
    min_p: f64,

    /// Take this from the logit of each token that was chosen before, -2 to 2; 0 is off
    #[arg(long, value_name = "P", default_value = "0", allow_negative_numbers = true, value_parser = presence_penalty)]
    presence_penalty: f64,

    /// Take this from it for each time that it was chosen, -2 to 2; 0 is off
    #[arg(long, value_name = "P", default_value = "0", allow_negative_numbers = true, value_parser = frequency_penalty)]
    frequency_penalty: f64,

    /// Divide the logits of tokens in the prompt or chosen before by this, and multiply those below 0; above 0 to 10, 1 is off
    #[arg(long, value_name = "R", default_value = "1", allow_negative_numbers = true, value_parser = repetition_penalty)]
    repetition_penalty: f64,

    /// Seed of the noise; the same seed gives the same output
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true, value_parser = whole::<u64>(0..=u64::MAX))]
    seed: u64,
}

impl SamplingArgs {
    pub(super) fn sampling(self) -> Sampling {
        let Self { temperature, top_k, top_p, min_p, seed, .. } = self;
        let penalties = Penalties {
            presence: self.presence_penalty,
            frequency: self.frequency_penalty,
            repetition: self.repetition_penalty,
        };
        Sampling { temperature, top_k, top_p, min_p, seed, penalties }
    }
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Services")]
pub(super) struct ServiceArgs {
    /// The draft's address, http://HOST:PORT or https://HOST:PORT, or several with commas between them; without addresses both models live in
    /// this process
    #[arg(long, value_name = "URL", env = "OUTRIDER_DRAFT")]
    pub(super) draft: Option<String>,

    /// The target's address, http://HOST:PORT or https://HOST:PORT, or several with commas between them, of which any may take over from another
    #[arg(long, value_name = "URL", env = "OUTRIDER_TARGET")]
    pub(super) target: Option<String>,

    /// Threads of the models in this process [default: the processors that this process may use]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = threads)]
    pub(super) threads: Option<NonZeroUsize>,

    /// How long a cycle waits for the draft's proposal, for example 50ms
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, default_value = "1s", value_parser = duration)]
    draft_deadline: Duration,

    /// How long the target may take before it counts as gone, and for how long another one is looked for then
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, default_value = "30s", value_parser = duration)]
    target_deadline: Duration,

    /// Let a target with another arithmetic (other kernels, another device) go on with a session where none with the same
    /// is left; the answer then says that it may not be what one target would have said
    #[arg(long, env = "OUTRIDER_ALLOW_INEXACT_FAILOVER")]
    allow_inexact_failover: bool,

    /// Record prompts and outputs in the spans of requests; without it they are in no span, log or metric
    #[arg(long, env = "OUTRIDER_RECORD_CONTENT")]
    pub(super) record_content: bool,

    /// Which cycles have spans, where telemetry is exported: all, sampled:N for one of N, or off
    #[arg(long, env = "OUTRIDER_TRACE_CYCLES", value_name = "WHICH", default_value = "all")]
    pub(super) trace_cycles: TraceCycles,

    /// What a line of the log looks like: text, or json for one object a line
    #[arg(long, env = "OUTRIDER_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: logs::Format,

    #[command(flatten)]
    trust: TrustArgs,

    #[command(flatten)]
    pub(super) emulation: EmulationArgs,

    #[cfg(feature = "embedded")]
    #[command(flatten)]
    pub(super) models: ModelArgs,
}

/// Whom a service must be, and who we are to it.
#[derive(Args, Clone, Debug)]
pub(super) struct TrustArgs {
    /// Believe services at https addresses that have a certificate of one of the authorities in this PEM file; it and the
    /// next two are read again when they change
    #[arg(long, env = "OUTRIDER_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Show such services the certificate in this PEM file
    #[arg(long, env = "OUTRIDER_CLIENT_CERT", value_name = "FILE", requires_all = ["ca", "client_key"])]
    client_cert: Option<PathBuf>,

    /// The certificate's private key, a PEM file
    #[arg(long, env = "OUTRIDER_CLIENT_KEY", value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
}

impl TrustArgs {
    pub(super) fn tls(&self) -> Result<Option<ClientTls>, UnusableFiles> {
        let identity = self.client_cert.clone().zip(self.client_key.clone());
        self.ca.clone().map(|ca| ClientTls::new(ClientFiles { ca: Some(ca), identity })).transpose()
    }
}

impl ServiceArgs {
    pub(super) fn access(&self) -> Result<Access, UnusableFiles> {
        Ok(Access { tls: self.trust.tls()?, inexact_failover: self.allow_inexact_failover, ..Access::default() })
    }

    pub(super) fn deadlines(&self) -> Deadlines {
        Deadlines { draft: self.draft_deadline, draft_adapts: false, target: self.target_deadline }
    }
}

/// A whole number in `range`, which the message names whatever was given instead.
fn whole<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let value = text.parse().ok().filter(|value| range.contains(value));
        let value = value.and_then(|value| T::try_from(value).ok());
        value.ok_or_else(|| format!("allowed: a whole number, {} to {}", range.start(), range.end()))
    }
}

fn some_gamma(text: &str) -> Result<Gamma, String> {
    let gamma = text.parse().ok().filter(|gamma: &Gamma| !gamma.is_ar());
    gamma.ok_or_else(|| "allowed: a whole number, 1 to 32, or auto".to_owned())
}

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let threads = whole::<usize>(1..=MOST_THREADS)(text)?;
    NonZeroUsize::new(threads).ok_or_else(|| "allowed: 1 or more".to_owned())
}

fn share(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value| (0.0..=1.0).contains(value));
    value.ok_or_else(|| "allowed: a number, 0 to 1".to_owned())
}

fn temperature(text: &str) -> Result<f64, String> {
    checked(text, |temperature| Sampling { temperature, ..Sampling::greedy() })
}

fn top_p(text: &str) -> Result<f64, String> {
    checked(text, |top_p| Sampling { top_p, ..Sampling::greedy() })
}

fn min_p(text: &str) -> Result<f64, String> {
    checked(text, |min_p| Sampling { min_p, ..Sampling::greedy() })
}

fn presence_penalty(text: &str) -> Result<f64, String> {
    penalty(text, |presence| Penalties { presence, ..Penalties::NONE })
}

fn frequency_penalty(text: &str) -> Result<f64, String> {
    penalty(text, |frequency| Penalties { frequency, ..Penalties::NONE })
}

fn repetition_penalty(text: &str) -> Result<f64, String> {
    penalty(text, |repetition| Penalties { repetition, ..Penalties::NONE })
}

fn penalty(text: &str, with: impl Fn(f64) -> Penalties) -> Result<f64, String> {
    checked(text, |value| Sampling { penalties: with(value), ..Sampling::greedy() })
}

fn checked(text: &str, with: impl Fn(f64) -> Sampling) -> Result<f64, String> {
    // What is no number is out of every range, as NaN is.
    let value = text.parse().unwrap_or(f64::NAN);
    with(value).validate().map(|()| value).map_err(|error| format!("allowed: {}", error.allowed))
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}, allowed: for example 250ms or 2s"))?;
    match duration.is_zero() || duration > Duration::from_secs(86_400) {
        true => Err("allowed: above 0 to 1day".to_owned()),
        false => Ok(duration),
    }
}
