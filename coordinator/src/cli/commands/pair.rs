//! The pair that a command talks to: at the addresses that were given, or in this process.

use std::time::Duration;

use clap::{CommandFactory, error::ErrorKind};
use telemetry::{TraceFile, Tracer, names};
use tokio::time;

use super::super::{
    Cli,
    args::{CouplingArgs, ServiceArgs},
};
#[cfg(feature = "embedded")]
use crate::embedded::{Embedded, Models};
use crate::{Access, Error, Pair};

/// A connected pair with what keeps it alive.
pub(super) struct Connected {
    pub(super) pair: Pair,
    pub(super) tracer: Tracer,
    #[cfg(feature = "embedded")]
    embedded: Option<Embedded>,
}

/// How a command gets its pair.
#[derive(Default)]
pub(super) struct Setup {
    /// Where spans go too.
    pub(super) trace_file: Option<TraceFile>,
    /// Whether a pair in this process is to measure its roofs before anything else; where spans are made it does anyway.
    pub(super) measure_roofs: bool,
    /// Whether services that do not answer yet are waited for.
    pub(super) patient: bool,
}

/// How often a service that does not answer yet is asked again.
const PATIENCE_INTERVAL: Duration = Duration::from_secs(1);

/// Where the pair is, as the command line says.
pub(super) enum Place<'a> {
    /// In this process.
    #[cfg(feature = "embedded")]
    Here { models: Models, services: &'a ServiceArgs },
    /// At addresses; without a draft for AR.
    Remote { draft: Option<&'a str>, target: &'a str, services: &'a ServiceArgs },
}

impl<'a> Place<'a> {
    /// Both addresses or neither; AR needs the target's alone. Anything else ends the process as a wrong flag does.
    pub(super) fn of(args: &'a ServiceArgs, drafted: bool) -> Self {
        match (args.draft.as_deref(), args.target.as_deref()) {
            (None, None) => Self::here(args, drafted),
            (draft, Some(target)) if !drafted || draft.is_some() => {
                Self::Remote { draft: draft.filter(|_| drafted), target, services: args }
            }
            (Some(_), _) => usage("--draft is given without --target, allowed: both or neither"),
            (None, Some(_)) => {
                usage("--target is given without --draft, allowed: both or neither, or --target with --ar")
            }
        }
    }

    #[cfg(feature = "embedded")]
    fn here(args: &'a ServiceArgs, drafted: bool) -> Self {
        match args.models.models(drafted) {
            Ok(models) => Self::Here { models, services: args },
            Err(problem) => usage(problem),
        }
    }

    #[cfg(not(feature = "embedded"))]
    fn here(_args: &'a ServiceArgs, _drafted: bool) -> Self {
        usage("this build has no models of its own: --draft and --target are required")
    }
}

impl Connected {
    /// Connects to the pair at `place`, or starts it there. Without a draft there none is contacted.
    pub(super) async fn new(place: Place<'_>, setup: Setup) -> anyhow::Result<Self> {
        let tracer = Tracer::recording(names::service::COORDINATOR, setup.trace_file.as_ref())?;
        match place {
            Place::Remote { draft, target, services } => {
                let pair = remote(draft, target, &distant(services, services.access()?), setup.patient).await?;
                Ok(Self {
                    pair,
                    tracer,
                    #[cfg(feature = "embedded")]
                    embedded: None,
                })
            }
            #[cfg(feature = "embedded")]
            Place::Here { models, services } => {
                let Setup { trace_file, measure_roofs, .. } = setup;
                let access = distant(services, Access::default());
                let embedded = Embedded::start(models, services.threads, trace_file).await?;
                let mut pair = Pair::connect(embedded.draft_url(), embedded.target_url(), &access).await?;
                if measure_roofs || tracer.is_on() {
                    pair.measure_roofs().await;
                }
                Ok(Self { pair, tracer, embedded: Some(embedded) })
            }
        }
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

/// The pair at these addresses; where it is asked to be patient, once both are there.
async fn remote(draft: Option<&str>, target: &str, access: &Access, patient: bool) -> Result<Pair, Error> {
    let mut told = None;
    loop {
        match Pair::connect(draft, target, access).await {
            Err(error @ Error::Unreachable { .. }) if patient => {
                let error = error.to_string();
                if told.as_ref() != Some(&error) {
                    tracing::warn!(error, "waiting for the services");
                }
                told = Some(error);
                time::sleep(PATIENCE_INTERVAL).await;
            }
            done => return done,
        }
    }
}

/// Flags that do not go with the coupling end the process as a wrong flag does.
pub(super) fn check(coupling: &CouplingArgs) {
    coupling.check().unwrap_or_else(|problem| usage(&problem));
}

/// From as far away as the flags say.
fn distant(services: &ServiceArgs, access: Access) -> Access {
    services.emulation.distant(access).unwrap_or_else(|problem| usage(&problem))
}

/// Ends the process as clap does for a wrong command line: status 2.
fn usage(message: &str) -> ! {
    Cli::command().error(ErrorKind::ArgumentConflict, message).exit()
}
