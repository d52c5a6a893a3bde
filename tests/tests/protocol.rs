//! The protocol's rules, by raw sessions: what is refused, what is dropped, and that a session goes on after either.

use std::time::Duration;

use model::{EmbeddedModel, Limits};
use outrider_tests::cluster::{
    Node, eventually, model, pair, request, run, sampled, spawn,
    talk::{DraftTalk, TargetTalk, channel, open},
    tokens, within, worker,
};
use proto::v1::{
    DraftSessionRequest, Open, RejectionReason, TargetSessionRequest, draft_session_request,
    target_service_client::TargetServiceClient, target_session_request,
};
use speculative::{Sampling, TokenId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

const PROMPT: &str = "ROMEO:";
const TOKENS: usize = 64;

fn sampling() -> Sampling {
    sampled(0.8, 41)
}

fn prompt() -> Vec<TokenId> {
    tokens(PROMPT)
}

fn target() -> Node {
    Node::target(worker(EmbeddedModel::Target))
}

fn draft() -> Node {
    Node::draft(worker(EmbeddedModel::Draft))
}

/// The target's own tokens after the prompt.
async fn truth(target: &Node) -> Vec<TokenId> {
    let asked = request(PROMPT, sampling(), TOKENS, 0);
    run(&pair(None, target).await, &asked).await.token_ids
}

/// A target's session that is checked, cycle by cycle, against what the target writes alone.
struct Checked {
    talk: TargetTalk,
    truth: Vec<TokenId>,
    cycle: u64,
    /// Committed tokens beyond the prompt.
    done: usize,
}

impl Checked {
    async fn open(node: &Node) -> Self {
        let truth = truth(node).await;
        let mut talk = TargetTalk::open(&channel(node), open(&prompt(), sampling(), TOKENS)).await;
        let opened = talk.opened().await;
        assert_eq!(opened.first_token, Some(truth[0]));
        assert_eq!(opened.base_len as usize, prompt().len() + 1);
        Self { talk, truth, cycle: 0, done: 1 }
    }

    fn base_len(&self) -> usize {
        prompt().len() + self.done
    }

    /// Sends a message under the next number.
    async fn bad(&mut self, base_len: usize, proposed: &[TokenId], reason: RejectionReason, words: &[&str]) {
        self.cycle += 1;
        self.talk.verify(self.cycle, base_len, proposed).await;
        self.talk.refused(reason, self.cycle, self.base_len(), words).await;
    }

    /// A cycle that proposes `right` of the target's tokens and then a wrong one.
    async fn good(&mut self, right: usize) {
        self.cycle += 1;
        let mut proposed = self.truth[self.done..][..right].to_vec();
        proposed.push((self.truth[self.done + right] + 1) % 128);
        self.talk.verify(self.cycle, self.base_len(), &proposed).await;
        let verdict = self.talk.verdict().await;
        assert_eq!(verdict.tokens, self.truth[self.done..][..right + 1]);
        self.done += right + 1;
        assert_eq!((verdict.cycle, verdict.accepted as usize), (self.cycle, right));
        assert_eq!(verdict.base_len as usize, self.base_len());
    }
}

/// Each refusal names the field, its value and what is allowed, and uses up the cycle's number; the session goes on.
#[tokio::test]
async fn a_target_refuses_what_does_not_continue_the_prefix() {
    let node = target();
    let mut session = Checked::open(&node).await;
    session.good(0).await;
    let base = session.base_len();
    for wrong in [0, base - 1, base + 1, u32::MAX as usize] {
        let (wrong_word, allowed) = (format!("is {wrong},"), format!("allowed: {}", session.base_len()));
        let words = ["base_len", &wrong_word, &allowed];
        session.bad(wrong, &[], RejectionReason::BaseLen, &words).await;
    }
    session.good(2).await;
    for wrong in [128, u32::MAX] {
        let value = wrong.to_string();
        let words = ["proposed", &value, "0 to 127"];
        session.bad(session.base_len(), &[32, wrong], RejectionReason::Token, &words).await;
        session.good(1).await;
    }
    session.bad(session.base_len(), &[32; 33], RejectionReason::Gamma, &["gamma", "33", "0 to 32"]).await;
    session.good(4).await;

    while TOKENS - session.done > 20 {
        session.good(3).await;
    }
    let wanted = TOKENS - session.done;
    let proposed = vec![32; wanted];
    let (value, allowed) = (format!("gamma is {wanted}"), format!("0 to {}", wanted - 1));
    session.bad(session.base_len(), &proposed, RejectionReason::Output, &[&value, &allowed]).await;
    session.good(wanted - 2).await;
    session.cycle += 1;
    session.talk.verify(session.cycle, session.base_len(), &[]).await;
    assert_eq!(session.talk.verdict().await.tokens, session.truth[TOKENS - 1..]);
    session.done += 1;
    session.bad(session.base_len(), &[], RejectionReason::Output, &["has all"]).await;
}

/// No answer to them, and the next answer is right.
#[tokio::test]
async fn stale_duplicate_and_reordered_messages_are_dropped() {
    let node = target();
    let mut session = Checked::open(&node).await;
    session.good(1).await;
    session.cycle = 6;
    session.good(0).await;
    let base_len = session.base_len();
    for cycle in [7, 6, 1, 0, 7] {
        session.talk.verify(cycle, base_len, &[32]).await; // it would continue the prefix
        session.talk.verify(cycle, 0, &[999; 99]).await;
    }
    session.good(2).await;
    session.talk.verify(7, session.base_len(), &[]).await;
    session.good(0).await;

    // The number of a refused message is used up as well.
    session.bad(0, &[], RejectionReason::BaseLen, &["base_len"]).await;
    session.talk.verify(session.cycle, session.base_len(), &[]).await;
    session.good(1).await;
}

/// A `Propose` (base_len, tokens, γ) with the reason and the words of its refusal.
type Bad<'a> = (usize, &'a [TokenId], usize, RejectionReason, &'a [&'a str]);

/// A draft's session disturbed by refused, stale and repeated messages proposes as an undisturbed one does.
#[tokio::test]
async fn a_draft_refuses_what_does_not_continue_the_prefix() {
    let node = draft();
    let (prompt, n) = (prompt(), prompt().len());
    let open = open(&prompt, sampling(), 20);
    let mut calm = DraftTalk::open(&channel(&node), open.clone()).await;
    let mut disturbed = DraftTalk::open(&channel(&node), open).await;
    for talk in [&mut calm, &mut disturbed] {
        let opened = talk.opened().await;
        assert_eq!((opened.base_len as usize, opened.first_token), (n, None));
    }
    let bad: [Bad<'_>; 6] = [
        (n, &[65], 4, RejectionReason::BaseLen, &["base_len is 6", "allowed: 7"]),
        (n + 2, &[65], 4, RejectionReason::BaseLen, &["base_len is 8", "allowed: 7"]),
        (n + 1, &[128], 4, RejectionReason::Token, &["tokens", "128", "0 to 127"]),
        (n + 1, &[65], 33, RejectionReason::Gamma, &["gamma is 33", "0 to 32"]),
        (n + 1, &[65], u32::MAX as usize, RejectionReason::Gamma, &["gamma is 4294967295", "0 to 32"]),
        (n + 21, &[65; 21], 4, RejectionReason::Output, &["base_len is 27", "up to 26"]),
    ];
    let mut cycle = 0;
    for (base_len, tokens, gamma, reason, words) in bad {
        cycle += 1;
        disturbed.propose(cycle, base_len, tokens, gamma).await;
        disturbed.refused(reason, cycle, n, words).await;
    }
    // Full acceptance, a rejection, and two tokens at once.
    let mut committed = vec![65];
    let mut base_len = n + 1;
    for keep in [3, 1, 0, 2] {
        cycle += 1;
        calm.propose(cycle, base_len, &committed, 3).await;
        disturbed.propose(cycle - 1, base_len, &committed, 3).await;
        disturbed.propose(cycle, base_len, &committed, 3).await;
        disturbed.propose(cycle, base_len, &committed, 3).await;
        let (expected, proposal) = (calm.proposal().await, disturbed.proposal().await);
        assert_eq!((proposal.cycle, proposal.base_len as usize, proposal.tokens.len()), (cycle, base_len, 3));
        assert_eq!(proposal.tokens, expected.tokens);
        assert_eq!(proposal.confidences, expected.confidences);
        assert!(proposal.confidences.iter().all(|&confidence| (0.0..=1.0).contains(&confidence)));
        committed = proposal.tokens[..keep].to_vec();
        committed.push(32);
        base_len += committed.len();
    }
}

/// A window may fill the context and no more.
#[tokio::test]
async fn gamma_is_bounded_by_the_context() {
    let (target, draft) = (target(), draft());
    let context = worker(EmbeddedModel::Target).description().context;
    let long = vec![101; context - 3];
    let mut session = TargetTalk::open(&channel(&target), open(&long, sampling(), 100)).await;
    let first = session.opened().await.first_token.unwrap();
    session.verify(1, context - 2, &[32; 3]).await;
    let words = ["gamma is 3", "0 to 2", "2048"];
    session.refused(RejectionReason::Context, 1, context - 2, &words).await;
    session.verify(2, context - 2, &[]).await;
    let second = session.verdict().await.tokens[0];
    session.verify(3, context - 1, &[32]).await;
    session.refused(RejectionReason::Output, 3, context - 1, &["gamma is 1", "0 to 0"]).await;
    session.verify(4, context - 1, &[]).await;
    assert_eq!(session.verdict().await.base_len as usize, context, "full");
    session.verify(5, context, &[]).await;
    session.refused(RejectionReason::Output, 5, context, &["2048"]).await;

    let mut session = DraftTalk::open(&channel(&draft), open(&long, sampling(), 100)).await;
    session.opened().await;
    session.propose(1, context - 1, &[first, second], 2).await;
    session.refused(RejectionReason::Context, 1, context - 3, &["gamma is 2", "0 to 1"]).await;
    session.propose(2, context - 1, &[first, second], 1).await;
    assert_eq!(session.proposal().await.tokens.len(), 1);
}

type Change = fn(&mut Open);

/// What `Open` may not say, with the words that the error has to hold.
const BAD_OPENS: [(Change, &[&str]); 15] = [
    (|open| open.tokens.clear(), &["tokens", "is 0", "1 to 100"]),
    (|open| open.tokens = vec![32; 101], &["tokens", "is 101", "1 to 100"]),
    (|open| open.tokens[0] = 128, &["tokens", "128", "0 to 127"]),
    (|open| open.prompt_len = 0, &["prompt_len", "is 0", "1 to 6"]),
    (|open| open.prompt_len = 7, &["prompt_len", "is 7", "1 to 6"]),
    (|open| open.max_tokens = 0, &["max_tokens", "is 0", "1 to 50"]),
    (|open| open.max_tokens = 51, &["max_tokens", "is 51", "1 to 50"]),
    (|open| open.sampling.as_mut().unwrap().temperature = -1.0, &["temperature", "-1", "0 to 100"]),
    (|open| open.sampling.as_mut().unwrap().temperature = f64::NAN, &["temperature", "NaN"]),
    (|open| open.sampling.as_mut().unwrap().temperature = 100.5, &["temperature", "100.5", "0 to 100"]),
    (|open| open.sampling.as_mut().unwrap().top_p = Some(0.0), &["top_p", "is 0", "above 0"]),
    (|open| open.sampling.as_mut().unwrap().top_p = Some(1.5), &["top_p", "1.5", "up to 1"]),
    (|open| open.sampling.as_mut().unwrap().min_p = -0.5, &["min_p", "-0.5", "0 to 1"]),
    (|open| open.sampling.as_mut().unwrap().min_p = 2.0, &["min_p", "is 2", "0 to 1"]),
    (|open| open.sampling = None, &["sampling"]),
];

/// The stream ends with INVALID_ARGUMENT, on both services, and holds no session.
#[tokio::test]
async fn a_bad_open_names_the_field_and_what_is_allowed() {
    let limits = Limits { max_prompt_tokens: 100, max_output_tokens: 50, ..Limits::default() };
    let workers = [EmbeddedModel::Target, EmbeddedModel::Draft].map(|which| spawn(model(which), limits));
    let (target, draft) = (Node::target(workers[0].clone()), Node::draft(workers[1].clone()));
    let (to_target, to_draft) = (channel(&target), channel(&draft));
    for (change, words) in BAD_OPENS {
        let mut open = open(&prompt(), sampling(), 50);
        change(&mut open);
        let from_target = TargetTalk::open(&to_target, open.clone()).await.status().await;
        let from_draft = DraftTalk::open(&to_draft, open).await.status().await;
        for status in [from_target, from_draft] {
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            for word in words {
                assert!(status.message().contains(word), "{word} in {:?}", status.message());
            }
        }
    }
    let free = || workers.iter().all(|worker| worker.open_sessions() == 0);
    eventually("no session is left", free).await;

    let context = worker(EmbeddedModel::Target).description().context;
    let node = self::target();
    let over = open(&vec![32; context], sampling(), 50);
    let status = TargetTalk::open(&channel(&node), over).await.status().await;
    assert!(status.message().contains("2048") && status.message().contains("2047"), "{status}");
}

/// Anything but `Open` at first, and `Open` at any later time, is fatal; a message of an unknown kind later is not.
#[tokio::test]
async fn a_session_opens_once_and_first() {
    let (target, draft) = (target(), draft());
    let (to_target, to_draft) = (channel(&target), channel(&draft));
    let open = open(&prompt(), sampling(), TOKENS);

    let mut early = TargetTalk::connect(&to_target).await;
    early.verify(1, 1, &[]).await;
    let mut empty = TargetTalk::connect(&to_target).await;
    empty.send(TargetSessionRequest::default()).await;
    let mut twice = Checked::open(&target).await;
    twice.talk.send(TargetSessionRequest::default()).await;
    twice.good(1).await;
    let again = target_session_request::Message::Open(open.clone());
    twice.talk.send(TargetSessionRequest { message: Some(again) }).await;
    let statuses = [early.status().await, empty.status().await, twice.talk.status().await];

    let mut early = DraftTalk::connect(&to_draft).await;
    early.propose(1, 1, &[], 1).await;
    let mut empty = DraftTalk::connect(&to_draft).await;
    empty.send(DraftSessionRequest::default()).await;
    let mut twice = DraftTalk::open(&to_draft, open.clone()).await;
    twice.opened().await;
    let again = draft_session_request::Message::Open(open);
    twice.send(DraftSessionRequest { message: Some(again) }).await;
    for status in statuses.into_iter().chain([early.status().await, empty.status().await, twice.status().await]) {
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("open"), "{status}");
    }
}

/// Where they do not: a call whose `Open` comes later would wait for headers that wait for `Open`.
#[tokio::test]
async fn headers_come_before_open_is_sent() {
    let node = target();
    let (requests, outgoing) = mpsc::channel(1);
    let mut client = TargetServiceClient::new(channel(&node));
    let call = client.target_session(ReceiverStream::new(outgoing));
    let mut answers = within(Duration::from_secs(5), call).await.expect("headers").into_inner();
    drop(requests);
    assert!(matches!(answers.message().await, Ok(None)), "no session was asked for, and none failed");
}
