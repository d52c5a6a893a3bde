//! Services that do not fit together or allow too little, and one that must not be contacted.

use proto::v1::{DescribeResponse, Role};

use crate::{
    NOBODY, fake, outrider,
    process::{Ended, command, end},
};

/// What a test changes in a description.
type Change = fn(&mut DescribeResponse);

fn generate(draft: &str, target: &str, flags: &[&str]) -> Ended {
    outrider(&[&["generate", "ROMEO:", "--draft", draft, "--target", target], flags].concat())
}

/// Changes the description of one of two services that would fit.
fn pair(draft: Change, target: Change) -> (String, String) {
    (fake::service(Role::Draft, draft), fake::service(Role::Target, target))
}

#[test]
fn services_that_do_not_fit_together_are_refused_with_both_sides_named() {
    let cases: [(Change, [&str; 3]); 3] = [
        (
            |draft| (draft.tokenizer_name, draft.tokenizer_fingerprint) = ("qwen2".to_owned(), "0badc0de".to_owned()),
            ["tokenizer", "qwen2 0badc0de", "58376807"],
        ),
        (|draft| draft.tokenizer_size = 127, ["tokenizer size", "127", "128"]),
        (|draft| draft.protocol_version = 2, ["protocol version", "2", "1"]),
    ];
    for (change, words) in cases {
        let (draft, target) = pair(change, |_| ());
        let words = [&[draft.as_str(), &target, "do not fit together"], &words[..]].concat();
        generate(&draft, &target, &[]).failed(1, &words);
    }
}

#[test]
fn services_that_this_coordinator_does_not_know_are_refused() {
    let (draft, target) = pair(|_| (), |_| ());
    generate(&target, &draft, &[]).failed(1, &["role", "ROLE_TARGET", "allowed: ROLE_DRAFT"]);
    let target = fake::service(Role::Target, |target| target.protocol_version = 9);
    outrider(&["generate", "ROMEO:", "--ar", "--target", &target])
        .failed(1, &[&target, "protocol version", "9", "allowed: 1"]);
}

/// A service that describes a tokenizer and hands out another one.
#[test]
fn a_tokenizer_that_is_not_the_described_one_is_refused() {
    let foreign: Change = |service| service.tokenizer_fingerprint = "0badc0de".to_owned();
    let (draft, target) = pair(foreign, foreign);
    generate(&draft, &target, &[]).failed(1, &["tokenizer", "target", &target, "58376807", "described", "0badc0de"]);
    let short: Change = |service| service.tokenizer_size = 100;
    let (draft, target) = pair(short, short);
    generate(&draft, &target, &[]).failed(1, &["tokenizer", "target", "128 ids", "described: 100"]);
}

#[test]
fn a_request_over_a_services_limit_names_the_field_the_limit_and_the_service() {
    let (draft, target) = pair(
        |draft| draft.limits.as_mut().expect("limits").max_gamma = 2,
        |target| {
            let limits = target.limits.as_mut().expect("limits");
            (limits.max_prompt_tokens, limits.max_output_tokens, limits.max_gamma) = (7, 100, 8);
        },
    );
    let few = ["--max-tokens", "10"];
    generate(&draft, &target, &[]).failed(1, &["max_tokens is 256", "1 to 100", "target", &target]);
    generate(&draft, &target, &[&few[..], &["--gamma", "4"]].concat())
        .failed(1, &["gamma is 4", "0 to 2", "draft", &draft]);
    generate(&draft, &target, &["--gamma", "9", "--max-tokens", "10"])
        .failed(1, &["gamma is 9", "0 to 8", "target", &target]);
    let long = ["generate", "ROMEO, O ROMEO", "--draft", &draft, "--target", &target, "--max-tokens", "10"];
    outrider(&long).failed(1, &["prompt", "14 tokens", "1 to 7", &target]);
}

/// AR needs no draft: one that is given is not even asked who it is.
#[test]
fn decoding_with_the_target_alone_contacts_no_draft() {
    let (_, target) = fake::embedded();
    for flags in [&["--ar"][..], &["--gamma", "0"]] {
        let few = [flags, &["--max-tokens", "8", "--json"]].concat();
        let ended = generate(NOBODY, target, &few).succeeded();
        assert_eq!(ended.stderr, "", "nothing was tried that failed");
        assert!(ended.stdout.contains(r#""phase":"decode","#), "{ended:?}");
    }
    // Not from the environment either, and the draft's address may be left out.
    let mut from_environment = command(crate::BINARY);
    from_environment.args(["generate", "ROMEO:", "--ar", "--max-tokens", "8", "--target", target]);
    assert_eq!(end(from_environment.env("OUTRIDER_DRAFT", NOBODY), b"").succeeded().stdout.len(), 9);
    assert_eq!(end(from_environment.env_remove("OUTRIDER_DRAFT"), b"").succeeded().stdout.len(), 9);
}
