//! gRPC channels whose connections are made here, encrypted or in the clear.
//!
//! tonic's own TLS is not built in: with it, tonic refuses https addresses that bring their own.

use std::io;

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{Distance, tls::ClientTls};

/// A connection in the clear or an encrypted one.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A channel to `endpoint` whose connection is made when it is first used and again whenever it is lost. With `proof` the
/// other side must prove to be that host. Must be called within a tokio runtime, which drives the connection.
pub fn lazily(endpoint: &Endpoint, proof: Option<(String, ClientTls)>) -> Channel {
    distant(endpoint, proof, Distance::default())
}

/// The same to a server that is farther away than it is.
pub fn distant(endpoint: &Endpoint, proof: Option<(String, ClientTls)>, distance: Distance) -> Channel {
    endpoint.connect_with_connector_lazy(tower::service_fn(move |uri| connect(uri, proof.clone(), distance)))
}

async fn connect(
    uri: Uri,
    proof: Option<(String, ClientTls)>,
    distance: Distance,
) -> io::Result<TokioIo<Box<dyn Stream>>> {
    let default_port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let host = uri.host().map(bare).ok_or(io::ErrorKind::InvalidInput)?;
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(default_port))).await?;
    stream.set_nodelay(true)?;
    let stream: Box<dyn Stream> = match distance.is_none() {
        true => Box::new(stream),
        false => Box::new(distance.add(stream).await?),
    };
    Ok(TokioIo::new(match proof {
        None => stream,
        Some((host, tls)) => Box::new(tls.connect(&host, stream).await?),
    }))
}

/// A host without the brackets that an IPv6 address has in a URL.
pub fn bare(host: &str) -> String {
    host.trim_matches(['[', ']']).to_owned()
}
