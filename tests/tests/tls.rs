//! Encrypted connections: who is believed, who gets in, and files that change.

use std::{fs, future, path::Path, time::Duration};

use anyhow::{Context, Result};
use coordinator::{
    Access, Pair,
    serve::{Doors, Keys},
};
use hyper_util::rt::TokioIo;
use model::EmbeddedModel;
use outrider_tests::{
    authority::Authority,
    cluster::{Embedded, LONG, Node, Setup, Side, alone, request, run, sampled, within, worker},
    http,
    http::CONFIG,
    processes::{Outcome, Outrider, Process},
};
use proto::v1::{GenerateRequest, generate_request::Input, generation_service_client::GenerationServiceClient};
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::{Value, json};
use telemetry::{
    Tracer,
    connections::Door,
    server,
    tls::{ClientFiles, ClientTls, Protocol, ServerFiles, ServerTls},
};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Endpoint;

fn node(side: Side, tls: ServerTls) -> Node {
    let door = Door { tls: Some(tls), ..Door::default() };
    let setup = Setup { server: server::Config { door, ..server::Config::default() }, ..Setup::default() };
    let model = if side == Side::Draft { EmbeddedModel::Draft } else { EmbeddedModel::Target };
    Node::start(side, setup, future::ready(Ok(worker(model))))
}

fn https(node: &Node) -> String {
    format!("https://{}", node.address())
}

/// The same bytes as in the clear, by address and by name; whoever believes another authority, or speaks in the clear, gets
/// nothing.
#[tokio::test]
async fn encrypted_services_say_the_same() -> Result<()> {
    let authority = Authority::new()?;
    let (draft, target) = (
        node(Side::Draft, authority.server(Protocol::Http2, None)?),
        node(Side::Target, authority.server(Protocol::Http2, None)?),
    );
    let access = authority.believer(None)?;
    let asked = request("ROMEO:", sampled(0.8, 90), 200, 4);
    let clear = Embedded::start().await;
    let expected = run(&clear.pair, &alone(&asked)).await;
    let by_name = format!("https://localhost:{}", target.address().port());
    for url in [https(&target), by_name] {
        let pair = within(LONG, Pair::connect(Some(&https(&draft)), &url, &access)).await?;
        let ours = run(&pair, &asked).await;
        assert_eq!(ours.token_ids, expected.token_ids);
        assert!(ours.acceptance.accepted() > 0);
    }
    let stranger = Authority::new()?.believer(None)?;
    for (url, access) in [(https(&target), &stranger), (target.url(), &access)] {
        let refused = within(LONG, Pair::connect(None, &url, access)).await;
        assert!(matches!(refused, Err(coordinator::Error::Unreachable { .. })), "{url}: {refused:?}");
    }
    let unsaid = Pair::connect(None, &https(&target), &Access::default()).await.expect_err("no authority is believed");
    assert!(unsaid.to_string().contains("--ca"), "{unsaid}");
    Ok(())
}

/// Where certificates of clients are asked for, only those of the right authority get in.
#[tokio::test]
async fn a_client_without_the_right_certificate_gets_nothing() -> Result<()> {
    let (authority, other) = (Authority::new()?, Authority::new()?);
    let target = node(Side::Target, authority.server(Protocol::Http2, Some(authority.ca()))?);
    let known = authority.certify("client", ExtendedKeyUsagePurpose::ClientAuth)?;
    let unknown = other.certify("client", ExtendedKeyUsagePurpose::ClientAuth)?;
    for (identity, gets_in) in [(None, false), (Some(unknown), false), (Some(known), true)] {
        let access = authority.believer(identity)?;
        let pair = within(LONG, Pair::connect(None, &https(&target), &access)).await;
        assert_eq!(pair.is_ok(), gets_in, "{pair:?}");
    }
    Ok(())
}

/// New files count for new connections; files that cannot be used leave those that were.
#[tokio::test]
async fn files_that_change_are_read_again() -> Result<()> {
    let (old, new) = (Authority::new()?, Authority::new()?);
    let (certificate, key) = old.certify("server", ExtendedKeyUsagePurpose::ServerAuth)?;
    let files = ServerFiles { certificate: certificate.clone(), key: key.clone(), client_ca: None };
    let target = node(Side::Target, ServerTls::new(files, Protocol::Http2)?);
    let connect = async |authority: &Authority| {
        let access = authority.believer(None)?;
        anyhow::Ok(within(LONG, Pair::connect(None, &https(&target), &access)).await.is_ok())
    };
    assert!(connect(&old).await? && !connect(&new).await?);
    fs::write(&certificate, "no certificate")?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(connect(&old).await?, "what cannot be used does not count");
    new.certify_at(&certificate, &key, ExtendedKeyUsagePurpose::ServerAuth)?;
    within(LONG, async {
        while !connect(&new).await? {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    })
    .await?;
    assert!(!connect(&old).await?);

    // A client's authorities too.
    let believed = new.folder().join("believed.pem");
    fs::write(&believed, old.pem())?;
    let tls = ClientTls::new(ClientFiles { ca: Some(believed.clone()), identity: None })?;
    let access = Access { tls: Some(tls), ..Access::default() };
    assert!(within(LONG, Pair::connect(None, &https(&target), &access)).await.is_err());
    fs::write(&believed, [old.pem(), new.pem()].concat())?;
    within(LONG, async {
        while Pair::connect(None, &https(&target), &access).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    Ok(())
}

async fn post(address: &str, ca: &Path, body: &Value) -> Result<(u16, Value)> {
    let (status, text) = http::encrypted(address, ca, "POST", "/v1/completions", body.to_string()).await?;
    Ok((status, serde_json::from_str(&text)?))
}

/// Both of the coordinator's doors.
#[tokio::test]
async fn the_public_apis_are_encrypted_too() -> Result<()> {
    let authority = Authority::new()?;
    let embedded = Embedded::start().await;
    let (http, grpc) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let (http_address, grpc_port) = (http.local_addr()?.to_string(), grpc.local_addr()?.port());
    let tls = Some((authority.server(Protocol::Http1, None)?, authority.server(Protocol::Http2, None)?));
    let doors = Doors { http, grpc: Some(grpc), tls };
    let pair = embedded.pair.clone();
    let load = async { Ok::<_, std::io::Error>((pair, Tracer::off())) };
    let served = tokio::spawn(coordinator::serve::serve(CONFIG, Keys::default(), doors, load, future::pending()));
    let body = json!({ "prompt": "ROMEO:", "seed": 7, "temperature": 0.8, "max_tokens": 60 });
    let (status, answer) = post(&http_address, &authority.ca(), &body).await?;
    let expected = run(&embedded.pair, &request("ROMEO:", sampled(0.8, 7), 60, 0)).await.text;
    assert_eq!((status, &answer["choices"][0]["text"]), (200, &json!(expected)));
    assert!(post(&http_address, &Authority::new()?.ca(), &body).await.is_err(), "another authority");

    let tls = authority.believer(None)?.tls.context("an authority")?;
    let connect = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(("127.0.0.1", grpc_port)).await?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect("localhost", stream).await?))
        }
    });
    let channel = Endpoint::from_static("https://localhost").connect_with_connector(connect).await?;
    let input = Some(Input::Prompt("ROMEO:".to_owned()));
    let asked = GenerateRequest { input, seed: Some(7), max_tokens: Some(8), ..GenerateRequest::default() };
    let mut answers = GenerationServiceClient::new(channel).generate(asked).await?.into_inner();
    assert!(answers.message().await?.is_some());
    served.abort();
    Ok(())
}

/// The flags of all three, with certificates for everybody, as processes.
#[tokio::test]
async fn the_flags_encrypt_everything() -> Result<()> {
    let authority = Authority::new()?;
    let text = |path: &Path| path.to_str().context("UTF-8").map(str::to_owned);
    let ca = text(&authority.ca())?;
    let (cert, key) = authority.certify("server", ExtendedKeyUsagePurpose::ServerAuth)?;
    let (client_cert, client_key) = authority.certify("client", ExtendedKeyUsagePurpose::ClientAuth)?;
    let [cert, key, client_cert, client_key] = [cert, key, client_cert, client_key].map(|path| text(&path));
    let (cert, key, client_cert, client_key) = (cert?, key?, client_cert?, client_key?);
    let server = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca];
    let client = ["--ca", &ca, "--client-cert", &client_cert, "--client-key", &client_key];
    let at = ["--listen", "127.0.0.1:0"];
    let draft = Process::launch("draft-svc", &[&at[..], &server].concat()).await?;
    let target = Process::launch("target-svc", &[&at[..], &server].concat()).await?;
    let [draft_url, target_url] = [&draft, &target].map(|process| format!("https://{}", process.address()));
    for url in [&draft_url, &target_url] {
        within(LONG, async {
            while Outrider::start(&[&["describe", url, "--json"], &client[..]].concat())?.finish().await?.code
                != Some(0)
            {}
            anyhow::Ok(())
        })
        .await?;
    }
    let generate =
        ["generate", "ROMEO:", "--json", "--max-tokens", "100", "--draft", &draft_url, "--target", &target_url];
    let text_of = |outcome: &Outcome| -> Result<Value> {
        anyhow::ensure!(outcome.code == Some(0), "{}", outcome.stderr);
        Ok(serde_json::from_str::<Value>(&outcome.stdout)?["text"].clone())
    };
    let ours = Outrider::start(&[&generate[..], &client].concat())?.finish().await?;
    let embedded = Outrider::start(&["generate", "ROMEO:", "--json", "--max-tokens", "100", "--ar"])?.finish().await?;
    assert_eq!(text_of(&ours)?, text_of(&embedded)?);
    let without = Outrider::start(&[&generate[..], &["--ca", &ca]].concat())?.finish().await?;
    assert_eq!(without.code, Some(1), "{}", without.stderr);

    let missing = Outrider::start(&["serve", "--http", "127.0.0.1:0", "--tls-cert", "nowhere.pem", "--tls-key", &key])?;
    let missing = missing.finish().await?;
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.contains("nowhere.pem"), "{}", missing.stderr);
    let serve = Process::launch(
        "outrider",
        &[
            &["serve", "--http", "127.0.0.1:0"],
            &server[..4],
            &client,
            &["--draft", &draft_url, "--target", &target_url],
        ]
        .concat(),
    )
    .await?;
    let body = json!({ "prompt": "ROMEO:", "seed": 0, "temperature": 0.8, "max_tokens": 100 });
    let (status, answer) = within(LONG, async {
        loop {
            match post(serve.address(), &authority.ca(), &body).await {
                Ok((503, _)) => tokio::time::sleep(Duration::from_millis(20)).await,
                answer => break answer,
            }
        }
    })
    .await?;
    assert_eq!((status, &answer["choices"][0]["text"]), (200, &text_of(&ours)?));
    for process in [serve, draft, target] {
        let (status, log) = process.terminate().await?;
        assert_eq!(status.code(), Some(0), "{log}");
    }
    Ok(())
}
