//! A service that says of itself what a test wants, and does nothing else; and the embedded pair for tests that want one
//! that works.

use std::{sync::LazyLock, thread};

use coordinator::embedded::{Embedded, Models};
use proto::v1::{
    DescribeRequest, DescribeResponse, Limits, Role, TokenizerRequest, TokenizerResponse,
    model_service_server::{ModelService, ModelServiceServer},
};
use tokenizer::Tokenizer;
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// Where services live; it goes with the process.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

static EMBEDDED: LazyLock<Embedded> = LazyLock::new(|| {
    // A thread of its own: a test may call this from within a runtime.
    let start = || RUNTIME.block_on(Embedded::start(Models::default(), None, None)).expect("the embedded pair starts");
    thread::spawn(start).join().expect("the embedded pair starts")
});

/// The addresses of a draft and a target that work.
pub(crate) fn embedded() -> (&'static str, &'static str) {
    (EMBEDDED.draft_url().expect("a draft"), EMBEDDED.target_url())
}

/// What a service of `role` says that fits this coordinator.
pub(crate) fn description(role: Role) -> DescribeResponse {
    DescribeResponse {
        protocol_version: proto::PROTOCOL_VERSION,
        role: role.into(),
        model: "fake".to_owned(),
        tokenizer_fingerprint: Tokenizer::ascii().fingerprint().to_owned(),
        tokenizer_size: 128,
        vocab_size: 128,
        context_length: 2048,
        limits: Some(Limits {
            max_sessions: 1,
            max_prompt_tokens: 2047,
            max_output_tokens: 2048,
            max_gamma: 32,
            queue_depth: 1,
            max_message_bytes: 4 << 20,
            max_branches: 0,
            kv_bytes: 1 << 30,
            max_sessions_per_peer: 65_536,
        }),
        ..DescribeResponse::default()
    }
}

/// The address of a service of `role` whose description has been changed by `change`.
pub(crate) fn service(role: Role, change: impl FnOnce(&mut DescribeResponse)) -> String {
    let mut described = description(role);
    change(&mut described);
    RUNTIME.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound address"));
        let server = Server::builder().add_service(ModelServiceServer::new(Fake(described)));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        url
    })
}

struct Fake(DescribeResponse);

#[tonic::async_trait]
impl ModelService for Fake {
    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<DescribeResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }

    type TokenizerStream = tokio_stream::Iter<std::array::IntoIter<Result<TokenizerResponse, Status>, 2>>;

    /// The character tokenizer, in two parts, whatever the description says.
    async fn tokenizer(&self, _: Request<TokenizerRequest>) -> Result<Response<Self::TokenizerStream>, Status> {
        let document = Tokenizer::ascii().to_bytes();
        let (begin, end) = document.split_at(5);
        let parts = [begin, end].map(|part| Ok(TokenizerResponse { part: part.into() }));
        Ok(Response::new(tokio_stream::iter(parts)))
    }
}
