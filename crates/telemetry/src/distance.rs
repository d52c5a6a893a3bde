//! A connection that is made longer than it is, so that one machine can study what distance does.
//!
//! What is written on either side waits for as long as the distance takes and comes out on the other, in order. The waiting
//! is real, by a timer of the system's, because the runtime's own ticks in milliseconds. It takes little from the models that
//! compute on the same processor: on Linux no thread is woken but the runtime's.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    sync::mpsc,
};

use timer::Timer;

mod timer;

/// Bytes that either end takes before its writer waits.
const BUFFER_BYTES: usize = 1 << 20;

/// The most that is taken from a connection at once.
const CHUNK_BYTES: usize = 64 << 10;

/// What a connection is made longer by. The default adds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    /// Added to each round trip, one half in each direction.
    pub rtt: Duration,
    /// How far a round trip may be from that: each direction varies by up to half of it, evenly, up or down.
    pub jitter: Duration,
    /// What each direction carries; `None` for what there is.
    pub bits_per_s: Option<f64>,
}

/// One direction.
struct Direction {
    distance: Distance,
    /// When the last byte has been put on the link.
    sent: Instant,
    /// When the last byte arrives: none overtakes another.
    arrived: Instant,
}

impl Distance {
    /// Whether it adds nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// `stream` from so far away; its handshake took a round trip.
    pub(crate) async fn add(self, stream: TcpStream) -> io::Result<DuplexStream> {
        tokio::time::sleep(self.rtt).await;
        let (near, far) = tokio::io::duplex(BUFFER_BYTES);
        let (from_near, to_near) = tokio::io::split(far);
        let (from_peer, to_peer) = stream.into_split();
        self.carry(from_near, to_peer)?;
        self.carry(from_peer, to_near)?;
        Ok(near)
    }

    /// Carries one direction until either end has gone.
    fn carry(
        self,
        mut from: impl AsyncRead + Send + Unpin + 'static,
        to: impl AsyncWrite + Send + Unpin + 'static,
    ) -> io::Result<()> {
        // Unbounded: a link holds what is under way, and the windows of HTTP/2 bound that.
        let (queue, queued) = mpsc::unbounded_channel();
        tokio::spawn(hold(queued, to, Timer::new()?));
        tokio::spawn(async move {
            let mut direction = Direction::new(self);
            let mut buffer = vec![0; CHUNK_BYTES];
            // An error ends it as the end does: whoever writes or reads on finds the connection closed.
            while let Ok(length @ 1..) = from.read(&mut buffer).await {
                let arrives = direction.arrival(Instant::now(), length);
                if queue.send((arrives, buffer[..length].to_vec())).is_err() {
                    return;
                }
            }
        });
        Ok(())
    }
}

impl Direction {
    fn new(distance: Distance) -> Self {
        let now = Instant::now();
        Self { distance, sent: now, arrived: now }
    }

    /// When `bytes` arrive that come to the link now.
    fn arrival(&mut self, now: Instant, bytes: usize) -> Instant {
        let Distance { rtt, jitter, bits_per_s } = self.distance;
        let serialised = bits_per_s.map_or(Duration::ZERO, |bits| Duration::from_secs_f64(8.0 * bytes as f64 / bits));
        self.sent = self.sent.max(now) + serialised;
        let varied = jitter.mul_f64(fastrand::f64());
        self.arrived = self.arrived.max(self.sent + (rtt + 2 * varied).saturating_sub(jitter) / 2);
        self.arrived
    }
}

/// Passes on each chunk when it is due, and the end after the last.
async fn hold(
    mut queued: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>,
    mut to: impl AsyncWrite + Unpin,
    timer: Timer,
) -> io::Result<()> {
    while let Some((due, chunk)) = queued.recv().await {
        timer.until(due).await?;
        to.write_all(&chunk).await?;
    }
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const MS: Duration = Duration::from_millis(1);

    fn arrivals(distance: Distance, chunks: &[(Duration, usize)]) -> Vec<Duration> {
        let mut direction = Direction::new(distance);
        let begun = direction.sent;
        chunks.iter().map(|&(at, bytes)| direction.arrival(begun + at, bytes) - begun).collect()
    }

    #[test]
    fn each_direction_takes_half_of_the_round_trip() {
        let distance = Distance { rtt: 20 * MS, ..Distance::default() };
        assert_eq!(arrivals(distance, &[(MS, 10), (MS, 1 << 20), (30 * MS, 1)]), [11 * MS, 11 * MS, 40 * MS]);
    }

    /// Bytes queue for the link, and what is on it arrives half a round trip later.
    #[test]
    fn a_thin_link_puts_one_byte_after_the_other() {
        // A byte a millisecond.
        let distance = Distance { rtt: 4 * MS, bits_per_s: Some(8000.0), ..Distance::default() };
        let arrivals = arrivals(distance, &[(MS, 10), (5 * MS, 10), (100 * MS, 1)]);
        for (arrival, expected) in arrivals.iter().zip([13 * MS, 23 * MS, 103 * MS]) {
            assert!(arrival.abs_diff(expected) < MS / 1000, "{arrival:?} is not {expected:?}");
        }
    }

    /// It spreads over the whole range, around the middle, and nothing overtakes.
    #[test]
    fn jitter_varies_round_trips_and_keeps_the_order() {
        let distance = Distance { rtt: 10 * MS, jitter: 4 * MS, ..Distance::default() };
        let apart: Vec<_> = (0..4000).map(|i| (i * 10 * MS, 1)).collect();
        let delays: Vec<f64> =
            arrivals(distance, &apart).iter().zip(&apart).map(|(end, (at, _))| (*end - *at).as_secs_f64()).collect();
        let (least, most) = delays.iter().fold((1.0_f64, 0.0_f64), |(a, b), &d| (a.min(d), b.max(d)));
        assert!((0.003..0.0032).contains(&least) && (0.0068..=0.007).contains(&most), "{least} to {most}");
        let mean = delays.iter().sum::<f64>() / delays.len() as f64;
        assert!((mean - 0.005).abs() < 1e-4, "{mean}");

        let at_once = arrivals(distance, &[(MS, 1); 100]);
        assert!(at_once.is_sorted());
    }

    #[tokio::test]
    async fn a_connection_waits_and_loses_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await
        });
        let rtt = 20 * MS;
        let distance = Distance { rtt, ..Distance::default() };
        let begun = Instant::now();
        let mut stream = distance.add(TcpStream::connect(address).await.unwrap()).await.unwrap();
        assert!(begun.elapsed() >= rtt, "the handshake");
        let message: Vec<u8> = (0..3_u32 << 20).map(|i| (i % 251) as u8).collect();
        let begun = Instant::now();
        let (mut read, mut write) = tokio::io::split(&mut stream);
        let mut answer = vec![0; message.len()];
        tokio::try_join!(write.write_all(&message), read.read_exact(&mut answer)).unwrap();
        assert!(begun.elapsed() >= rtt, "{:?}", begun.elapsed());
        assert!(answer == message, "it came back changed");
        // Its end reaches the peer, whose end comes back.
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }
}
