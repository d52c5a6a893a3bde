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

# Forward passes beside this machine's roof; MODEL=x.gguf adds one more model
bench-forward:
    cargo bench -p model --bench forward

# Matmuls of every format beside this machine's roof
bench-kernels:
    cargo bench -p model --bench kernels

# Files with anything in them, for five minutes
mutate:
    MUTATE_SECONDS=60 MUTATE_SEED=$RANDOM cargo test -p model --lib mutated -- --nocapture --test-threads 1

# The oracle on the real pair: OUTRIDER_MODELS=DIR just real-pair
real-pair:
    cargo test --release -p outrider-tests --test real_pair -- --nocapture

# Beside llama.cpp: LLAMA_SERVER=path TARGET=x.gguf DRAFT=y.gguf just peer
peer *ARGS:
    cargo build --release --bins
    python3 tests/peer.py {{ARGS}}

# One of the guide's studies on pinned processes: distance, grown, gamma or device
study NAME *DIR:
    docs/studies/run.sh {{NAME}} {{DIR}}

# Emulated distance beside a proxy between network namespaces; needs root
distance *ARGS:
    cargo build --release --bins
    tests/distance.py {{ARGS}}

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
