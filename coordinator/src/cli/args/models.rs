//! Models in this process: the embedded pair, others, and a workload's.

use clap::{Args, ValueEnum};
use model::{Device, EmbeddedModel, Source, SyntheticModel};
use speculative::SyntheticAcceptance;
use tokenizer::Tokenizer;

use crate::{Error, embedded::Models, text};

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Models in this process")]
pub(in crate::cli) struct ModelArgs {
    /// The draft: a .gguf file, a Hugging Face folder, hf:OWNER/NAME[:FILE], embedded:draft, embedded:target,
    /// synthetic:NAME[:DTYPE], or a .safetensors file with its .json beside it [default: embedded:draft]
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["draft", "target"], value_parser = service::source)]
    pub(in crate::cli) draft_model: Option<Source>,

    /// The target, likewise [default: embedded:target]
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["draft", "target"], value_parser = service::source)]
    pub(in crate::cli) target_model: Option<Source>,

    /// Where the draft computes: cpu, cuda or cuda:N, metal or metal:N, as far as they are in this build, or candle-cpu, the
    /// forward of a GPU on the CPU, to try it
    #[arg(long, value_name = "DEVICE", default_value = "cpu", conflicts_with_all = ["draft", "target"], value_parser = service::device)]
    pub(in crate::cli) draft_device: Device,

    /// Where the target computes, likewise
    #[arg(long, value_name = "DEVICE", default_value = "cpu", conflicts_with_all = ["draft", "target"], value_parser = service::device)]
    pub(in crate::cli) target_device: Device,

    /// Have the target accept each proposed token by lot with this chance, 0 to 1, whatever the models say, to study what
    /// cycles cost; the output means nothing then
    #[arg(long, value_name = "A", allow_negative_numbers = true, conflicts_with_all = ["draft", "target"], value_parser = service::synthetic_acceptance)]
    pub(in crate::cli) synthetic_acceptance: Option<SyntheticAcceptance>,
}

impl ModelArgs {
    /// What to serve; both models or neither, and the target's alone where nothing is drafted.
    ///
    /// # Errors
    /// One of two, named.
    pub(in crate::cli) fn models(&self, drafted: bool) -> Result<Models, &'static str> {
        let Self { draft_model, target_model, draft_device, target_device, synthetic_acceptance } = self.clone();
        let models = match (draft_model, target_model) {
            (None, None) => Models::default(),
            (draft, Some(target)) if !drafted || draft.is_some() => Models { draft, target, ..Models::default() },
            (Some(_), _) => return Err("--draft-model is given without --target-model, allowed: both or neither"),
            (None, Some(_)) => {
                return Err("--target-model is given without --draft-model, allowed: both or neither, or \
                            --target-model with --ar");
            }
        };
        let draft = models.draft.filter(|_| drafted);
        Ok(Models { draft, draft_device, target_device, synthetic_acceptance, ..models })
    }
}

/// A benchmark that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Workload {
    /// MLPerf EDU's speculative decoding: a NanoGPT of 11 M parameters drafts for a target of GPT-2 small's geometry
    /// (88 M, synthetic), γ 4, 64 tokens after prompts of 256, greedy, batch 1
    NanogptDecodeSpec,
}

/// Held-out text of TinyShakespeare.
const PASSAGE: &str = include_str!("passage.txt");

/// Tokens of a workload's prompt, and how far the next one begins after it: what is measured is an average over texts.
const PROMPT: usize = 256;
const STRIDE: usize = 64;

impl Workload {
    /// Its name in reports and files.
    pub(in crate::cli) fn name(self) -> &'static str {
        match self {
            Workload::NanogptDecodeSpec => "nanogpt-decode-spec",
        }
    }

    /// Its pair, where and how the flags say.
    pub(in crate::cli) fn models(self, flags: &ModelArgs) -> Models {
        let ModelArgs { draft_device, target_device, synthetic_acceptance, .. } = *flags;
        match self {
            Workload::NanogptDecodeSpec => Models {
                draft: Some(Source::Embedded(EmbeddedModel::Target)),
                target: Source::Synthetic(SyntheticModel::GrownGpt2),
                draft_device,
                target_device,
                synthetic_acceptance,
            },
        }
    }

    /// Its prompts.
    ///
    /// # Errors
    /// None: the passage is ASCII, as the workload's tokenizer is.
    pub(in crate::cli) fn prompts(self, tokenizer: &Tokenizer) -> Result<Vec<Vec<speculative::TokenId>>, Error> {
        let tokens = text::encode(tokenizer, PASSAGE)?;
        Ok(tokens.windows(PROMPT).step_by(STRIDE).map(<[_]>::to_vec).collect())
    }
}
