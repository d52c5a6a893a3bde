//! `outrider trace` and `outrider explain`.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail};

use super::{print_json, print_text};
use crate::{
    cli::{
        End,
        args::{ExplainArgs, SourceArgs, TraceArgs},
    },
    trace::{Judgement, NotThere, Request, page, read},
};

/// How long a store may take.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest trace that is read, in bytes.
const MOST_BYTES: u64 = 1 << 30;

pub(in crate::cli) async fn trace(args: TraceArgs) -> anyhow::Result<End> {
    let (request, judgement) = judged(args.source).await?;
    let page = page::page(&request, &judgement);
    if args.output.as_os_str() == "-" {
        print_text(&page)?;
    } else {
        let shown = args.output.display();
        fs::write(&args.output, page).with_context(|| format!("the page {shown} cannot be written"))?;
        // Whoever reads standard error may have gone; the page is written.
        let _ = writeln!(io::stderr(), "{shown}: {}. {}", judgement.headline(), judgement.verdict);
    }
    Ok(End::Done)
}

pub(in crate::cli) async fn explain(args: ExplainArgs) -> anyhow::Result<End> {
    let (_, judgement) = judged(args.source).await?;
    match args.json {
        true => print_json(&judgement)?,
        false => print_text(&judgement.to_string())?,
    }
    Ok(End::Done)
}

async fn judged(source: SourceArgs) -> anyhow::Result<(Request, Judgement)> {
    let text = match &source.store {
        Some(store) => {
            tokio::task::spawn_blocking({
                let (store, trace_id) = (store.clone(), source.source.clone());
                move || ask(&store, &trace_id)
            })
            .await??
        }
        None => from_file(Path::new(&source.source))?,
    };
    let from = source.store.as_ref().map_or(source.source.clone(), |store| format!("the answer of {store}"));
    let spans = read::spans(&text).with_context(|| format!("{from} cannot be read"))?;
    let mut requests = Request::all(&spans).with_context(|| from.clone())?;
    let there: Vec<String> = requests.iter().map(|request| request.trace_id.clone()).collect();
    let at = match source.trace_id {
        Some(trace_id) => {
            let there = || NotThere::Trace { trace_id: trace_id.clone(), there: there.join(", ") };
            requests.iter().position(|request| request.trace_id == trace_id).ok_or_else(there)?
        }
        None => requests.iter().position(|request| request.gamma > 0).unwrap_or_default(),
    };
    let request = requests.swap_remove(at);
    if request.cycles.is_empty() {
        bail!("no cycle of trace {} was traced (--trace-cycles off, or it ended before its first)", request.trace_id);
    }
    let judgement = Judgement::of(&request, &requests);
    Ok((request, judgement))
}

fn from_file(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let unreadable = || format!("the trace file {shown} cannot be read");
    let bytes = fs::metadata(path).with_context(unreadable)?.len();
    if bytes > MOST_BYTES {
        bail!("the trace file {shown} has {bytes} bytes, allowed: {MOST_BYTES}");
    }
    fs::read_to_string(path).with_context(unreadable)
}

/// The store's answer to the query for a trace.
fn ask(store: &str, trace_id: &str) -> anyhow::Result<String> {
    if trace_id.is_empty() || !trace_id.chars().all(|digit| digit.is_ascii_hexdigit()) {
        bail!("{trace_id} is no trace id, allowed: hexadecimal digits");
    }
    let url = format!("{}/api/traces/{trace_id}", store.trim_end_matches('/'));
    let agent = ureq::Agent::config_builder().timeout_global(Some(STORE_TIMEOUT)).build().new_agent();
    let asked = agent.get(&url).header("accept", "application/json").call();
    let mut answer = asked.with_context(|| format!("{url} does not answer with a trace"))?;
    answer.body_mut().with_config().limit(MOST_BYTES).read_to_string().with_context(|| format!("{url} breaks off"))
}
