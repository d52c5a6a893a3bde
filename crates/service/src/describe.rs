//! `ModelService`: who a model service is, and its tokenizer.

use model::Worker;
use proto::v1::{
    self, DescribeRequest, DescribeResponse, TokenizerRequest, TokenizerResponse, model_service_server::ModelService,
};
use speculative::SyntheticAcceptance;
use tonic::{Request, Response, Status};

use crate::Host;

/// tonic's default bound on a received message, which both services keep.
const MAX_MESSAGE_BYTES: u32 = 4 << 20;

/// Bytes of the tokenizer's document in one message.
const PART_BYTES: usize = 512 << 10;

/// Describes the model of `host` in `role`, and hands out its tokenizer.
#[derive(Debug)]
pub struct Describe {
    /// The model's host.
    pub host: Host,
    /// The role that it plays.
    pub role: v1::Role,
}

fn load(worker: &Worker) -> v1::Load {
    let usage = worker.usage();
    v1::Load {
        open_sessions: worker.open_sessions() as u32,
        waiting_sessions: worker.waiting_sessions() as u32,
        kv_reserved_bytes: usage.kv_reserved_bytes,
        kv_shared_bytes: usage.kv_shared_bytes,
        kv_limit_bytes: usage.kv_limit_bytes,
        forwards: usage.forwards,
        forward_ns: usage.forward.as_nanos() as u64,
        rows: usage.rows,
        flops: usage.work.flops,
        bytes: usage.work.bytes,
        cached_tokens: usage.cached_tokens,
        uncached_tokens: usage.uncached_tokens,
    }
}

#[tonic::async_trait]
impl ModelService for Describe {
    async fn describe(&self, request: Request<DescribeRequest>) -> Result<Response<DescribeResponse>, Status> {
        let worker = self.host.worker()?;
        let roofs = worker.roofs(request.into_inner().measure_roofs).await;
        let (model, limits) = (worker.description(), worker.limits());
        Ok(Response::new(DescribeResponse {
            protocol_version: proto::PROTOCOL_VERSION,
            role: self.role.into(),
            model: model.name.clone(),
            model_fingerprint: model.fingerprint.clone(),
            tokenizer_fingerprint: model.tokenizer.fingerprint().to_owned(),
            tokenizer_size: model.tokenizer.size() as u32,
            vocab_size: model.vocab_size as u32,
            context_length: model.context as u32,
            dtype: model.dtype.to_owned(),
            device: model.device.clone(),
            parameters: model.parameters,
            weight_bytes: model.weight_bytes,
            roofs: roofs.map(|roofs| v1::Roofs {
                flops_per_s: roofs.flops_per_s,
                bytes_per_s: roofs.bytes_per_s,
                memory_bytes_per_s: roofs.memory_bytes_per_s,
            }),
            limits: Some(v1::Limits {
                max_sessions: limits.max_sessions as u32,
                max_sessions_per_peer: limits.max_sessions_per_peer as u32,
                max_prompt_tokens: limits.max_prompt_tokens.min(model.context - 1) as u32,
                max_output_tokens: limits.max_output_tokens as u32,
                max_gamma: limits.max_gamma as u32,
                queue_depth: limits.queue_depth as u32,
                max_message_bytes: MAX_MESSAGE_BYTES,
                kv_bytes: limits.kv_bytes,
                // A target drafts nothing.
                max_branches: if self.role == v1::Role::Draft { limits.max_branches as u32 } else { 0 },
            }),
            arithmetic_fingerprint: model.arithmetic.clone(),
            incarnation_id: self.host.incarnation().to_owned(),
            load: Some(load(worker)),
            tokenizer_name: model.tokenizer.name().to_owned(),
            synthetic: model.synthetic,
            synthetic_acceptance: worker.synthetic_acceptance().map(SyntheticAcceptance::rate),
            couplings: [v1::Coupling::Gumbel, v1::Coupling::Rejection].map(i32::from).to_vec(),
        }))
    }

    type TokenizerStream = tokio_stream::Iter<std::vec::IntoIter<Result<TokenizerResponse, Status>>>;

    async fn tokenizer(&self, _: Request<TokenizerRequest>) -> Result<Response<Self::TokenizerStream>, Status> {
        let document = self.host.worker()?.description().tokenizer.to_bytes();
        let parts: Vec<_> =
            document.chunks(PART_BYTES).map(|part| Ok(TokenizerResponse { part: part.into() })).collect();
        Ok(Response::new(tokio_stream::iter(parts)))
    }
}
