//! The connections that a server accepts: how many, from whom, and how fast they must begin.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{self, Sleep},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::tls::ServerTls;

/// How long a connection may take for its handshake, and then to say its first word.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);

/// How long nothing is accepted after the system had no connection to give.
const PAUSE: Duration = Duration::from_millis(100);

/// Which connections are accepted.
#[derive(Clone, Debug)]
pub struct Door {
    /// `None` for connections in the clear.
    pub tls: Option<ServerTls>,
    /// Open at once; others wait to be accepted.
    pub max_connections: usize,
    /// Of these, from one IP address; others are closed at once.
    pub max_connections_per_peer: usize,
}

impl Default for Door {
    fn default() -> Self {
        Self { tls: None, max_connections: 1024, max_connections_per_peer: 1024 }
    }
}

/// An accepted connection.
pub struct Connection {
    stream: Stream,
    peer: Peer,
    /// Runs until the first byte has come.
    silence: Option<Pin<Box<Sleep>>>,
    _places: (OwnedSemaphorePermit, Share),
}

enum Stream {
    Clear(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

/// Who is at the other end of a connection; a request's extensions hold it.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
}

/// Accepts connections until the receiver is dropped; then nobody listens any more.
pub fn accept(listener: TcpListener, door: Door) -> mpsc::Receiver<Connection> {
    let (accepted, connections) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            () = accept_all(&listener, &door, &accepted) => {}
            () = accepted.closed() => {}
        }
    });
    connections
}

async fn accept_all(listener: &TcpListener, door: &Door, accepted: &mpsc::Sender<Connection>) {
    let (places, shares) = (Arc::new(Semaphore::new(door.max_connections)), Shares::default());
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection is not accepted");
                time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(share) = shares.take(address.ip(), door.max_connections_per_peer) else {
            tracing::debug!(%address, "a connection over max_connections_per_peer is closed");
            continue;
        };
        // Without it small messages wait for each other; a connection that takes no options still works.
        let _ = stream.set_nodelay(true);
        let (tls, accepted) = (door.tls.clone(), accepted.clone());
        tokio::spawn(async move {
            let stream = match tls {
                None => Ok(Stream::Clear(stream)),
                Some(tls) => match time::timeout(BEGIN_LIMIT, tls.accept(stream)).await {
                    Ok(stream) => stream.map(|stream| Stream::Encrypted(Box::new(stream))),
                    Err(_) => Err(io::ErrorKind::TimedOut.into()),
                },
            };
            match stream {
                Ok(stream) => {
                    let silence = Some(Box::pin(time::sleep(BEGIN_LIMIT)));
                    let connection = Connection { stream, peer: Peer { address }, silence, _places: (place, share) };
                    // Nobody to take it: the server has stopped.
                    let _ = accepted.send(connection).await;
                }
                Err(error) => tracing::debug!(%address, %error, "a TLS handshake failed"),
            }
        });
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match &mut self.stream {
            Stream::Clear(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Encrypted(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        };
        if read.is_ready() {
            self.silence = None;
        } else if let Some(silence) = &mut self.silence {
            ready!(silence.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Clear(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Encrypted(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Clear(stream) => Pin::new(stream).poll_flush(context),
            Stream::Encrypted(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Clear(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Encrypted(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer.address).finish_non_exhaustive()
    }
}

/// How much of something each peer has.
#[derive(Clone, Debug, Default)]
pub struct Shares(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of what a peer has; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    shares: Shares,
    peer: IpAddr,
}

impl Shares {
    /// One more for `peer`, unless it has `most` already.
    pub fn take(&self, peer: IpAddr, most: usize) -> Option<Share> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        let granted = *count < most;
        if granted {
            *count += 1;
        } else if *count == 0 {
            counts.remove(&peer);
        }
        drop(counts);
        granted.then(|| Share { shares: self.clone(), peer })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_gets_its_share_and_gives_it_back() {
        let (shares, one, other) = (Shares::default(), IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = shares.take(one, 2).expect("a share");
        let second = shares.take(one, 2).expect("a share");
        assert!(shares.take(one, 2).is_none());
        let _other = shares.take(other, 2).expect("another peer's share");
        drop(first);
        let third = shares.take(one, 2).expect("what was given back");
        assert!(shares.take(one, 2).is_none());
        drop((second, third));
        assert_eq!(shares.0.lock().expect("no panic").len(), 1, "who has nothing is not kept");
    }
}
