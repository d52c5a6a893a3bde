use super::*;

const CONTEXT: usize = 24;
const LIMITS: Limits = Limits {
    max_sessions: 1,
    max_sessions_per_peer: 1,
    idle_timeout: Duration::ZERO,
    max_prompt_tokens: 16,
    max_output_tokens: 12,
    max_gamma: 6,
    max_branches: 8,
    queue_depth: 1,
    admission_timeout: Duration::ZERO,
    kv_bytes: 1,
};

fn description() -> Description {
    let tokens = (0..100).map(|id| format!("<{id}>")).collect();
    let vocabulary = tokenizer::Vocabulary { model: "gpt2".to_owned(), tokens, ..tokenizer::Vocabulary::default() };
    Description {
        name: "made up".to_owned(),
        fingerprint: String::new(),
        arithmetic: String::new(),
        tokenizer: tokenizer::Tokenizer::from_gguf(vocabulary).unwrap(),
        vocab_size: 128,
        context: CONTEXT,
        dtype: "bf16",
        device: String::new(),
        parameters: 0,
        weight_bytes: 0,
        synthetic: false,
    }
}

fn open(tokens: &[TokenId], max_tokens: usize) -> Open {
    Open {
        tokens: tokens.to_vec(),
        prompt_len: tokens.len(),
        sampling: Sampling::greedy(),
        max_tokens,
        top_logprobs: None,
        branches: 0,
        coupling: Coupling::Gumbel,
    }
}

fn drafting(tokens: &[TokenId], max_tokens: usize) -> Drafting {
    Drafting::new(open(tokens, max_tokens), &description(), &LIMITS)
}

fn verifying(tokens: &[TokenId], first: TokenId, max_tokens: usize) -> Verifying {
    Verifying::new(open(tokens, max_tokens), first, &description(), &LIMITS)
}

fn propose(base_len: usize, tokens: &[TokenId], gamma: usize) -> Propose {
    Propose { base_len, tokens: tokens.to_vec(), gamma, verifying: None, branches: 0, min_confidence: 0.0 }
}

fn verify(base_len: usize, proposed: &[TokenId]) -> Verify {
    Verify { base_len, proposed: proposed.to_vec(), drafted: Vec::new() }
}

fn plan(keep: usize, tokens: &[TokenId]) -> Plan {
    Plan { keep, tokens: tokens.to_vec() }
}

/// The draft forwards what it has not seen: the first token, then two after full acceptance, one after a rejection.
#[test]
fn a_draft_forwards_no_accepted_token_twice() {
    let mut draft = drafting(&[1, 2, 3], 12);
    let first = propose(4, &[4], 3);
    assert_eq!(draft.plan(&first).unwrap(), plan(3, &[4]));
    draft.advance(first, &[5, 6, 7]);
    assert_eq!(draft.base_len(), 4);

    // Its cache now holds 1 2 3 4 5 6; 7 was chosen and not forwarded.
    for (tokens, expected) in [
        (&[5, 6, 7, 8][..], plan(6, &[7, 8])),
        (&[5, 6, 9], plan(6, &[9])),
        (&[5, 9], plan(5, &[9])),
        (&[9], plan(4, &[9])),
        (&[5], plan(4, &[5])),
        (&[], plan(3, &[4])),
        (&[9, 6, 7, 8], plan(4, &[9, 6, 7, 8])),
    ] {
        let message = propose(4 + tokens.len(), tokens, 2);
        assert_eq!(draft.plan(&message).unwrap(), expected, "{tokens:?}");
    }
}

#[test]
fn a_draft_that_chose_nothing_has_nothing_ahead() {
    let mut draft = drafting(&[1, 2], 12);
    let message = propose(3, &[3], 0);
    draft.advance(message, &[]);
    assert_eq!(draft.plan(&propose(4, &[4], 1)).unwrap(), plan(3, &[4]));
    let message = propose(4, &[4], 1);
    draft.advance(message, &[5]); // chosen, not forwarded
    assert_eq!(draft.plan(&propose(6, &[5, 6], 1)).unwrap(), plan(4, &[5, 6]));
}

/// The window is the last committed token and the proposed ones, after base_len - 1 positions.
#[test]
fn a_target_forwards_the_window() {
    let mut target = verifying(&[1, 2, 3], 4, 12);
    assert_eq!(target.base_len(), 4);
    assert_eq!(target.plan(&verify(4, &[])).unwrap(), plan(3, &[4]));
    assert_eq!(target.plan(&verify(4, &[5, 6])).unwrap(), plan(3, &[4, 5, 6]));
    target.commit(&[5, 9]);
    assert_eq!(target.plan(&verify(6, &[7])).unwrap(), plan(5, &[9, 7]));
}

#[track_caller]
fn refused(outcome: Result<Plan, Refusal>, reason: Reason, base_len: usize, detail: &str) {
    let refusal = outcome.unwrap_err();
    assert_eq!((refusal.reason, refusal.base_len, refusal.detail.as_str()), (reason, base_len, detail));
}

#[test]
fn a_draft_refuses_what_breaks_its_rules() {
    let draft = drafting(&[1, 2, 3], 12);
    let base_len = |sent| format!("base_len is {sent}, allowed: 4, the 3 committed tokens and the message's 1");
    refused(draft.plan(&propose(3, &[4], 2)), Reason::BaseLen, 3, &base_len(3));
    refused(draft.plan(&propose(5, &[4], 2)), Reason::BaseLen, 3, &base_len(5));
    refused(draft.plan(&propose(4, &[100], 2)), Reason::Token, 3, "tokens holds id 100, allowed: 0 to 99");
    refused(draft.plan(&propose(4, &[4], 7)), Reason::Gamma, 3, "gamma is 7, allowed: 0 to 6");
    let most = [4; 13];
    refused(draft.plan(&propose(16, &most, 1)), Reason::Output, 3, "base_len is 16, allowed: up to 15, as opened");
    assert!(draft.plan(&propose(15, &most[..12], 6)).is_ok());
    assert!(draft.plan(&propose(4, &[99], 6)).is_ok());
}

#[test]
fn a_target_refuses_what_breaks_its_rules() {
    let target = verifying(&[1, 2, 3], 4, 12);
    refused(target.plan(&verify(3, &[])), Reason::BaseLen, 4, "base_len is 3, allowed: 4");
    refused(target.plan(&verify(5, &[])), Reason::BaseLen, 4, "base_len is 5, allowed: 4");
    refused(target.plan(&verify(4, &[5, 100])), Reason::Token, 4, "proposed holds id 100, allowed: 0 to 99");
    refused(target.plan(&verify(4, &[5; 7])), Reason::Gamma, 4, "gamma is 7, allowed: 0 to 6");
    assert!(target.plan(&verify(4, &[99; 6])).is_ok());
}

/// γ ≤ tokens still wanted - 1, and nothing once all are there.
#[test]
fn a_target_gives_no_more_than_was_asked_for() {
    let mut target = verifying(&[1, 2, 3], 4, 4); // 7 in all, three still wanted
    let detail = "gamma is 3, allowed: 0 to 2, as 3 tokens are wanted";
    refused(target.plan(&verify(4, &[5; 3])), Reason::Output, 4, detail);
    assert!(target.plan(&verify(4, &[5; 2])).is_ok());
    target.commit(&[5, 5, 5]);
    let detail = "the session has all 7 tokens that it was opened for";
    refused(target.plan(&verify(7, &[])), Reason::Output, 7, detail);
}

/// γ ≤ context - base_len, on both sides; the window may fill the context.
#[test]
fn gamma_ends_with_the_context() {
    let prompt = [1; 16];
    let mut target = verifying(&prompt, 1, 12);
    target.commit(&[1; 3]);
    let detail = "gamma is 5, allowed: 0 to 4, what the context of 24 holds";
    refused(target.plan(&verify(20, &[1; 5])), Reason::Context, 20, detail);
    let detail = "gamma is 4, allowed: 0 to 3, as 4 tokens are wanted";
    refused(target.plan(&verify(20, &[1; 4])), Reason::Output, 20, detail);
    let window = target.plan(&verify(20, &[1; 3])).unwrap();
    assert!(window.keep + window.tokens.len() <= CONTEXT);

    let mut draft = drafting(&prompt, 12);
    draft.advance(propose(20, &[1; 4], 0), &[]);
    let detail = "gamma is 4, allowed: 0 to 3, what the context of 24 holds";
    refused(draft.plan(&propose(21, &[1], 4)), Reason::Context, 16 + 4, detail);
    assert!(draft.plan(&propose(21, &[1], 3)).is_ok());
    let detail = "gamma is 0, allowed: 0 to 0, what the context of 24 holds";
    refused(draft.plan(&propose(25, &[1; 5], 0)), Reason::Context, 20, detail);
}

/// The rules never plan what a forward would refuse: more than the cache holds, or beyond the context.
#[test]
fn no_sequence_of_messages_leads_beyond_the_cache() {
    let mut random = 1_u64;
    let mut below = |n: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % n
    };
    for _ in 0..2000 {
        let mut draft = drafting(&[1, 2, 3], 1 + below(30));
        let mut cached = 3;
        let mut chosen: Vec<TokenId> = Vec::new();
        for _ in 0..12 {
            let accepted = below(chosen.len() + 1);
            let mut tokens = chosen[..accepted].to_vec();
            tokens.push(50 + below(3) as TokenId);
            let message = propose(draft.base_len() + tokens.len() + below(8) / 7, &tokens, below(8));
            let Ok(plan) = draft.plan(&message) else { continue };
            let gamma = message.gamma;
            assert!(plan.keep <= cached, "{} of {cached} positions", plan.keep);
            assert!(!plan.tokens.is_empty());
            assert_eq!(plan.keep + plan.tokens.len(), message.base_len);
            cached = message.base_len + gamma.saturating_sub(1);
            assert!(cached <= CONTEXT);
            chosen = (0..gamma).map(|_| 50 + below(3) as TokenId).collect();
            draft.advance(message, &chosen);
        }
    }
}

#[test]
fn open_is_checked_field_by_field() {
    let model = description();
    let check = |open: Open| open.validate(&model, &LIMITS).map_err(|error| error.to_string());
    let good = open(&[1, 2, 3], 12);
    assert_eq!(check(good.clone()), Ok(()));
    let wrong = |change: fn(&mut Open), words: &str| {
        let mut open = good.clone();
        change(&mut open);
        assert_eq!(check(open), Err(words.to_owned()));
    };
    wrong(|open| open.tokens.clear(), "tokens (length of the prompt) is 0, allowed: 1 to 16");
    wrong(|open| open.tokens = vec![1; 17], "tokens (length of the prompt) is 17, allowed: 1 to 16");
    wrong(|open| open.tokens[2] = 100, "tokens (id) is 100, allowed: 0 to 99");
    wrong(|open| open.prompt_len = 0, "prompt_len is 0, allowed: 1 to 3");
    wrong(|open| open.prompt_len = 4, "prompt_len is 4, allowed: 1 to 3");
    wrong(|open| open.max_tokens = 0, "max_tokens is 0, allowed: 1 to 12");
    wrong(|open| open.max_tokens = 13, "max_tokens is 13, allowed: 1 to 12");
    wrong(|open| open.sampling.top_p = f64::NAN, "top_p is NaN, allowed: above 0, up to 1");

    let roomy = Limits { max_prompt_tokens: 1000, ..LIMITS };
    let full = open(&[1; CONTEXT], 1).validate(&model, &roomy).unwrap_err().to_string();
    assert_eq!(full, "tokens (length of the prompt) is 24, allowed: 1 to 23", "a full context leaves no room");
}
