//! Models that bring tokenizers of their own.

use coordinator::{Access, Error, Pair, Request, StopReason};
use model::{Description, EmbeddedModel, Limits, Worker};
use outrider_tests::cluster::{
    Embedded, Node, alone, assert_same, decoders, model, request, run, sampled, spawn, talk::channel,
};
use proto::v1::{TokenizerRequest, model_service_client::ModelServiceClient};
use speculative::Acceptance;
use tokenizer::{Tokenizer, Vocabulary};

fn described(model: EmbeddedModel, change: impl FnOnce(&mut Description)) -> Worker {
    spawn(decoders::plain(outrider_tests::cluster::model(model)).described(change), Limits::default())
}

async fn with_tokenizer(tokenizer: &Tokenizer) -> Embedded {
    let node = |model| described(model, |description| description.tokenizer = tokenizer.clone());
    Embedded::with(Node::draft(node(EmbeddedModel::Draft)), Node::target(node(EmbeddedModel::Target))).await
}

/// The end token is the last token and no text, wherever in a window it falls; statistics count whole verdicts.
#[tokio::test]
async fn an_end_token_ends_both_at_the_same_token() {
    let plain = Embedded::start().await;
    let asked = request("ROMEO:", sampled(0.8, 11), 200, 0);
    let whole = run(&plain.pair, &asked).await.text;
    for end in [',', 'e', whole.chars().next().expect("a text")] {
        let embedded = with_tokenizer(&decoders::ending_at(end)).await;
        assert_eq!(embedded.pair.tokenizer, decoders::ending_at(end));
        let ends = whole.find(end).expect("it is in the text");
        let alone = run(&embedded.pair, &alone(&asked)).await;
        assert_eq!(alone.text, whole[..ends]);
        assert_eq!((alone.token_ids.len(), alone.token_ids.last()), (ends + 1, Some(&end.into())));
        assert_eq!((alone.stop_reason, alone.stop_reason.as_str()), (StopReason::Eos, "eos"));
        for gamma in [1, 3, 8, 16] {
            let speculative = run(&embedded.pair, &Request { gamma: gamma.into(), ..asked.clone() }).await;
            assert_same(&speculative, &alone, &format!("γ = {gamma}, end at {ends}"));
            let mut counted = Acceptance::new();
            speculative.cycles.iter().for_each(|cycle| counted.record(cycle.gamma, cycle.accepted));
            assert_eq!(speculative.acceptance.accepted(), counted.accepted(), "whole verdicts");
        }
    }
}

/// What counts is what the ids below the tokenizer's size stand for.
#[tokio::test]
async fn differently_padded_vocabularies_pair() {
    let tokenizer = decoders::ending_at('.');
    let mut padded = Vocabulary { model: "gpt2".to_owned(), ..Vocabulary::default() };
    padded.tokens = (0..128).map(|id| format!("<{id}>")).chain((128..160).map(|id| format!("[PAD{id}]"))).collect();
    padded.token_types = Some([vec![1; 128], vec![5; 32]].concat());
    let padded = Tokenizer::from_gguf(padded).unwrap();
    assert_eq!(padded, decoders::another_tokenizer());
    for (draft, target) in [(padded, decoders::another_tokenizer()), (tokenizer.clone(), tokenizer)] {
        let draft = Node::draft(described(EmbeddedModel::Draft, |model| {
            (model.tokenizer, model.vocab_size) = (draft, 160);
        }));
        let target = Node::target(described(EmbeddedModel::Target, |model| model.tokenizer = target));
        let embedded = Embedded::with(draft, target).await;
        let speculative = run(&embedded.pair, &request("ROMEO:", sampled(0.8, 3), 24, 4)).await;
        assert!(speculative.acceptance.proposed() > 0);
    }
}

#[tokio::test]
async fn different_tokenizers_are_refused_with_both_named() {
    let draft = Node::draft(described(EmbeddedModel::Draft, |draft| draft.tokenizer = decoders::ending_at('.')));
    let target = Node::target(spawn(model(EmbeddedModel::Target), Limits::default()));
    let refusal = Pair::connect(Some(&draft.url()), &target.url(), &Access::default()).await.unwrap_err();
    assert!(matches!(refusal, Error::Mismatch { what: "tokenizer", .. }), "{refusal}");
    let message = refusal.to_string();
    for side in ["gpt-2 ", "ascii 5837680", &draft.url(), &target.url()] {
        assert!(message.contains(side), "{message} lacks {side}");
    }
}

/// A vocabulary of real size does not fit into one message.
#[tokio::test]
async fn a_large_tokenizer_comes_in_parts() {
    let tokens = (0..100_000).map(|id| format!("<a token with the number {id}>")).collect();
    let large = Vocabulary { model: "gpt2".to_owned(), tokens, ..Vocabulary::default() };
    let large = Tokenizer::from_gguf(large).unwrap();
    let embedded = with_tokenizer(&large).await;
    assert_eq!(embedded.pair.tokenizer, large);

    let mut client = ModelServiceClient::new(channel(&embedded.target));
    let mut answers = client.tokenizer(TokenizerRequest {}).await.unwrap().into_inner();
    let mut parts = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        parts.push(answer.part);
    }
    assert!(parts.len() > 4 && parts.iter().all(|part| part.len() <= 1 << 20), "{} parts", parts.len());
    assert_eq!(parts.concat(), *large.to_bytes());
}
