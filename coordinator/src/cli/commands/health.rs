//! `outrider health`.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::interruptible;
use crate::{
    Access,
    cli::{End, args::HealthArgs},
    replicas,
};

/// How long a service may take to say whether it is ready.
const LIMIT: Duration = Duration::from_secs(5);

/// Asks gRPC's health service. Not ready is a failure.
pub(in crate::cli) async fn health(args: HealthArgs) -> anyhow::Result<End> {
    let HealthArgs { url, trust } = args;
    let access = Access { tls: trust.tls()?, ..Access::default() };
    let mut client = HealthClient::new(replicas::channel("service", &url, &access).await?);
    let asked = time::timeout(LIMIT, client.check(HealthCheckRequest::default()));
    let Some(answer) = interruptible(asked).await else { return Ok(End::Interrupted) };
    let answer = answer.with_context(|| format!("{url} does not say within {} s", LIMIT.as_secs()))?;
    let answer = answer.map_err(|status| crate::error::describe(&status));
    let status = match answer {
        Ok(answer) => answer.into_inner().status(),
        Err(problem) => bail!("{url} does not answer: {problem}"),
    };
    match status {
        ServingStatus::Serving => Ok(End::Done),
        other => bail!("{url} is {}", other.as_str_name()),
    }
}
