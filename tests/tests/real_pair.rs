//! The oracle on real, quantised models: Qwen2.5-Coder 0.5B and 1.5B, where `OUTRIDER_MODELS` is the folder that has them.

use std::{env, path::PathBuf, time::Duration};

use coordinator::{
    Access, Deadlines, Pair, Request, StopReason,
    embedded::{Embedded, Models},
    generate,
    text::encode,
};
use model::Source;
use speculative::Sampling;
use telemetry::Tracer;

const DRAFT: &str = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf";
const TARGET: &str = "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf";

/// Code and prose, of one token and of many, in several languages and scripts.
const PROMPTS: [&str; 20] = [
    "def quicksort(arr):\n",
    "fn main() {\n    let mut map = HashMap::new();\n",
    "// Returns the n-th Fibonacci number.\nfunction fibonacci(n) {\n",
    "SELECT name, COUNT(*) FROM orders WHERE",
    "#include <stdio.h>\n\nint main(void) {\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n",
    "import numpy as np\n\ndef softmax(x):\n",
    "package main\n\nimport \"fmt\"\n\nfunc main() {\n",
    "public class Main {\n    public static void main(String[] args) {\n",
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "1, 1, 2, 3, 5, 8, 13,",
    "<html>\n<head>\n<title>",
    "{\"name\": \"Ada\", \"languages\": [",
    "try:\n    value = int(input())\nexcept",
    "大家好，今天我们来学习",
    "Größe und Gewicht: ",
    "🦀 Rust is",
    "README\n======\n\n## Installation\n\n",
    "a",
];

fn pair_of_files() -> Option<Models> {
    let folder = PathBuf::from(env::var_os("OUTRIDER_MODELS")?);
    let [draft, target] = [DRAFT, TARGET].map(|file| Source::File(folder.join(file)));
    Some(Models { draft: Some(draft), target, ..Models::default() })
}

async fn tokens(pair: &Pair, prompt: &str, sampling: Sampling, gamma: usize, max_tokens: usize) -> (Vec<u32>, f64) {
    let prompt = encode(&pair.tokenizer, prompt).expect("the prompt is encoded");
    let request = Request { max_tokens, gamma: gamma.into(), ..Request::new(prompt, sampling) };
    let deadlines = Deadlines { draft: Duration::from_secs(60), draft_adapts: false, target: Duration::from_secs(60) };
    let tracer = Tracer::off();
    let run = generate(pair, request, deadlines, &tracer, |_| {}, std::future::pending()).await;
    let run = run.expect("the pair generates");
    assert_ne!(run.stop_reason, StopReason::Cancelled);
    (run.token_ids, run.acceptance.acceptance_rate().unwrap_or(0.0))
}

/// Every prompt at every γ from 1 to 16 in turn (each prompt has some of them), greedy and sampled.
#[tokio::test]
async fn a_quantised_pair_writes_what_its_target_writes_alone() {
    let Some(models) = pair_of_files() else {
        println!("skipped: OUTRIDER_MODELS names no folder with {DRAFT} and {TARGET}");
        return;
    };
    let embedded = Embedded::start(models, None, None).await.expect("the pair starts");
    let pair =
        Pair::connect(embedded.draft_url(), embedded.target_url(), &Access::default()).await.expect("the pair fits");
    let max_tokens: usize = env::var("OUTRIDER_TOKENS").map_or(48, |text| text.parse().expect("a number"));
    for (number, prompt) in PROMPTS.iter().enumerate() {
        let sampled = Sampling { temperature: 0.8, top_p: 0.95, seed: number as u64, ..Sampling::greedy() };
        for (turn, sampling) in [Sampling::greedy(), sampled].into_iter().enumerate() {
            let (alone, _) = tokens(&pair, prompt, sampling, 0, max_tokens).await;
            for gamma in [(2 * number + turn) % 16 + 1, (2 * number + turn + 7) % 16 + 1] {
                let (speculative, rate) = tokens(&pair, prompt, sampling, gamma, max_tokens).await;
                assert_eq!(speculative, alone, "prompt {number}, γ {gamma}, {sampling:?}");
                println!("prompt {number:2}, γ {gamma:2}, temperature {}: rate {rate:.2}", sampling.temperature);
            }
        }
    }
    drop(pair);
    embedded.stop().await;
}
