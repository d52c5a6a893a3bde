//! A TCP proxy that delays a link, cuts it and restores it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{self, Instant},
};

/// A link to `upstream` in this runtime; it ends when this is dropped.
///
/// Each direction holds what it carries for half of the delay. Every chunk gets its time when it comes in, so chunks
/// neither overtake nor wait for each other: the delay limits no throughput.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    /// What one direction adds, in nanoseconds.
    one_way: Arc<AtomicU64>,
    cut: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A link to `upstream` whose round trip takes `delay` longer.
    ///
    /// # Errors
    /// No port to listen on.
    pub async fn start(upstream: SocketAddr, delay: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (cut, is_cut) = watch::channel(false);
        let one_way = Arc::new(AtomicU64::new(half(delay)));
        let accepting = tokio::spawn(accept(listener, upstream, one_way.clone(), is_cut));
        Ok(Self { address, one_way, cut, accepting })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where gRPC clients connect.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What a round trip takes longer from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.one_way.store(half(delay), Relaxed);
    }

    /// Closes all connections, and each new one as soon as it is made.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Lets connections through again.
    pub fn restore(&self) {
        self.cut.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.accepting.abort();
    }
}

fn half(delay: Duration) -> u64 {
    (delay / 2).as_nanos() as u64
}

async fn accept(listener: TcpListener, upstream: SocketAddr, one_way: Arc<AtomicU64>, is_cut: watch::Receiver<bool>) {
    while let Ok((client, _)) = listener.accept().await {
        if *is_cut.borrow() {
            continue;
        }
        let (one_way, mut is_cut) = (one_way.clone(), is_cut.clone());
        tokio::spawn(async move {
            tokio::select! {
                // Either side that goes away ends the connection; there is nobody to tell why.
                _ = relay(client, upstream, &one_way) => {}
                _ = is_cut.wait_for(|cut| *cut) => {}
            }
        });
    }
}

async fn relay(client: TcpStream, upstream: SocketAddr, one_way: &AtomicU64) -> io::Result<()> {
    let server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(carry(from_client, to_server, one_way), carry(from_server, to_client, one_way))?;
    Ok(())
}

/// One direction, until its sender has no more to say.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, one_way: &AtomicU64) -> io::Result<()> {
    // Unbounded: a queue that fills up would hold the sender back, and a link's delay does not.
    let (queue, mut queued) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let take_in = async move {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = from.read(&mut buffer).await?;
            let due = Instant::now() + Duration::from_nanos(one_way.load(Relaxed));
            if length == 0 || queue.send((due, buffer[..length].to_vec())).is_err() {
                return Ok::<_, io::Error>(());
            }
        }
    };
    let hand_out = async move {
        while let Some((due, chunk)) = queued.recv().await {
            // The runtime's timer ticks in milliseconds; without a delay nothing waits for a tick.
            if due > Instant::now() {
                time::sleep_until(due).await;
            }
            to.write_all(&chunk).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(take_in, hand_out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends back whatever it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        address
    }

    async fn round_trip(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let (mut read, mut write) = stream.split();
        let mut answer = vec![0; bytes.len()];
        tokio::try_join!(write.write_all(bytes), read.read_exact(&mut answer))?;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_round_trip_takes_the_delay_once_and_a_long_message_no_longer() {
        let delay = Duration::from_millis(60);
        let proxy = Proxy::start(echo().await, delay).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        round_trip(&mut stream, b"warm").await.unwrap();

        // 8 MiB are over a hundred chunks: a sleep for each would take seconds.
        let long: Vec<u8> = (0..8_u32 << 20).map(|i| (i % 251) as u8).collect();
        for message in [&b"short"[..], &long] {
            let begun = Instant::now();
            assert!(round_trip(&mut stream, message).await.unwrap() == message, "it came back changed");
            let took = begun.elapsed();
            assert!((delay..20 * delay).contains(&took), "{} bytes took {took:?}", message.len());
        }
        proxy.set_delay(Duration::ZERO);
        let begun = Instant::now();
        round_trip(&mut stream, b"now").await.unwrap();
        assert!(begun.elapsed() < delay, "the delay stayed");
    }

    #[tokio::test]
    async fn a_cut_closes_what_is_open_and_what_is_new_until_it_is_restored() {
        let proxy = Proxy::start(echo().await, Duration::ZERO).await.unwrap();
        let mut open = TcpStream::connect(proxy.address()).await.unwrap();
        round_trip(&mut open, b"open").await.unwrap();

        proxy.cut();
        assert!(round_trip(&mut open, b"gone").await.is_err());
        let refused = async {
            let mut new = TcpStream::connect(proxy.address()).await?;
            round_trip(&mut new, b"new").await
        };
        assert!(refused.await.is_err());

        proxy.restore();
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(round_trip(&mut again, b"back").await.unwrap(), b"back");
    }
}
