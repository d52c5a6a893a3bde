//! A simulation's flags.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::Args;

use super::whole;

/// Most servers of a kind.
const MOST_SERVERS: u64 = 1 << 20;

#[derive(Args, Debug)]
#[command(after_help = HOW)]
pub(in crate::cli) struct SimulateArgs {
    /// The plan, a TOML file as `outrider study` takes it; up to 100,000 sessions at once
    #[arg(value_name = "PLAN")]
    pub(in crate::cli) plan: PathBuf,

    /// What the parts of a cycle take: the directory of a study that has the plan's pairs, or a fit.json
    #[arg(long, value_name = "DIR|FILE")]
    pub(in crate::cli) fit: PathBuf,

    /// Draft servers, which share the sessions
    #[arg(long, value_name = "M", default_value = "1", allow_negative_numbers = true, value_parser = servers)]
    pub(in crate::cli) drafts: NonZeroUsize,

    /// Target servers, likewise
    #[arg(long, value_name = "K", default_value = "1", allow_negative_numbers = true, value_parser = servers)]
    pub(in crate::cli) targets: NonZeroUsize,

    /// The directory for the page and the tables, which is made [default: the plan's path without .toml, with -simulated]
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) output: Option<PathBuf>,

    /// Print one JSON object on standard output and nothing else
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

fn servers(text: &str) -> Result<NonZeroUsize, String> {
    let servers = whole::<usize>(1..=MOST_SERVERS)(text)?;
    NonZeroUsize::new(servers).ok_or_else(|| "allowed: 1 or more".to_owned())
}

const HOW: &str = "What is measured once, near, says what happens far away and with many sessions:
  outrider study distance.toml                       measures, into distance/
  outrider simulate distance.toml --fit distance     the same on a virtual clock, beside what was measured
  outrider simulate many.toml --fit distance --drafts 500 --targets 500

The times of passes, of what is around messages and of acceptance come from the study's shortest distance;
fit.json in the output has them, to be changed and given back with --fit.";
