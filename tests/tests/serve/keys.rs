//! Who may use the API.

use std::{fs, path::Path, time::Duration};

use anyhow::Result;
use coordinator::serve::Keys;
use hyper::header::WWW_AUTHENTICATE;
use outrider_tests::{
    cluster::{Embedded, LONG, within},
    http::{CONFIG, Serving, get, request_with},
    processes::Outrider,
};
use telemetry::Tracer;

use super::{CHAT, COMPLETIONS, body};

async fn serving(embedded: &Embedded, keys: Keys) -> Serving {
    let pair = embedded.pair.clone();
    Serving::guarded(async { Ok((pair, Tracer::off())) }, CONFIG, keys).await
}

async fn status(serving: &Serving, path: &str, authorization: &str) -> u16 {
    let headers = [("authorization", authorization)];
    let method = if path.ends_with("completions") { "POST" } else { "GET" };
    request_with(&serving.address, method, path, &headers, body(0.8, 1, 4, 0).to_string()).await.status
}

#[tokio::test]
async fn without_a_key_that_is_known_nothing_of_the_api_is_answered() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("keys");
    fs::write(&file, "# of the two teams\nfirst-key\n\n  second-key  \n")?;
    let embedded = Embedded::start().await;
    let serving = serving(&embedded, Keys::new(Some("fixed-key"), Some(file))?).await;
    for key in ["first-key", "second-key", "fixed-key"] {
        for scheme in ["Bearer", "bearer", "BEARER"] {
            assert_eq!(status(&serving, COMPLETIONS, &format!("{scheme} {key}")).await, 200, "{scheme} {key}");
        }
        assert_eq!(status(&serving, "/v1/models", &format!("Bearer {key}")).await, 200);
    }
    for wrong in
        ["", "Bearer", "Bearer ", "first-key", "Basic first-key", "Bearer first-ke", "Bearer # of the two teams"]
    {
        for path in [COMPLETIONS, CHAT, "/v1/models", "/v1/models/embedded:target"] {
            assert_eq!(status(&serving, path, wrong).await, 401, "{wrong:?} at {path}");
        }
    }
    let refused = get(&serving.address, "/v1/models").await;
    assert_eq!((refused.status, &refused.headers[WWW_AUTHENTICATE]), (401, &"Bearer".parse()?));
    let error = refused.json().await["error"].clone();
    assert_eq!((&error["code"], &error["type"]), (&"invalid_api_key".into(), &"invalid_request_error".into()));
    for open in ["/healthz", "/readyz"] {
        assert_eq!(get(&serving.address, open).await.status, 200, "probes have no key");
    }
    Ok(())
}

/// New keys count and old ones do not; a file that cannot be used leaves those that were.
#[tokio::test]
async fn a_file_that_changes_is_read_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("keys");
    fs::write(&file, "old")?;
    let embedded = Embedded::start().await;
    let serving = serving(&embedded, Keys::new(None, Some(file.clone()))?).await;
    assert_eq!(status(&serving, "/v1/models", "Bearer old").await, 200);
    fs::write(&file, "a newer one")?;
    within(LONG, async {
        while status(&serving, "/v1/models", "Bearer old").await == 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(status(&serving, "/v1/models", "Bearer a newer one").await, 200);
    for broken in [Some("# no key in it\n"), None] {
        match broken {
            Some(text) => fs::write(&file, text)?,
            None => fs::remove_file(&file)?,
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(status(&serving, "/v1/models", "Bearer a newer one").await, 200, "{broken:?}");
        assert_eq!(status(&serving, "/v1/models", "Bearer old").await, 401, "{broken:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_file_without_keys_ends_the_service_at_its_start() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (missing, empty) = (folder.path().join("missing"), folder.path().join("empty"));
    fs::write(&empty, "\n# nothing\n")?;
    for (file, problem) in [(&missing, "No such file"), (&empty, "it holds no key")] {
        let file = Path::to_str(file).expect("UTF-8");
        let outcome = Outrider::start(&["serve", "--http", "127.0.0.1:0", "--api-key-file", file])?.finish().await?;
        assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(file) && outcome.stderr.contains(problem), "{}", outcome.stderr);
    }
    Ok(())
}
