//! TLS from files that are read again when they change: what a server shows, and whom a client believes.

use std::{io, path::PathBuf, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    client::TlsStream as ClientStream,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        server::WebPkiClientVerifier,
    },
    server::TlsStream as ServerStream,
};

use crate::watched::{UnusableFiles, Watched};

/// What is spoken over a connection, as ALPN names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, and gRPC with it.
    Http2,
}

impl Protocol {
    fn name(self) -> Vec<u8> {
        match self {
            Self::Http1 => b"http/1.1".to_vec(),
            Self::Http2 => b"h2".to_vec(),
        }
    }
}

/// A server's files, in PEM.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    /// Its certificate, then those that lead to its authority.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// Where it is there, clients must have a certificate of one of these authorities.
    pub client_ca: Option<PathBuf>,
}

/// A client's files, in PEM.
#[derive(Clone, Debug)]
pub struct ClientFiles {
    /// The authorities whose servers it believes; without it those that browsers know.
    pub ca: Option<PathBuf>,
    /// Its certificate and that one's private key, for servers that ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The server's side of TLS. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerTls(Arc<Watched<ServerConfig>>);

/// The client's side of TLS. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientTls(Arc<Watched<ClientConfig>>);

impl ServerTls {
    /// For connections that speak `protocol`.
    ///
    /// # Errors
    /// Files that cannot be read, or that hold no certificate and its key.
    pub fn new(files: ServerFiles, protocol: Protocol) -> Result<Self, UnusableFiles> {
        let paths = [files.certificate, files.key].into_iter().chain(files.client_ca).collect();
        let watched = Watched::open("the server's certificate", paths, move |contents| {
            let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
            let builder = builder.map_err(|error| error.to_string())?;
            let builder = match contents.get(2) {
                Some(authorities) => {
                    let roots = Arc::new(roots(authorities)?);
                    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
                    builder.with_client_cert_verifier(verifier.map_err(|error| error.to_string())?)
                }
                None => builder.with_no_client_auth(),
            };
            let config = builder.with_single_cert(certificates(&contents[0])?, key(&contents[1])?);
            let mut config = config.map_err(|error| error.to_string())?;
            config.alpn_protocols = vec![protocol.name()];
            Ok(config)
        })?;
        Ok(Self(Arc::new(watched)))
    }

    /// The server's side of a handshake.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<ServerStream<TcpStream>> {
        TlsAcceptor::from(self.0.current()).accept(stream).await
    }
}

impl ClientTls {
    /// For connections that speak HTTP/2.
    ///
    /// # Errors
    /// Files that cannot be read, or that hold no certificates.
    pub fn new(files: ClientFiles) -> Result<Self, UnusableFiles> {
        let identity = files.identity.map(|(certificate, key)| [certificate, key]);
        let has_ca = files.ca.is_some();
        let paths = files.ca.into_iter().chain(identity.into_iter().flatten()).collect();
        let watched = Watched::open("the client's certificates", paths, move |contents| {
            let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
            let (authorities, identity) = contents.split_at(usize::from(has_ca));
            let roots = match authorities {
                [authorities] => roots(authorities)?,
                _ => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
            };
            let builder = builder.map_err(|error| error.to_string())?.with_root_certificates(roots);
            let mut config = match identity {
                [certificate, private] => builder
                    .with_client_auth_cert(certificates(certificate)?, key(private)?)
                    .map_err(|error| error.to_string())?,
                _ => builder.with_no_client_auth(),
            };
            config.alpn_protocols = vec![Protocol::Http2.name()];
            Ok(config)
        })?;
        Ok(Self(Arc::new(watched)))
    }

    /// The client's side of a handshake with a server that must prove to be `host`, a name or an IP address.
    ///
    /// # Errors
    /// A host that is neither, or a server that is not believed.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
    ) -> io::Result<ClientStream<S>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(self.0.current()).connect(name, stream).await
    }
}

/// The cryptography: the one that builds without further tools.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err("there is no certificate in PEM".to_owned()),
        Err(error) => Err(format!("a certificate is no PEM: {error}")),
    }
}

fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| format!("there is no private key in PEM: {error}"))
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}
