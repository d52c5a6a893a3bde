//! What ends a request early, and the service.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use coordinator::{generate_paced, serve::Config};
use outrider_tests::{
    cluster::{Embedded, LONG, Node, PATIENT, alone, eventually, pair, request, run, sampled, within},
    http::{self, CONFIG, Serving},
    processes::Process,
};
use serde_json::{Value, json};
use telemetry::Tracer;
use tokio::sync::Semaphore;

use super::{COMPLETIONS, body, slow_target, with};

/// Streamed and not: the target's only session is free again at once.
#[tokio::test]
async fn a_client_that_goes_away_frees_its_session() {
    let target = slow_target(20, 1);
    let node = Node::target(target.clone());
    let pair = pair(None, &node).await;
    let serving = Serving::start(&pair, Config { max_concurrent: 1, ..CONFIG }).await;
    for stream in [true, false] {
        let long = with(body(0.8, 1, 2000, 0), json!({ "stream": stream }));
        if stream {
            let mut answer = serving.post(COMPLETIONS, &long).await;
            assert!(answer.part().await.is_some());
            assert_eq!(target.open_sessions(), 1);
            drop(answer);
        } else {
            let waiting = serving.post(COMPLETIONS, &long);
            let opened = eventually("the session is open", || target.open_sessions() == 1);
            tokio::select! {
                _ = waiting => panic!("2000 tokens take longer"),
                () = opened => {}
            }
        }
        let begun = Instant::now();
        eventually("the session is freed", || target.open_sessions() == 0).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "2000 tokens take 40 s");
        let mut short = serving.post(COMPLETIONS, &body(0.8, 2, 4, 0)).await;
        while short.status == 429 {
            assert!(begun.elapsed() < LONG);
            short = serving.post(COMPLETIONS, &body(0.8, 2, 4, 0)).await;
        }
        assert_eq!(short.status, 200);
        eventually("the session is freed", || target.open_sessions() == 0).await;
    }
}

/// The cycle waits for a reader that does not take what it has, and then goes on as if nothing were.
#[tokio::test]
async fn a_run_goes_at_the_pace_of_its_reader() {
    let embedded = Embedded::start().await;
    let asked = request("ROMEO:", sampled(0.8, 5), 200, 4);
    let (room, offered) = (Arc::new(Semaphore::new(3)), Arc::new(AtomicUsize::new(0)));
    let emit = |_| {
        let room = room.clone();
        offered.fetch_add(1, Ordering::Relaxed);
        async move { room.acquire().await.expect("it is not closed").forget() }
    };
    let (tracer, cancel) = (Tracer::off(), std::future::pending());
    let running = generate_paced(&embedded.pair, asked.clone(), PATIENT, &tracer, emit, cancel);
    let reader = async {
        eventually("three are taken", || offered.load(Ordering::Relaxed) == 4).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(offered.load(Ordering::Relaxed), 4, "the fourth is not taken yet");
        room.add_permits(1000);
    };
    let (paced, ()) = within(LONG, async { tokio::join!(running, reader) }).await;
    assert_eq!(paced.expect("a run").text, run(&embedded.pair, &alone(&asked)).await.text);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_ended() {
    let target = slow_target(20, 8);
    let node = Node::target(target.clone());
    let pair = pair(None, &node).await;
    let serving = Serving::start(&pair, Config { request_timeout: Duration::from_millis(300), ..CONFIG }).await;
    let answer = serving.post(COMPLETIONS, &body(0.8, 1, 2000, 0)).await;
    assert_eq!(answer.status, 504);
    eventually("the session is freed", || target.open_sessions() == 0).await;
}

/// What runs when the grace period ends is told so.
#[tokio::test]
async fn the_grace_period_ends_what_is_left() {
    let target = slow_target(20, 8);
    let node = Node::target(target.clone());
    let pair = pair(None, &node).await;
    let serving = Serving::start(&pair, Config { grace: Duration::from_millis(300), ..CONFIG }).await;
    let mut stream = serving.post(COMPLETIONS, &with(body(0.8, 1, 2000, 0), json!({ "stream": true }))).await;
    assert!(stream.part().await.is_some());
    let begun = Instant::now();
    serving.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "2000 tokens take 40 s");
    assert!(stream.text().await.contains("the service is stopping"));
    eventually("the session is freed", || target.open_sessions() == 0).await;
}

/// SIGTERM lets a request end, whole, with status 0; Ctrl-C does as well, with status 130. No log holds the text.
#[tokio::test]
async fn a_process_that_is_told_to_stop_finishes_what_it_has_begun() {
    for (term, code) in [(true, 0), (false, 130)] {
        let process = Process::serve(&["--grace", "60s"]).await.expect("a service");
        let address = process.address().to_owned();
        let asked = with(body(0.8, 7, 1500, 4), json!({ "stream": true }));
        let mut answer = http::request(&address, "POST", COMPLETIONS, asked.to_string()).await;
        let first = answer.part().await.expect("a piece");
        let ended = async {
            match term {
                true => process.terminate().await,
                false => process.interrupt().await,
            }
        };
        let (ended, rest) = tokio::join!(ended, answer.text());
        let (status, log) = ended.expect("an end");
        assert_eq!(status.code(), Some(code), "{log}");
        let text = first + &rest;
        let events = text.strip_suffix("data: [DONE]\n\n").expect("it is whole").split_terminator("\n\n");
        let events: Vec<Value> =
            events.map(|event| serde_json::from_str(event.trim_start_matches("data: ")).expect("JSON")).collect();
        assert_eq!(super::joined(&events, 0).len(), 1500);
        assert!(log.contains("stopping") && !log.contains("ROMEO"), "{log}");
    }
}
