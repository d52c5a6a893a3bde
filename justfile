# Aliases for commands that work without `just`; each recipe prints what it runs.

# What CI runs
ci:
    .ci/run

# The README's first command
demo:
    cargo run --release --bin outrider -- generate "ROMEO:"

# The README's second command
test:
    cargo test --workspace

# AR against speculation on the embedded pair, greedy
bench:
    cargo run --release --bin outrider -- bench --temperature 0 --gamma 4,1,2,3,6,8

# Forward passes of the embedded pair against this machine's roofs
bench-forward:
    cargo bench -p model --bench forward

# Beside llama.cpp: LLAMA_SERVER=path TARGET=x.gguf DRAFT=y.gguf just peer
peer *ARGS:
    cargo build --release --bins
    python3 tests/peer.py {{ARGS}}

# Draft, target and coordinator as three processes on this machine
local:
    deploy/local.sh

# Formatting, clippy and documentation
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# The protocol's style (npm install @bufbuild/buf)
lint-proto:
    npx buf lint proto
