//! What a cycle's messages cost to write and to read: `cargo bench -p proto --bench messages`.

use divan::{Bencher, black_box};
use prost::Message;
use proto::v1::{Cost, Proposal, Propose, TokenLogprobs, Verdict, Verify};

fn main() {
    divan::main();
}

/// Both messages and both answers of a cycle of so many proposed tokens, each written once and read once.
#[divan::bench(args = [0, 4, 32])]
fn a_cycle(bencher: Bencher<'_, '_>, gamma: usize) {
    cycle(bencher, gamma, 0);
}

/// The same with the 20 likeliest tokens of each position.
#[divan::bench(args = [4, 32])]
fn a_cycle_with_logprobs(bencher: Bencher<'_, '_>, gamma: usize) {
    cycle(bencher, gamma, 20);
}

fn cycle(bencher: Bencher<'_, '_>, gamma: usize, top_logprobs: usize) {
    let tokens = vec![120_000; gamma + 1];
    let proposed = tokens[..gamma].to_vec();
    let ns = 3_000_000;
    let cost = Cost {
        queue_ns: ns,
        forward_ns: ns,
        select_ns: ns,
        server_ns: ns,
        rows: gamma as u32 + 1,
        batch_rows: gamma as u32 + 1,
        flops: 100_000_000_000,
        bytes: 16_000_000_000,
        cached: 0,
        behind_rows: 0,
    };
    let propose =
        Propose { cycle: 40, base_len: 3000, tokens: tokens.clone(), gamma: gamma as u32, ..Propose::default() };
    let proposal = Proposal {
        cycle: 40,
        base_len: 3000,
        tokens: proposed.clone(),
        confidences: vec![0.5; gamma],
        cost: Some(cost),
        ..Proposal::default()
    };
    let verify = Verify { cycle: 40, base_len: 3000, proposed, ..Verify::default() };
    let likeliest = TokenLogprobs {
        logprob: -0.5,
        top_tokens: vec![120_000; top_logprobs],
        top_logprobs: vec![-0.5; top_logprobs],
    };
    let verdict = Verdict {
        cycle: 40,
        base_len: 3000 + gamma as u32,
        accepted: gamma as u32,
        logprobs: vec![likeliest; if top_logprobs > 0 { tokens.len() } else { 0 }],
        tokens,
        cost: Some(cost),
    };
    bencher.bench_local(|| {
        let wire = (
            black_box(&propose).encode_to_vec(),
            black_box(&proposal).encode_to_vec(),
            black_box(&verify).encode_to_vec(),
            black_box(&verdict).encode_to_vec(),
        );
        (Propose::decode(&*wire.0), Proposal::decode(&*wire.1), Verify::decode(&*wire.2), Verdict::decode(&*wire.3))
    });
}
