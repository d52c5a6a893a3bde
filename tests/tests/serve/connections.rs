//! Connections that are slow, idle or too many.

use std::time::{Duration, Instant};

use coordinator::serve::Config;
use outrider_tests::{
    cluster::{Embedded, LONG, within},
    http::{CONFIG, Serving, get},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const HEADER_TIMEOUT: Duration = Duration::from_millis(500);

/// Reads until the other side closes; what came, and how long that took.
async fn closed(stream: &mut TcpStream) -> (String, Duration) {
    let begun = Instant::now();
    let mut text = Vec::new();
    within(LONG, stream.read_to_end(&mut text)).await.expect("an end");
    (String::from_utf8_lossy(&text).into_owned(), begun.elapsed())
}

async fn slow(max_connections: usize) -> (Embedded, Serving) {
    let embedded = Embedded::start().await;
    let serving =
        Serving::start(&embedded.pair, Config { header_timeout: HEADER_TIMEOUT, max_connections, ..CONFIG }).await;
    (embedded, serving)
}

/// Half a head, byte by byte, and nothing at all.
#[tokio::test]
async fn a_head_that_does_not_come_closes_the_connection() {
    let (_embedded, serving) = slow(8).await;
    for head in ["", "GET /healthz HTTP/1.1\r\nhost: here\r\n"] {
        let mut stream = TcpStream::connect(&serving.address).await.expect("it listens");
        stream.write_all(head.as_bytes()).await.expect("it reads");
        let (answer, took) = closed(&mut stream).await;
        assert!(!answer.contains("200"), "{answer}");
        assert!(took < 10 * HEADER_TIMEOUT, "{took:?}");
    }
    let mut stream = TcpStream::connect(&serving.address).await.expect("it listens");
    let begun = Instant::now();
    let dripping = async {
        for byte in "GET /healthz HTTP/1.1\r\nx: ".bytes().chain(std::iter::repeat(b'x')) {
            if stream.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(LONG, dripping).await;
    assert!(begun.elapsed() >= HEADER_TIMEOUT);
}

/// More connections than are allowed wait; they are served when others end.
#[tokio::test]
async fn connections_over_the_limit_wait() {
    let (_embedded, serving) = slow(2).await;
    let silent = [TcpStream::connect(&serving.address).await, TcpStream::connect(&serving.address).await];
    let begun = Instant::now();
    assert_eq!(within(LONG, get(&serving.address, "/healthz")).await.status, 200);
    assert!(begun.elapsed() >= HEADER_TIMEOUT / 2, "it waited for a silent one to be closed: {:?}", begun.elapsed());
    drop(silent);
}

/// An idle connection does not hold up the stop.
#[tokio::test]
async fn idle_connections_are_closed_at_the_stop() {
    let embedded = Embedded::start().await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    let mut idle = TcpStream::connect(&serving.address).await.expect("it listens");
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n").await.expect("it reads");
    let mut some = [0; 12];
    idle.read_exact(&mut some).await.expect("an answer");
    assert_eq!(&some, b"HTTP/1.1 200");
    let begun = Instant::now();
    serving.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    closed(&mut idle).await;
}
