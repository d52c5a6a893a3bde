//! The pair that a command talks to: at the addresses that were given, or in this process.

use clap::{CommandFactory, error::ErrorKind};
use telemetry::{Tracer, names};

use super::super::{Cli, args::ServiceArgs};
use crate::Pair;
#[cfg(feature = "embedded")]
use crate::embedded::Embedded;

/// A connected pair with what keeps it alive.
pub(super) struct Connected {
    pub(super) pair: Pair,
    pub(super) tracer: Tracer,
    #[cfg(feature = "embedded")]
    embedded: Option<Embedded>,
}

impl Connected {
    /// Connects to the addresses of `args`, or starts the embedded pair where there are none. Without `drafted` no draft
    /// is started or contacted.
    pub(super) async fn new(args: &ServiceArgs, drafted: bool) -> anyhow::Result<Self> {
        let tracer = Tracer::from_env(names::service::COORDINATOR)?;
        match (&args.draft, &args.target) {
            (Some(draft), Some(target)) => Self::remote(Some(draft.as_str()).filter(|_| drafted), target, tracer).await,
            (None, Some(target)) if !drafted => Self::remote(None, target, tracer).await,
            (None, None) => Self::embedded(args, drafted, tracer).await,
            (Some(_), None) => usage("--draft is given without --target, allowed: both or neither"),
            (None, Some(_)) => {
                usage("--target is given without --draft, allowed: both or neither, or --target with --ar")
            }
        }
    }

    async fn remote(draft: Option<&str>, target: &str, tracer: Tracer) -> anyhow::Result<Self> {
        let pair = Pair::connect(draft, target).await?;
        Ok(Self {
            pair,
            tracer,
            #[cfg(feature = "embedded")]
            embedded: None,
        })
    }

    #[cfg(feature = "embedded")]
    async fn embedded(args: &ServiceArgs, drafted: bool, tracer: Tracer) -> anyhow::Result<Self> {
        let embedded = Embedded::start(drafted, args.threads).await?;
        let pair = Pair::connect(embedded.draft_url(), embedded.target_url()).await?;
        Ok(Self { pair, tracer, embedded: Some(embedded) })
    }

    #[cfg(not(feature = "embedded"))]
    async fn embedded(_args: &ServiceArgs, _drafted: bool, _tracer: Tracer) -> anyhow::Result<Self> {
        usage("this build has no embedded pair: --draft and --target are required")
    }

    /// Whether the pair lives in this process.
    pub(super) fn is_embedded(&self) -> bool {
        #[cfg(feature = "embedded")]
        return self.embedded.is_some();
        #[cfg(not(feature = "embedded"))]
        return false;
    }

    /// Sends the last spans and stops what was started.
    pub(super) async fn close(self) {
        let Self { pair, tracer, .. } = self;
        let _ = tokio::task::spawn_blocking(move || tracer.shutdown()).await;
        drop(pair);
        #[cfg(feature = "embedded")]
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }
}

/// Ends the process as clap does for a wrong command line: status 2.
fn usage(message: &str) -> ! {
    Cli::command().error(ErrorKind::ArgumentConflict, message).exit()
}
