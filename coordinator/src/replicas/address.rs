//! An address as a flag gives it, and the addresses that its host's name stands for.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use telemetry::{
    Distance,
    channel::{self, bare},
    server::KEEPALIVE,
    tls::ClientTls,
};
use tokio::net::lookup_host;
use tonic::transport::{Channel, Endpoint, Uri};

use super::Access;
use crate::Error;

/// An address as it was given.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) url: String,
    host: String,
    port: u16,
    endpoint: Endpoint,
    /// For https.
    tls: Option<ClientTls>,
    distance: Distance,
}

/// A place that an address stands for.
pub(super) struct Place {
    pub(super) url: String,
    endpoint: Endpoint,
    /// The host that it must prove to be, where that is asked.
    proof: Option<(String, ClientTls)>,
    distance: Distance,
}

impl Address {
    /// The address in `url`, http://HOST:PORT or https://HOST:PORT; the latter needs TLS.
    pub(super) fn new(side: &'static str, url: &str, access: &Access) -> Result<Self, Error> {
        let bad = |problem: &str| Error::Address { side, url: url.to_owned(), problem: problem.to_owned() };
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| bad(&error.to_string()))?;
        let uri: &Uri = endpoint.uri();
        let (scheme, host) = (uri.scheme_str().unwrap_or_default(), uri.host());
        let Some(host) = host.filter(|_| ["http", "https"].contains(&scheme)).map(bare) else {
            return Err(bad("it is not an http or https URL"));
        };
        let tls = access.tls.clone().filter(|_| scheme == "https");
        if scheme == "https" && tls.is_none() {
            return Err(bad("https needs --ca, the authorities whose services are believed"));
        }
        let Some(port) = uri.port_u16().filter(|&port| port != 0) else {
            return Err(bad("it has no port from 1 to 65535"));
        };
        Ok(Self { url: url.to_owned(), host, port, endpoint: tuned(endpoint), tls, distance: access.distance(side) })
    }

    /// Whether the host is a name, which may stand for other addresses later.
    pub(super) fn is_name(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }

    /// The place of each address that the host stands for.
    pub(super) async fn places(&self) -> Vec<Place> {
        let place = |url, endpoint| {
            let proof = self.tls.clone().map(|tls| (self.host.clone(), tls));
            Place { url, endpoint, proof, distance: self.distance }
        };
        if !self.is_name() {
            return vec![place(self.url.clone(), self.endpoint.clone())];
        }
        let addresses = match lookup_host((self.host.as_str(), self.port)).await {
            Ok(addresses) => addresses.collect::<Vec<_>>(),
            Err(error) => {
                tracing::warn!(host = self.host, %error, "a name is not resolved");
                Vec::new()
            }
        };
        let origin = self.endpoint.uri().clone();
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let of_address = |address: SocketAddr| {
            let url = format!("{scheme}://{address}");
            let endpoint = Endpoint::from_shared(url.clone()).ok()?;
            Some(place(url, tuned(endpoint).origin(origin.clone())))
        };
        addresses.into_iter().filter_map(of_address).collect()
    }
}

impl Place {
    /// A connection that is made when it is first used and again whenever it is lost.
    pub(super) fn channel(&self) -> Channel {
        channel::distant(&self.endpoint, self.proof.clone(), self.distance)
    }
}

/// How a connection is kept.
fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
}
