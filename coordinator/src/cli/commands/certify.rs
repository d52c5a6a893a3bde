//! `outrider certify`.

use std::{fs, io, io::Read};

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use speculative::Coupling;

use super::{
    interruptible,
    pair::{Connected, Place, Setup},
    print_json, print_text,
};
use crate::{
    Request,
    certify::{Plan, Recorded, certify as examine, summary},
    cli::{End, args::CertifyArgs},
    text,
};

/// Examines the target. Tokens that differ are a failure.
pub(in crate::cli) async fn certify(args: CertifyArgs) -> anyhow::Result<End> {
    telemetry::logs::init("warn", args.services.log_format);
    let place = Place::of(&args.services, false);
    let recorded = args.run.as_deref().map(read).transpose()?;
    let setup = Setup::default();
    let Some(connected) = interruptible(Connected::new(place, setup)).await.transpose()? else {
        return Ok(End::Interrupted);
    };
    let shown = if args.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    let examined = async {
        check_windows(&args.windows, &connected)?;
        let request = request(&args, recorded.as_ref(), &connected)?;
        let plan = Plan { request, windows: args.windows.clone(), sessions: args.sessions };
        let deadlines = args.services.deadlines();
        let progress = |what: &str| {
            shown.set_message(what.to_owned());
            shown.tick();
        };
        anyhow::Ok(examine(&connected.pair, plan, recorded.as_ref(), deadlines, progress).await?)
    };
    let examined = interruptible(examined).await.transpose();
    shown.finish_and_clear();
    connected.close().await;
    let Some(certificate) = examined? else { return Ok(End::Interrupted) };
    match args.json {
        true => print_json(&certificate)?,
        false => print_text(&summary(&certificate))?,
    }
    match certificate.holds() {
        true => Ok(End::Done),
        false => bail!("tokens differ from what the target alone decodes"),
    }
}

/// Windows that the target would refuse are refused before anything runs.
fn check_windows(windows: &[usize], connected: &Connected) -> anyhow::Result<()> {
    let most = connected.pair.target.description.limits.unwrap_or_default().max_gamma as usize + 1;
    match windows.iter().find(|&&window| window > most) {
        Some(window) => bail!("--windows has {window}, allowed by the target's max_gamma: 1 to {most}"),
        None => Ok(()),
    }
}

/// What is decoded: what the recorded run asked for, or what the flags say.
fn request(args: &CertifyArgs, recorded: Option<&Recorded>, connected: &Connected) -> anyhow::Result<Request> {
    Ok(match recorded {
        Some(recorded) => Request {
            max_tokens: recorded.token_ids.len(),
            ..Request::new(recorded.prompt_token_ids.clone(), recorded.sampling.seeded(recorded.seed))
        },
        None => {
            let prompt = text::encode(&connected.pair.tokenizer, &args.prompt)?;
            Request { max_tokens: args.max_tokens as usize, ..Request::new(prompt, args.sampling.sampling()) }
        }
    })
}

fn read(run: &str) -> anyhow::Result<Recorded> {
    let json = match run {
        "-" => {
            let mut json = String::new();
            io::stdin().read_to_string(&mut json).context("the run cannot be read from standard input")?;
            json
        }
        path => fs::read_to_string(path).with_context(|| format!("the run {path} cannot be read"))?,
    };
    let recorded: Recorded = serde_json::from_str(&json)
        .with_context(|| format!("{run} is no run, allowed: what `outrider generate --json` prints"))?;
    if recorded.token_ids.is_empty() {
        bail!("{run} has no tokens, allowed: a run with one or more");
    }
    if let Some(coupling) = recorded.coupling.as_deref().filter(|coupling| *coupling != Coupling::Gumbel.as_str()) {
        bail!(
            "{run} has coupling {coupling}, allowed: gumbel, as any other's output is not what the target alone decodes"
        );
    }
    Ok(recorded)
}
