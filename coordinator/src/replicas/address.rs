//! An address as a flag gives it, and the addresses that its host's name stands for.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use telemetry::server::KEEPALIVE;
use tokio::net::lookup_host;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::Error;

/// An address as it was given.
pub(super) struct Address {
    pub(super) url: String,
    host: String,
    port: u16,
    endpoint: Endpoint,
}

impl Address {
    /// The address in `url`, http://HOST:PORT.
    pub(super) fn new(side: &'static str, url: &str) -> Result<Self, Error> {
        let bad = |problem: &str| Error::Address { side, url: url.to_owned(), problem: problem.to_owned() };
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| bad(&error.to_string()))?;
        let uri: &Uri = endpoint.uri();
        let (scheme, host) = (uri.scheme_str(), uri.host().map(str::to_owned));
        let Some(host) = host.filter(|_| scheme == Some("http")) else { return Err(bad("it is not an http URL")) };
        let Some(port) = uri.port_u16().filter(|&port| port != 0) else {
            return Err(bad("it has no port from 1 to 65535"));
        };
        Ok(Self { url: url.to_owned(), host, port, endpoint: tuned(endpoint) })
    }

    /// Whether the host is a name, which may stand for other addresses later.
    pub(super) fn is_name(&self) -> bool {
        self.host.trim_matches(['[', ']']).parse::<IpAddr>().is_err()
    }

    /// A connection's settings for each address that the host stands for.
    pub(super) async fn endpoints(&self) -> Vec<(String, Endpoint)> {
        if !self.is_name() {
            return vec![(self.url.clone(), self.endpoint.clone())];
        }
        let addresses = match lookup_host((self.host.as_str(), self.port)).await {
            Ok(addresses) => addresses.collect::<Vec<_>>(),
            Err(error) => {
                tracing::warn!(host = self.host, %error, "a name is not resolved");
                Vec::new()
            }
        };
        let origin = self.endpoint.uri().clone();
        let endpoint = |address: SocketAddr| {
            let url = format!("http://{address}");
            let endpoint = Endpoint::from_shared(url.clone()).ok()?;
            Some((url, tuned(endpoint).origin(origin.clone())))
        };
        addresses.into_iter().filter_map(endpoint).collect()
    }
}

/// A connection to the one service at `url`.
pub(crate) fn channel(side: &'static str, url: &str) -> Result<Channel, Error> {
    Ok(Address::new(side, url)?.endpoint.connect_lazy())
}

/// A connection that is made when it is first used and again whenever it is lost.
fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
}
